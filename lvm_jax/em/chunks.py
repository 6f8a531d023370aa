"""Chunks of a fixed number of rows by their number in the data, read ahead in a thread.

The limits of the chunks do not depend on files and batches, so that results do not either.
"""

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax.compiling import bucket
from lvm_jax.em import incomplete
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.sources import Source
from lvm_jax.typing import ArrayLike

CHUNK_BYTES = 2**24  # of the rows of a chunk: about 30 ms of EM at D = K = 16 on two cores
MARKED_ROWS = 64  # rows of a chunk by which a change of the data is seen


class Chunk(NamedTuple):
    """Rows first, ..., first + size - 1, followed by copies of the last one."""

    first: int
    size: int
    x: np.ndarray  # [rows, D]
    weight: np.ndarray | None  # [rows]

    @property
    def mark(self) -> int:
        """A checksum of some rows."""
        rows = slice(0, self.size, max(1, self.size // MARKED_ROWS))
        weight = b"" if self.weight is None else self.weight[rows].tobytes()
        return zlib.crc32(self.x[rows].tobytes() + weight, self.size)


def rows_of(source: Source, num_rows: int | None = None) -> int:
    """The number of rows of a chunk: it depends on D and the dtype, and for few rows on N."""
    rows = CHUNK_BYTES // (source.dim * source.dtype.itemsize)
    rows = max(256, rows - rows % 256)
    return rows if num_rows is None else min(rows, bucket(num_rows))


class Blocks:
    """Copies batches into chunks, in two buffers: one is filled while the other is used."""

    def __init__(self, source: Source, rows: int, sample_weight: ArrayLike | None) -> None:
        self.source, self.rows, self.sample_weight = source, rows, sample_weight
        self.weighted = source.weighted or sample_weight is not None
        self._buffers = [
            (np.empty((rows, source.dim), source.dtype), np.empty(rows) if self.weighted else None)
            for _ in range(2)
        ]

    def __call__(self, first: int) -> Iterator[Chunk]:
        """The chunks from row `first` on."""
        size = number = 0
        for x, weight in self.source.batches(first):
            taken = 0
            while taken < len(x):
                into = self._buffers[number % 2]
                more = min(len(x) - taken, self.rows - size)
                part, to = slice(taken, taken + more), slice(size, size + more)
                into[0][to] = x[part]
                if into[1] is not None:
                    into[1][to] = self._weights(first + size, weight, part)
                taken, size = taken + more, size + more
                if size == self.rows:
                    yield self._finish(first, size, number)
                    first, size, number = first + size, 0, number + 1
        if size:
            yield self._finish(first, size, number)

    def _weights(self, row: int, weight: np.ndarray | None, part: slice) -> Any:
        if weight is not None:
            return weight[part]
        given = self.sample_weight[row : row + part.stop - part.start]  # type: ignore[index]
        if len(given) < part.stop - part.start:
            raise ValueError(
                f"sample_weight: expected a weight for each row of {self.source.name}, got "
                f"{row + len(given):,}"
            )
        return given

    def _finish(self, first: int, size: int, number: int) -> Chunk:
        x, weight = self._buffers[number % 2]
        x[size:] = x[size - 1]
        if weight is not None:
            weight[size:] = 0
        return Chunk(first, size, x, weight)


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items, the next of which is made in a thread while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="em-read") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def read(
    source: Source,
    rows: int,
    sample_weight: ArrayLike | None = None,
    first: int = 0,
    prepare: Callable[[Chunk], Any] = lambda chunk: chunk,
) -> Iterator[Any]:
    """`prepare` of each chunk from row `first` on, which runs in the reading thread.

    A chunk is valid until the next but one is asked for. Raises ValueError if a file changes.
    """
    before = source.stamp()
    yield from ahead(map(prepare, Blocks(source, rows, sample_weight)(first)))
    check_stamp(source, before)


def check_stamp(source: Source, before: Any) -> None:
    """Refuse files whose size or time has changed."""
    now = source.stamp()
    if now == before:
        return
    changed = [old[0] for old, new in zip(before, now, strict=False) if old != new]
    raise ValueError(
        f"x: expected files that do not change while they are read, but {(changed or ['one'])[0]} "
        "changed"
    )


def observed(chunk: Chunk) -> Chunk:
    """The chunk with weight 0 for rows without any observed entry."""
    weight = incomplete.observed_weight(chunk.x, chunk.weight)
    weight[chunk.size :] = 0
    return chunk._replace(weight=weight)


def check_rows(source: Source, family: ExponentialFamily, chunk: Chunk) -> bool:
    """Whether entries are missing; refuses invalid rows, naming the first.

    Raises ValueError for infinity, for entries outside the family's support, for NaN if the family
    has no `incomplete` family, and for invalid weights.
    """
    x = chunk.x[: chunk.size]
    missing = _is_missing(source, family, chunk)
    try:
        _check_entries(family, x, missing)
    except ValueError as error:
        row = next(i for i in range(len(x)) if _is_refused(family, x[i : i + 1], missing))
        raise ValueError(f"{error}, the first at {source.place(chunk.first + row)}") from error
    _check_weights(source, chunk)
    return missing


def _is_missing(source: Source, family: ExponentialFamily, chunk: Chunk) -> bool:
    x = chunk.x[: chunk.size]
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()) or np.isfinite(x).all():
            return False
    accepts = family.accepts_nan(x.shape[1])
    bad = np.isinf(x) | (np.isnan(x) & ~accepts[None])
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        admits = accepts[column]
        raise ValueError(
            f"x: expected finite numbers{', or NaN for missing ones' if admits else ''}, got "
            f"{x[row, column]} at {source.place(chunk.first + row)}, column {column}; drop or "
            "impute them first"
        )
    return True


def _check_entries(family: ExponentialFamily, x: np.ndarray, missing: bool) -> None:
    (family.check_observed if missing else family.check)(x)


def _check_weights(source: Source, chunk: Chunk) -> None:
    if chunk.weight is not None:
        weight = chunk.weight[: chunk.size]
        bad = ~(np.isfinite(weight) & (weight >= 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"sample_weight: expected finite non-negative weights, got {weight[row]:g} at "
                f"{source.place(chunk.first + row)}"
            )


def _is_refused(family: ExponentialFamily, row: np.ndarray, missing: bool) -> bool:
    try:
        _check_entries(family, row, missing)
    except ValueError:
        return True
    return False


def check_weight_length(sample_weight: Any, num_rows: int) -> None:
    """Refuse more weights than rows; `Blocks` refuses fewer."""
    if sample_weight is not None and len(sample_weight) != num_rows:
        raise ValueError(
            f"sample_weight: expected {num_rows:,} weights, one a row, got {len(sample_weight):,}"
        )


def seed_of(key: jax.Array) -> int:
    """A seed of NumPy's generators from a key."""
    return int.from_bytes(np.asarray(jax.random.key_data(key)).tobytes(), "little") % 2**128


def place_of_weights(sample_weight: Any) -> Any:
    """Weights of a source as an array that can be sliced; a memory map stays one."""
    if sample_weight is None:
        return None
    weights = checks.float_array(sample_weight, "sample_weight")
    if weights.ndim != 1:
        raise ValueError(f"sample_weight: expected shape [N], got {weights.shape}")
    return weights
