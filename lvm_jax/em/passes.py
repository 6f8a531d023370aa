"""One pass over a source for R mixtures: sums in the dtype of the rows, merged in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from lvm_jax.em import checkpoint, chunks, starts
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily, Settings
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.grouped import expected_pass
from lvm_jax.em.mixture import rows_per_chunk
from lvm_jax.em.sources import Source
from lvm_jax.em.statistics import (
    Data,
    Evaluation,
    MixtureParameters,
    evaluate,
    exact_pass,
    fast_pass,
)
from lvm_jax.em.survey import Survey, survey
from lvm_jax.typing import Array, ArrayLike, Bool, Float


class Rows(Protocol):
    """The data of a fit, over which each step makes one pass."""

    num_rows: int

    def sums(
        self, parameters: MixtureParameters, exact: bool, total: Any, first: int, on_chunk: Any
    ) -> Any:
        """`total` and the summaries and log-likelihoods of R mixtures from row `first` on."""

    def evaluate(self, parameters: MixtureParameters) -> Evaluation:
        """`Evaluation` of one mixture."""


class Pass:
    """The sums of one pass over a source for R mixtures relative to an origin."""

    def __init__(
        self, family: ExponentialFamily, origin: np.ndarray, source: Source, num_rows: int | None
    ) -> None:
        self.family, self.origin = family, origin
        self.rows, self.dtype = chunks.rows_of(source, num_rows), origin.dtype
        self.centres = source.dtype != origin.dtype  # float64 rows are centred before rounding

    def prepare(self, chunk: chunks.Chunk) -> Data:
        """The chunk in the dtype of the mixture, and its shift."""
        x, shift, size = chunk.x, self.origin, np.int32(chunk.size)
        if self.centres:
            x = (x - self.origin.astype(np.float64)).astype(self.dtype)
            shift = np.zeros_like(self.origin)
        weight = None if chunk.weight is None else chunk.weight.astype(self.dtype)
        leaves: Any = (x, weight, shift, size)
        return Data(*leaves)

    def add(self, total: Any, parameters: MixtureParameters, data: Data, exact: bool) -> Any:
        """`total` and the summaries and log-likelihoods of a chunk, in float64."""
        columns = parameters.log_weights.size
        rows = rows_per_chunk(self.family, columns, data)
        part = widen(chunk_sums(self.family, rows, exact, parameters, data))
        if total is None:
            return part
        with wide():
            return jax.tree.map(np.asarray, add(self.family, total, part))

    def evaluate_chunk(self, parameters: MixtureParameters, data: Data) -> np.ndarray:
        """The numbers of `Evaluation` of one mixture on a chunk."""
        rows = rows_per_chunk(self.family, parameters.log_weights.size, data)
        return widen(_evaluate(self.family, rows, parameters, data))


class Streams:
    """A source and its weights, before the origin is known."""

    writes = True  # checkpoints

    def __init__(self, source: Source, sample_weight: ArrayLike | None) -> None:
        self.source, self.sample_weight = source, sample_weight
        self.dim, self.dtype = source.dim, source.dtype
        self.layout = {"rows": source.num_rows, "chunk_rows": chunks.rows_of(source)}

    def measure(self, key: jax.Array, family: ExponentialFamily, before: Survey | None) -> Survey:
        """The survey: of a checkpoint, whose checksums each pass compares, or of a first pass."""
        if before is not None:
            return before
        return survey(key, self.source, family, self.sample_weight)

    def rows(self, family: ExponentialFamily, origin: np.ndarray, seen: Survey) -> "Streamed":
        """The data of the passes."""
        return Streamed(family, origin, self.source, seen, self.sample_weight)

    def read_checkpoint(self, path: Path | None) -> bytes:
        """The content of the checkpoint."""
        return checkpoint.read(path)

    def agreed(self, value: Any) -> Any:
        """The value of the first process: the only one."""
        return value


class Streamed(Pass):
    """`Rows` of a source."""

    def __init__(
        self,
        family: ExponentialFamily,
        origin: np.ndarray,
        source: Source,
        seen: Survey,
        sample_weight: ArrayLike | None,
    ) -> None:
        super().__init__(family, origin, source, seen.num_rows)
        self.source, self.seen, self.sample_weight = source, seen, sample_weight
        self.num_rows = seen.num_rows

    def sums(
        self, parameters: MixtureParameters, exact: bool, total: Any, first: int, on_chunk: Any
    ) -> Any:
        """One pass, or the rest of one; on_chunk(total, first) is called after each chunk."""
        for data, first in self._chunks(first):  # noqa: B020 - the end of one is the next's first
            total = self.add(total, parameters, data, exact)
            on_chunk(total, first)
        return total

    def evaluate(self, parameters: MixtureParameters) -> Evaluation:
        """A pass for one mixture."""
        total = np.zeros(3)
        for data, _ in self._chunks(0):
            total += self.evaluate_chunk(parameters, data)
        return Evaluation(*total)

    def _chunks(self, first: int) -> Any:
        """Pairs of a chunk's data and the number of the row after it."""
        end = first
        for chunk in chunks.read(
            self.source, self.rows, self.sample_weight, first, self._prepare_known
        ):
            yield chunk
            end = chunk[1]
        if end != self.num_rows:
            raise ValueError(
                f"x: expected {self.num_rows:,} rows in {self.source.name} as in the first pass, "
                f"got {end:,}"
            )

    def _prepare_known(self, chunk: chunks.Chunk) -> tuple[Data, int]:
        index, end = chunk.first // self.rows, chunk.first + chunk.size
        if index >= len(self.seen.marks) or chunk.mark != self.seen.marks[index]:
            raise ValueError(
                f"x: expected the same rows in every pass, but {self.source.place(chunk.first)} or "
                f"one of the {chunk.size - 1:,} rows after it changed"
            )
        return self.prepare(chunk), end


