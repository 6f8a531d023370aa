"""EM with the rows on the devices of a mesh, of one process or of several.

Each device sums its rows; one all-reduce adds the sums (the exact path gathers summaries, which
merge in the order of the devices). All processes then compute the same M-step.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from lvm_jax import parallel
from lvm_jax._core import checks
from lvm_jax.em import checkpoint, chunks, incomplete
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.grouped import centred_pass
from lvm_jax.em.mixture import rows_per_chunk
from lvm_jax.em.passes import add, wide, widen
from lvm_jax.em.sources import Source, float_dtype
from lvm_jax.em.statistics import (
    Data,
    Evaluation,
    MixtureParameters,
    evaluate,
    fast_pass,
)
from lvm_jax.em.survey import Sample, Survey, join, priorities, sample_size
from lvm_jax.parallel import DATA
from lvm_jax.typing import ArrayLike

ROWS, COPY = PartitionSpec(DATA), PartitionSpec()


class OnMesh:
    """The rows of this process and their weights, before the origin is known."""

    layout: ClassVar[dict[str, Any]] = {}  # a fit may resume on other devices

    def __init__(self, x: Any, sample_weight: ArrayLike | None, mesh: Mesh) -> None:
        if not isinstance(mesh, Mesh) or mesh.axis_names != (DATA,):
            kind = type(mesh).__name__
            raise TypeError(f"mesh: expected a mesh of lvm_jax.parallel.data_mesh, got {kind}")
        if isinstance(x, Source):
            raise TypeError(
                f"x: expected an array with the rows of this process for mesh, got {x.name}; "
                "without mesh it streams"
            )
        self.mesh, self.x = mesh, np.asarray(checks.real_array(x, "x"))
        self.weight = None if sample_weight is None else np.asarray(sample_weight)
        self.missing = False
        self.dim, self.dtype = self.x.shape[-1], float_dtype(self.x.dtype, "x")
        self.writes = parallel.writes(mesh)

    def measure(self, key: jax.Array, family: ExponentialFamily, before: Survey | None) -> Survey:
        """The survey of the rows of all processes."""
        self._check(family)
        x, weight, mesh = self.x, self.weight, self.mesh
        counts = parallel.from_every_process(mesh, np.int64(len(x)))
        first = int(counts[: jax.process_index()].sum()) if len(counts) > 1 else 0
        found = parallel.from_every_process(mesh, self._totals())
        number, total, observed = int(counts.sum()), float(found[:, 0, 0].sum()), found[:, 1].sum(0)
        incomplete.refuse_columns(np.flatnonzero(observed == 0).tolist(), "x")
        parts = found[:, 2].sum(0) / observed, found[:, 3].min(0), found[:, 4].max(0)
        if before is not None:
            self._compare(number, parts, before)
        size = min(sample_size(self.dim, x.dtype.itemsize), number)
        drawn = priorities(chunks.seed_of(key) + jax.process_index(), 0, len(x))
        sample = Sample(first + np.arange(len(x)), drawn, x, weight).smallest(size)
        sample = gathered(sample, size, mesh)
        return Survey(number, total, *parts, np.zeros(0), self.missing, sample)

    def _totals(self) -> np.ndarray:
        """The weight of the rows, and of each column's entries; their sum, minimum and maximum."""
        live = np.ones(len(self.x)) if self.weight is None else self.weight
        total = np.full(self.dim, live.sum())
        counts, sums = total if not self.missing else np.zeros(self.dim), np.zeros(self.dim)
        for start, rows in checks.blocks(self.x):
            weight = live[start : start + len(rows)]
            if self.missing:
                counts += weight @ ~np.isnan(rows)
            sums += weight @ (np.nan_to_num(rows) if self.missing else rows)
        low = np.fmin.reduce(self.x, initial=np.inf)
        high = np.fmax.reduce(self.x, initial=-np.inf)
        return np.stack([total, counts, sums, low, high]).astype(np.float64)

    def _check(self, family: ExponentialFamily) -> None:
        """Refuse invalid rows in every process: the others would wait for ever."""
        problem, missing = None, False
        try:
            x, missing = incomplete.read_rows(self.x, family)
            self.x = x.astype(self.dtype, copy=False)
            if self.weight is not None:
                self.weight = checks.weights(self.weight, len(self.x)).astype(np.float64)
        except (TypeError, ValueError) as error:
            problem = error
        state = np.array([problem is not None, self.dim, self.weight is not None, missing])
        found = parallel.from_every_process(self.mesh, state.astype(np.int64))
        if found[:, 0].any():
            raise problem or ValueError(f"x: process {found[:, 0].argmax()} refused its rows")
        if (found[:, :3] != found[0, :3]).any():
            raise ValueError(
                f"x: expected rows of one width in all processes, with weights in all or in none, "
                f"got widths {found[:, 1].tolist()} and weights {found[:, 2].tolist()}"
            )

        self.missing = bool(found[:, 3].any())
        if self.missing:
            given = np.ones(len(self.x)) if self.weight is None else self.weight
            self.weight = incomplete.drop_empty(self.x, given)

    def _compare(self, number: int, parts: tuple[np.ndarray, ...], before: Survey) -> None:
        same = [np.allclose(a, b, rtol=1e-9) for a, b in zip(parts, before[2:5], strict=True)]
        if number != before.num_rows or not all(same):
            raise ValueError(
                f"checkpoint: expected the rows of the fit that it is of, {before.num_rows:,} rows "
                f"of mean {before.mean}, got {number:,} of mean {parts[0]}"
            )

    def rows(self, family: ExponentialFamily, origin: np.ndarray, seen: Survey) -> "Resident":
        """The data on the devices."""
        return Resident(family, origin, self.x, self.weight, self.mesh, seen.num_rows)

    def read_checkpoint(self, path: Path | None) -> bytes:
        """The content of the checkpoint that process 0 sees."""
        content = np.frombuffer(checkpoint.read(path) if self.writes else b"", np.uint8)
        size = int(parallel.from_every_process(self.mesh, np.int64(len(content)))[0])
        if not size:
            return b""
        sent = content if len(content) == size else np.zeros(size, np.uint8)
        return parallel.from_every_process(self.mesh, sent)[0].tobytes()

    def agreed(self, value: Any) -> Any:
        """The arrays of process 0, which rounding on other hosts may change."""
        return jax.tree.map(lambda leaf: parallel.from_every_process(self.mesh, leaf)[0], value)


