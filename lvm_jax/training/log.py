"""The training log on the host: the epochs, the best parameters, and both as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax.training.checkpoint import Arrays
from lvm_jax.training.fingerprint import flatten
from lvm_jax.training.step import Terms
from lvm_jax.typing import Array, Params


class History(NamedTuple):
    """One row for each finished epoch, leaves [E]. Bounds are nats per data point."""

    step: np.ndarray  # steps made at its end
    bound: np.ndarray  # the true bound, averaged over the epoch's steps
    objective: np.ndarray  # the maximised function: the bound unless `estimate` is an objective
    validation_bound: np.ndarray  # at its end, NaN where it was not measured
    seconds: np.ndarray  # since the run began, without pauses before it was resumed


@dataclass
class TrainingLog:
    """The log of a run; a checkpoint saves all of it."""

    steps_per_epoch: int
    rows: list[tuple[float, ...]] = field(default_factory=list)  # as History, an epoch each
    open_bound: list[float] = field(default_factory=list)  # steps of the unfinished epoch
    open_objective: list[float] = field(default_factory=list)
    best: Params | None = None
    best_bound: float = -np.inf
    best_step: int = 0
    stale: int = 0  # validations since the best one

    def add(self, step: int, trace: Terms, seconds: float) -> int:
        """Add the steps of a call that began at `step`; return the number of finished epochs."""
        before = len(self.rows)
        for bound, objective in zip(trace.bound, trace.objective, strict=True):
            step += 1
            self.open_bound.append(float(bound))
            self.open_objective.append(float(objective))
            if step % self.steps_per_epoch == 0:
                means = float(np.mean(self.open_bound)), float(np.mean(self.open_objective))
                self.rows.append((step, *means, np.nan, seconds))
                self.open_bound, self.open_objective = [], []
        return len(self.rows) - before

    def validate(self, step: int, bound: float, parameters: Params) -> None:
        """Add the validation bound of the last finished epoch."""
        last = self.rows[-1]
        self.rows[-1] = (*last[:3], bound, last[4])
        self.stale += 1
        if bound > self.best_bound:
            self.best, self.best_bound, self.best_step, self.stale = parameters, bound, step, 0

    def history(self) -> History:
        """The finished epochs as arrays."""
        table = np.array(self.rows, np.float64).reshape(-1, 5)
        return History(table[:, 0].astype(np.int64), *table[:, 1:].T)

    def save(self) -> tuple[Arrays, dict[str, Any]]:
        """The log as arrays and JSON values, for `load`."""
        arrays = {f"history.{name}": v for name, v in self.history()._asdict().items()}
        arrays["open.bound"] = np.array(self.open_bound, np.float64)
        arrays["open.objective"] = np.array(self.open_objective, np.float64)
        if self.best is not None:
            arrays |= to_arrays("best", self.best)
        bound = self.best_bound if self.best is not None else None  # JSON has no infinity
        return arrays, {"best_bound": bound, "best_step": self.best_step, "stale": self.stale}

    def load(self, arrays: Arrays, facts: dict[str, Any], like: Params) -> None:
        """Replace the content by what `save` returned."""
        columns = [arrays[f"history.{name}"] for name in History._fields]
        self.rows = [tuple(row) for row in np.stack(columns, 1).tolist()]
        self.open_bound = arrays["open.bound"].tolist()
        self.open_objective = arrays["open.objective"].tolist()
        self.best_step, self.stale = facts["best_step"], facts["stale"]
        if facts["best_bound"] is not None:
            self.best, self.best_bound = from_arrays("best", like, arrays), facts["best_bound"]


def to_arrays(prefix: str, tree: Any) -> Arrays:
    """The leaves of a pytree on the host, named `prefix.` and their path."""
    return {f"{prefix}.{name}": _host(leaf) for name, leaf in flatten(tree).items()}


def from_arrays(prefix: str, like: Any, arrays: Arrays) -> Any:
    """The pytree with the structure of `like`, from the arrays of `to_arrays`.

    Raises ValueError naming the leaves that are missing, left over, or of another shape or type.
    """
    names = check_leaves(prefix, like, arrays)
    leaves = [_device(arrays[name], leaf) for name, leaf in names.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def check_leaves(prefix: str, like: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of `like` by name; ValueError where names, shapes or types of `arrays` differ."""
    names = {f"{prefix}.{name}": leaf for name, leaf in flatten(like).items()}
    found = {name for name in arrays if name.startswith(f"{prefix}.")}
    if names.keys() != found:
        raise ValueError(
            f"{prefix}: expected the leaves {sorted(names)}, got {sorted(found)}: it was "
            "saved from another structure"
        )
    for name, leaf in names.items():
        stored = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        shape, dtype = arrays[name].shape, arrays[name].dtype
        if (shape, dtype) != (stored.shape, stored.dtype):
            raise ValueError(
                f"{name}: expected {stored.dtype}{list(stored.shape)}, got {dtype}{list(shape)}"
                + ("; turn on jax_enable_x64" if dtype == np.float64 else "")
            )
    return names


def _host(leaf: Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _device(value: np.ndarray, like: Any) -> Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(value), impl=jax.random.key_impl(like))
    return jax.device_put(value)  # compiles nothing


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
