"""The first pass over streamed data: their size, mean and range, and a sample of rows."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax.em import chunks, incomplete
from lvm_jax.em.chunks import Chunk
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.sources import Source
from lvm_jax.typing import ArrayLike

SAMPLE_ROWS, SAMPLE_BYTES = 65_536, 2**26  # at most, of the sample for the starts


class Sample(NamedTuple):
    """Rows drawn without replacement, in their order: those of the smallest priorities."""

    numbers: np.ndarray  # [m] of the rows in the data
    priorities: np.ndarray  # [m], uniform on 0, ..., 2^64 - 1
    x: np.ndarray  # [m, D]
    weight: np.ndarray | None  # [m]

    @property
    def live(self) -> np.ndarray:
        """The rows of positive weight."""
        return self.x if self.weight is None else self.x[self.weight > 0]

    def smallest(self, size: int) -> "Sample":
        """The `size` rows of the smallest priorities."""
        if len(self.numbers) <= size:
            return self
        kept = np.sort(np.argpartition(self.priorities, size)[:size])
        return Sample(*(None if part is None else part[kept] for part in self))  # type: ignore[arg-type]


class Survey(NamedTuple):
    """Numbers of the first pass."""

    num_rows: int
    total_weight: float
    mean: np.ndarray  # [D], weighted, float64
    low: np.ndarray  # [D], smallest values
    high: np.ndarray  # [D], largest values
    marks: np.ndarray  # [C], checksums of the chunks
    missing: bool  # whether entries are missing
    sample: Sample


class Totals:
    """The size of the data, and sums and ranges of the observed entries of each column, [D]."""

    def __init__(self, dim: int) -> None:
        self.number, self.weight, self.missing = 0, 0.0, False
        self.sums, self.counts = np.zeros(dim), np.zeros(dim)
        self.low, self.high = np.full(dim, np.inf), np.full(dim, -np.inf)
        self.empty, self.first_empty = 0, 0  # rows without any observed entry

    def add(self, chunk: Chunk, missing: bool) -> None:
        """Add the rows of a chunk."""
        x, given = chunk.x[: chunk.size], chunk.weight
        self.number, self.missing = self.number + chunk.size, self.missing or missing
        self.low = np.fmin(self.low, np.fmin.reduce(x))
        self.high = np.fmax(self.high, np.fmax.reduce(x))
        if missing:
            self._add_observed(chunk)
        elif given is None:
            self.weight, self.counts = self.weight + chunk.size, self.counts + chunk.size
            self.sums += x.sum(0, dtype=np.float64)
        else:
            total = float(given[: chunk.size].sum())
            self.weight, self.counts = self.weight + total, self.counts + total
            self.sums += given[: chunk.size] @ x

    def _add_observed(self, chunk: Chunk) -> None:
        x, rows = chunk.x[: chunk.size], slice(chunk.size)
        given = np.ones(chunk.size) if chunk.weight is None else chunk.weight[rows]
        weight = incomplete.observed_weight(x, given)
        empty = np.flatnonzero(weight != given)
        if len(empty) and not self.empty:
            self.first_empty = chunk.first + int(empty[0])
        self.empty += len(empty)
        seen = ~np.isnan(x)
        self.weight += float(weight.sum())
        self.counts += weight @ seen
        self.sums += weight @ np.where(seen, x, 0)

    def check(self, source: Source) -> None:
        """Refuse data without weight and columns without values; warn about rows without."""
        if not self.weight > 0:
            raise ValueError("sample_weight: expected a positive sum, got all zeros")
        lost = np.flatnonzero(self.counts == 0)
        names = getattr(source, "columns", range(source.dim))
        incomplete.refuse_columns([names[j] for j in lost], "x")
        if self.empty:
            where = f"{self.empty:,} rows (the first: {source.place(self.first_empty)})"
            incomplete.warn_empty(where, self.number)


def sample_size(dim: int, itemsize: int) -> int:
    """The number of rows of the sample: all rows of smaller data."""
    return max(256, min(SAMPLE_ROWS, SAMPLE_BYTES // (dim * itemsize)))


def priorities(seed: int, index: int, size: int) -> np.ndarray:
    """The priorities of the rows of chunk `index`, from a counter-based generator."""
    return np.random.Philox(key=seed, counter=[0, 0, 0, index]).random_raw(size)


def join(one: Sample | None, other: Sample, size: int) -> Sample:
    """The sample of the union of two sets of rows (bottom-k sampling)."""
    if one is None:
        return other.smallest(size)
    pairs = zip(one, other, strict=True)
    parts = [None if a is None else np.concatenate([a, b]) for a, b in pairs]
    return Sample(*parts).smallest(size)  # type: ignore[arg-type]


def draw(seed: int, index: int, chunk: Chunk, sample: Sample | None, size: int) -> Sample:
    """The sample with the rows of a chunk."""
    drawn = priorities(seed, index, chunk.size)
    rows = np.arange(chunk.size)
    if sample is not None and len(sample.numbers) == size:
        rows = np.flatnonzero(drawn < sample.priorities.max())
        if not rows.size:
            return sample
    weight = None if chunk.weight is None else chunk.weight[rows]
    return join(sample, Sample(chunk.first + rows, drawn[rows], chunk.x[rows], weight), size)


def survey(
    key: jax.Array,
    source: Source,
    family: ExponentialFamily,
    sample_weight: ArrayLike | None,
    on_rows: Any = lambda rows: None,
) -> Survey:
    """Read a source once. `on_rows` is called with the number of rows read so far.

    Raises ValueError at the first row that is not finite or outside the family's support.
    """
    rows, seed = chunks.rows_of(source, source.num_rows), chunks.seed_of(key)
    size, totals = sample_size(source.dim, source.dtype.itemsize), Totals(source.dim)
    sample, marks = None, []
    for index, chunk in enumerate(chunks.read(source, rows, sample_weight)):
        totals.add(chunk, chunks.check_rows(source, family, chunk))
        sample = draw(seed, index, chunk, sample, size)
        marks.append(chunk.mark)
        on_rows(totals.number)
    number = totals.number
    if sample is None:
        raise ValueError(f"x: expected rows, got none in {source.name}")
    if source.num_rows not in (None, number):
        raise ValueError(f"x: expected {source.num_rows:,} rows in {source.name}, got {number:,}")
    chunks.check_weight_length(sample_weight, number)
    totals.check(source)
    return Survey(
        number, totals.weight, totals.sums / totals.counts, totals.low, totals.high,
        np.array(marks, np.uint32), totals.missing, sample,
    )  # fmt: skip
