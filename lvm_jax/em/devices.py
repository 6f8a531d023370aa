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
from lvm_jax.em import checkpoint, chunks
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.grouped import expected_pass
from lvm_jax.em.mixture import rows_per_chunk
from lvm_jax.em.passes import add, wide, widen
from lvm_jax.em.sources import Source, float_dtype
from lvm_jax.em.statistics import (
    Data,
    Evaluation,
    MixtureParameters,
    evaluate,
    exact_pass,
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
        self.dim, self.dtype = self.x.shape[-1], float_dtype(self.x.dtype, "x")
        self.writes = parallel.writes(mesh)

    def measure(self, key: jax.Array, family: ExponentialFamily, before: Survey | None) -> Survey:
        """The survey of the rows of all processes."""
        self._check(family)
        x, weight, mesh = self.x, self.weight, self.mesh
        counts = parallel.from_every_process(mesh, np.int64(len(x)))
        first = int(counts[: jax.process_index()].sum()) if len(counts) > 1 else 0
        live = np.ones(len(x)) if weight is None else weight
        sums = sum(live[start : start + len(rows)] @ rows for start, rows in checks.blocks(x))
        own = np.stack([sums, x.min(0), x.max(0), np.full(self.dim, live.sum())])
        found = parallel.from_every_process(mesh, own.astype(np.float64))
        number, total = int(counts.sum()), float(found[:, 3, 0].sum())
        parts = found[:, 0].sum(0) / total, found[:, 1].min(0), found[:, 2].max(0)
        if before is not None:
            self._compare(number, parts, before)
        size = min(sample_size(self.dim, x.dtype.itemsize), number)
        drawn = priorities(chunks.seed_of(key) + jax.process_index(), 0, len(x))
        sample = Sample(first + np.arange(len(x)), drawn, x, weight).smallest(size)
        return Survey(number, total, *parts, np.zeros(0), gathered(sample, size, mesh))

    def _check(self, family: ExponentialFamily) -> None:
        """Refuse invalid rows in every process: the others would wait for ever."""
        problem: Exception | None = None
        try:
            self.x = np.asarray(checks.points(self.x, "x")).astype(self.dtype, copy=False)
            family.check(self.x)
            if self.weight is not None:
                self.weight = checks.weights(self.weight, len(self.x)).astype(np.float64)
        except (TypeError, ValueError) as error:
            problem = error
        state = np.array([problem is not None, self.dim, self.weight is not None])
        found = parallel.from_every_process(self.mesh, state.astype(np.int64))
        if found[:, 0].any():
            raise problem or ValueError(f"x: process {found[:, 0].argmax()} refused its rows")
        if (found != found[0]).any():
            raise ValueError(
                f"x: expected rows of one width in all processes, with weights in all or in none, "
                f"got widths {found[:, 1].tolist()} and weights {found[:, 2].tolist()}"
            )

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
        self.family, self.mesh, self.num_rows = family, mesh, num_rows
        dtype, shift = origin.dtype, origin
        if x.dtype != dtype:  # float64 rows are centred before they are rounded
            x, shift = (x - origin.astype(np.float64)).astype(dtype), np.zeros_like(origin)
        local = mesh.size // parallel.num_processes(mesh)
        most = int(parallel.from_every_process(mesh, np.int64(len(x))).max())
        size = -(-most // local) * local
        live = np.ones(len(x), dtype) if weight is None else weight.astype(dtype)
        live = np.concatenate([live, np.zeros(size - len(x), dtype)])
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
            run = exact_pass if family.has_fast_path else expected_pass
            return jax.lax.all_gather(run(family, parameters, data, rows), DATA)
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
