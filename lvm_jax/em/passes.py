"""One pass over a source for R mixtures: sums in the dtype of the rows, merged in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from lvm_jax.compiling import bucket, pad_rows
from lvm_jax.em import checkpoint, chunks, incomplete, starts
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily, Settings
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.grouped import centred_pass
from lvm_jax.em.mixture import Mixture, rows_per_chunk
from lvm_jax.em.sources import Source
from lvm_jax.em.statistics import (
    Data,
    Evaluation,
    MixtureParameters,
    evaluate,
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


class Part(NamedTuple):
    """The rows of a chunk in the order of their family."""

    family: ExponentialFamily
    data: Data


class Pass:
    """The sums of one pass over a source for R mixtures relative to an origin."""

    def __init__(
        self, family: ExponentialFamily, origin: np.ndarray, source: Source, num_rows: int | None
    ) -> None:
        self.family, self.origin = family, origin
        self.rows, self.dtype = chunks.rows_of(source, num_rows), origin.dtype
        self.centres = source.dtype != origin.dtype  # float64 rows are centred before rounding

    def prepare(self, chunk: chunks.Chunk) -> Part:
        """The chunk in the dtype of the mixture, and its shift.

        Rows with missing entries are sorted by their patterns, if the family needs it.
        """
        (_, size, x, weight), shift, family = chunk, self.origin, self.family
        if incomplete.is_grouped(family):
            family, x, weight, *_ = incomplete.arrange(
                family.original, x[:size], None if weight is None else weight[:size]
            )
            size = len(x)
            x, weight = pad_rows((x, weight), bucket(size))
        if self.centres:
            x = (x - self.origin.astype(np.float64)).astype(self.dtype)
            shift = np.zeros_like(self.origin)
        weight = None if weight is None else weight.astype(self.dtype)
        leaves: Any = (x, weight, shift, np.int32(size))
        return Part(family, Data(*leaves))

    def add(self, total: Any, parameters: MixtureParameters, part: Part, exact: bool) -> Any:
        """`total` and the summaries and log-likelihoods of a chunk, in float64."""
        family, data = part
        rows = rows_per_chunk(family, parameters.log_weights.size, data)
        found = widen(chunk_sums(family, rows, exact, parameters, data))
        if total is None:
            return found
        with wide():
            return jax.tree.map(np.asarray, add(self.family, total, found))

    def evaluate_chunk(self, parameters: MixtureParameters, part: Part) -> np.ndarray:
        """The numbers of `Evaluation` of one mixture on a chunk."""
        family, data = part
        rows = rows_per_chunk(family, parameters.log_weights.size, data)
        return widen(_evaluate(family, rows, parameters, data))


def passes_of(mixture: Mixture, source: Source) -> tuple[Pass, ...]:
    """The passes of a mixture over complete rows, and over rows with missing entries if it can."""
    families = (mixture.family, mixture.family.incomplete(1))
    origin = np.asarray(mixture.origin)
    return tuple(Pass(f, origin, source, source.num_rows) for f in families if f is not None)


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
        for part, first in self._chunks(first):  # noqa: B020 - the end of one is the next's first
            total = self.add(total, parameters, part, exact)
            on_chunk(total, first)
        return total

    def evaluate(self, parameters: MixtureParameters) -> Evaluation:
        """A pass for one mixture."""
        total = np.zeros(3)
        for part, _ in self._chunks(0):
            total += self.evaluate_chunk(parameters, part)
        return Evaluation(*total)

    def _chunks(self, first: int) -> Any:
        """Pairs of a chunk's `Part` and the number of the row after it."""
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

    def _prepare_known(self, chunk: chunks.Chunk) -> tuple[Part, int]:
        index, end = chunk.first // self.rows, chunk.first + chunk.size
        if index >= len(self.seen.marks) or chunk.mark != self.seen.marks[index]:
            raise ValueError(
                f"x: expected the same rows in every pass, but {self.source.place(chunk.first)} or "
                f"one of the {chunk.size - 1:,} rows after it changed"
            )
        return self.prepare(chunks.observed(chunk) if self.seen.missing else chunk), end


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

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Gaussians):
            return np.asarray(leaf, dtype)
        cast = jax.tree.map(lambda part: np.asarray(part, dtype), leaf)
        if leaf.remainder is None or dtype == np.float64:
            return cast
        means = np.asarray(leaf.deviations, np.float64) + np.asarray(leaf.remainder, np.float64)
        high = means.astype(dtype)
        return cast._replace(deviations=high, remainder=(means - high).astype(dtype))

    return jax.tree.map(one, parameters, is_leaf=lambda leaf: isinstance(leaf, Gaussians))


@over_data(0)
def add(family: ExponentialFamily, a: Any, b: Any) -> Any:
    """Merged summaries and added log-likelihoods of R mixtures."""
    return jax.vmap(family.merge)(a[0], b[0]), a[1] + b[1]


@over_data(0, 1, 2)
def chunk_sums(
    family: ExponentialFamily, rows: int, exact: bool, parameters: MixtureParameters, data: Data
) -> tuple[Any, Float[Array, " R"]]:
    """Summaries and log-likelihoods of R mixtures on one chunk."""
    return (centred_pass if exact else fast_pass)(family, parameters, data, rows)


@over_data(0)
def safe(family: ExponentialFamily, parameters: MixtureParameters) -> Bool[Array, " R"]:
    """Whether there is a fast path that is precise enough for each of R mixtures."""
    if not family.has_fast_path:
        return jax.numpy.zeros(parameters.log_weights.shape[0], bool)
    if not family.has_exact_path:
        return jax.numpy.ones(parameters.log_weights.shape[0], bool)
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