@contextmanager
def wide() -> Iterator[None]:
    """float64 on the CPU, whatever JAX's settings are."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        cpu = jax.local_devices()[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        yield


def widen(tree: Any) -> Any:
    """The same numbers as NumPy arrays of float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def narrow(parameters: MixtureParameters, dtype: Any) -> MixtureParameters:
    """Parameters in `dtype`; the means of Gaussians keep their rounding error as the remainder."""

    def one(part: Any) -> Any:
        if not isinstance(part, Gaussians) or part.remainder is None or dtype == np.float64:
            return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), part)
        means = np.asarray(part.deviations, np.float64) + np.asarray(part.remainder, np.float64)
        high = means.astype(dtype)
        pair: Any = high, np.asarray(part.scale, dtype), (means - high).astype(dtype)
        return Gaussians(*pair)

    return jax.tree.map(one, parameters, is_leaf=lambda part: isinstance(part, Gaussians))


@over_data(0)
def add(family: ExponentialFamily, a: Any, b: Any) -> Any:
    """Merged summaries and added log-likelihoods of R mixtures."""
    return jax.vmap(family.merge)(a[0], b[0]), a[1] + b[1]


@over_data(0, 1, 2)
def chunk_sums(
    family: ExponentialFamily, rows: int, exact: bool, parameters: MixtureParameters, data: Data
) -> tuple[Any, Float[Array, " R"]]:
    """Summaries and log-likelihoods of R mixtures on one chunk."""
    slow = exact_pass if family.has_fast_path else expected_pass
    return (slow if exact else fast_pass)(family, parameters, data, rows)


@over_data(0)
def safe(family: ExponentialFamily, parameters: MixtureParameters) -> Bool[Array, " R"]:
    """Whether the fast path is precise enough for each of R mixtures."""
    if not (family.has_exact_path and family.has_fast_path):
        return jax.numpy.full(parameters.log_weights.shape[0], family.has_fast_path)
    return jax.vmap(family.is_safe)(parameters.components)


@over_data(0)
def m_step(
    family: ExponentialFamily, summary: Any, previous: MixtureParameters, settings: Settings
) -> MixtureParameters:
    """The M-step of R mixtures."""
    return jax.vmap(lambda s, p: starts.maximize(family, s, p, settings))(
        summary, previous.components
    )


@over_data(0, 1)
def _evaluate(
    family: ExponentialFamily, rows: int, parameters: MixtureParameters, data: Data
) -> Any:
    """`Evaluation` of one chunk as one array."""
    return jax.numpy.stack(evaluate(family, parameters, data, rows)[0])