def gathered(own: Sample, size: int, mesh: Mesh) -> Sample:
    """The sample of all processes: of each its smallest priorities, and of these the smallest."""
    short = size - len(own.numbers)

    def gather(part: np.ndarray) -> list[np.ndarray]:
        padded = np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)])
        return list(parallel.from_every_process(mesh, padded))

    counts = parallel.from_every_process(mesh, np.int64(len(own.numbers)))
    parts = [None if part is None else gather(part) for part in own]
    joined: Sample | None = None
    for index, count in enumerate(counts):
        each = Sample(*(None if part is None else part[index][:count] for part in parts))  # type: ignore[arg-type]
        joined = join(joined, each, size)
    return joined  # type: ignore[return-value]


def by_pattern(
    family: ExponentialFamily, x: np.ndarray, weight: np.ndarray, mesh: Mesh
) -> tuple[ExponentialFamily, np.ndarray, np.ndarray]:
    """The rows by their missing entries, in blocks of a size that all processes share."""
    own = incomplete.block_size(incomplete.by_pattern(x)[1], x.shape[1])
    block = int(parallel.from_every_process(mesh, np.int64(own)).min())
    family, x, spread, *_ = incomplete.arrange(family.original, x, weight, block)
    return family, x, weight if spread is None else spread


class Resident:
    """`Rows` on the devices; each process gives its own."""

    def __init__(
        self,
        family: ExponentialFamily,
        origin: np.ndarray,
        x: np.ndarray,
        weight: np.ndarray | None,
        mesh: Mesh,
        num_rows: int,
    ) -> None:
        live = np.ones(len(x)) if weight is None else weight
        if incomplete.is_grouped(family):
            family, x, live = by_pattern(family, x, live, mesh)
        self.family, self.mesh, self.num_rows = family, mesh, num_rows
        dtype, shift = origin.dtype, origin
        if x.dtype != dtype:  # float64 rows are centred before they are rounded
            x, shift = (x - origin.astype(np.float64)).astype(dtype), np.zeros_like(origin)
        local = mesh.size // parallel.num_processes(mesh)
        most = int(parallel.from_every_process(mesh, np.int64(len(x))).max())
        unit = local * family.block
        size = -(-most // unit) * unit
        live = np.concatenate([live, np.zeros(size - len(x))]).astype(dtype)
        x = np.concatenate([x, np.broadcast_to(x[-1:], (size - len(x), x.shape[1]))])
        rows, weights = parallel.rows_to_global(mesh, (x, live))
        self.data = Data(rows, weights, parallel.replicate(mesh, shift))
        one: Any = (jax.ShapeDtypeStruct((size // local, x.shape[1]), dtype), None, shift)
        self.on_one = Data(*one)

    def sums(
        self, parameters: MixtureParameters, exact: bool, total: Any, first: int, on_chunk: Any
    ) -> Any:
        """Summaries and log-likelihoods of R mixtures, in float64."""
        rows = rows_per_chunk(self.family, parameters.log_weights.size, self.on_one)
        put = parallel.replicate(self.mesh, parameters)
        found = widen(_sums(self.family, rows, exact, self.mesh, put, self.data))
        if not exact:
            return found
        merged = jax.tree.map(lambda leaf: leaf[0], found)
        with wide():
            for device in range(1, self.mesh.size):
                part = jax.tree.map(lambda leaf, d=device: leaf[d], found)
                merged = jax.tree.map(np.asarray, add(self.family, merged, part))
        return merged

    def evaluate(self, parameters: MixtureParameters) -> Evaluation:
        """`Evaluation` of one mixture."""
        rows = rows_per_chunk(self.family, parameters.log_weights.size, self.on_one)
        put = parallel.replicate(self.mesh, parameters)
        return Evaluation(*widen(_evaluate(self.family, rows, self.mesh, put, self.data)))


def _on_each(mesh: Mesh, function: Callable[..., Any], parameters: Any, data: Data) -> Any:
    """The function on the rows of each device; its result is equal on all."""
    over = jax.shard_map(
        lambda parameters, x, weight, shift: function(parameters, Data(x, weight, shift)),
        mesh=mesh, in_specs=(COPY, ROWS, ROWS, COPY), out_specs=COPY, check_vma=False,
    )  # fmt: skip
    return over(parameters, *data[:3])


@over_data(0, 1, 2, 3)
def _sums(
    family: ExponentialFamily, rows: int, exact: bool, mesh: Mesh, parameters: MixtureParameters,
    data: Data,
) -> Any:  # fmt: skip
    def one(parameters: MixtureParameters, data: Data) -> Any:
        if exact:
            return jax.lax.all_gather(centred_pass(family, parameters, data, rows), DATA)
        return fast_pass(family, parameters, data, rows, _add_up)

    return _on_each(mesh, one, parameters, data)


@over_data(0, 1, 2)
def _evaluate(
    family: ExponentialFamily, rows: int, mesh: Mesh, parameters: MixtureParameters, data: Data
) -> Any:
    def one(parameters: MixtureParameters, data: Data) -> Any:
        return jax.lax.psum(jnp.stack(evaluate(family, parameters, data, rows)[0]), DATA)

    return _on_each(mesh, one, parameters, data)


def _add_up(sums: Any) -> Any:
    """The sums of all devices, by one all-reduce."""
    flat, unravel = ravel_pytree(sums)
    return unravel(jax.lax.psum(flat, DATA))
