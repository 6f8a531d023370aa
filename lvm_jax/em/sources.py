"""Data that do not fit in memory: memory maps, Zarr arrays, and functions.

A source yields its rows in order, as often as it is read. `tables` reads Parquet, `npy_files`
.npy files.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lvm_jax.typing import Array

Batch = tuple[np.ndarray, np.ndarray | None]  # rows [n, D], and their weights [n]
BATCH_BYTES = 2**22  # of the batches of an array and of a file


class Source:
    """Rows that are read in order, once in each pass over the data.

    Attributes:
        name: of the source, in errors.
        dim: D.
        dtype: of the rows, float32 or float64.
        num_rows: N, or None if only a pass finds it.
        weighted: whether the batches have weights.
    """

    name: str = "x"
    dim: int
    dtype: np.dtype
    num_rows: int | None = None
    weighted: bool = False

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Rows and weights from row `first` on; a batch is valid until the next is asked for."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """A row as words, with its file."""
        return f"row {row:,} of {self.name}"

    def stamp(self) -> Any:
        """A value that changes if a file changes."""
        return None

    @property
    def batch_rows(self) -> int:
        """The number of rows of BATCH_BYTES."""
        return max(1, BATCH_BYTES // (self.dim * self.dtype.itemsize))


class ArraySource(Source):
    """A memory map or an array with `shape`, `dtype`, `chunks` and slices, such as Zarr's."""

    def __init__(self, array: Any) -> None:
        check_shape(tuple(array.shape), "x")
        self.array, self.name = array, f"x ({type(array).__name__})"
        self.num_rows, self.dim = (int(size) for size in array.shape)
        self.dtype = float_dtype(array.dtype, "x")

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Slices of whole chunks; the pages of a memory map are released after each."""
        chunks = getattr(self.array, "chunks", None)
        unit = 1 if chunks is None else int(np.max(chunks[0]))
        rows = unit * max(1, self.batch_rows // unit)
        pages = _pages(self.array)
        while first < len(self):
            end = min(first + rows - first % rows, len(self))
            yield np.asarray(self.array[first:end]), None
            if pages is not None:
                pages.madvise(mmap.MADV_DONTNEED)
            first = end

    def __len__(self) -> int:
        """N."""
        return int(self.array.shape[0])

    def stamp(self) -> Any:
        """The file of a memory map."""
        path = getattr(self.array, "filename", None)
        return None if path is None else stamps([Path(path)])


class FunctionSource(Source):
    """A function that returns an iterator of batches, called once in each pass.

    A batch is x [n, D] or a pair (x, weight [n]).
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.name = f"x ({getattr(function, '__name__', type(function).__name__)})"
        one, other = self._start(), self._start()
        if one is other:
            raise TypeError(
                f"x: expected a function that returns a new iterator at each call, got the same "
                f"{type(one).__name__} twice; every pass over the data needs its own: pass "
                "lambda: generator(...)"
            )
        first = next(one, None)
        if first is None:
            raise ValueError("x: expected batches of rows, got an iterator without batches")
        self.weighted = isinstance(first, tuple)
        x = np.asarray(first[0] if self.weighted else first)
        check_shape(x.shape, "x: batch 0", 0)
        self.dim, self.kind = x.shape[1], x.dtype
        self.dtype = float_dtype(x.dtype, "x: batch 0")

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The batches of one call of the function, without the rows before `first`."""
        for number, batch in enumerate(self._start()):
            x, weight = self._read(batch, number)
            if first < len(x):
                yield x[first:], None if weight is None else weight[first:]
            first = max(first - len(x), 0)

    def _start(self) -> Iterator[Any]:
        found = self.function()
        if not hasattr(found, "__iter__"):
            raise TypeError(
                f"x: expected a function that returns an iterator of batches, got one that returns "
                f"{type(found).__name__}"
            )
        return iter(found)

    def _read(self, batch: Any, number: int) -> Batch:
        if isinstance(batch, tuple) != self.weighted:
            raise ValueError(f"x: batch {number}: expected (x, weight) in all batches or in none")
        x, weight = batch if self.weighted else (batch, None)
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.dim or x.dtype != self.kind:
            raise ValueError(
                f"x: batch {number}: expected [n, {self.dim}] of {self.kind} as in batch 0, got "
                f"{list(x.shape)} of {x.dtype}"
            )
        if weight is None:
            return x, None
        weight = np.asarray(weight)
        if weight.shape != x.shape[:1]:
            raise ValueError(
                f"x: batch {number}: expected a weight for each of {len(x)} rows, got shape "
                f"{weight.shape}"
            )
        return x, weight


def as_source(x: Any) -> Source | None:
    """The source of data that stream, or None for data in memory.

    Raises TypeError for an iterator, which can be read only once.
    """
    if isinstance(x, Source):
        return x
    if isinstance(x, str | os.PathLike):
        return _from_path(Path(x))
    if isinstance(x, np.memmap):
        return ArraySource(x)
    if isinstance(x, np.ndarray | Array | list | tuple) or hasattr(x, "columns"):
        return None
    if hasattr(x, "__next__"):
        raise TypeError(
            f"x: expected data that can be read more than once, got a {type(x).__name__}; EM reads "
            "the data in every step: pass a function, such as lambda: generator(...)"
        )
    if type(x).__module__.startswith("pyarrow"):
        from lvm_jax.em.tables import parquet  # imports sources

        return parquet(x)
    if hasattr(x, "chunks") and hasattr(x, "shape") and hasattr(x, "dtype"):
        return ArraySource(x)
    return FunctionSource(x) if callable(x) else None


def _from_path(path: Path) -> Source:
    """A .npy file, a Parquet file, or a folder of either."""
    from lvm_jax.em.npy_files import NpyFiles  # both import sources
    from lvm_jax.em.tables import parquet

    if path.is_dir():
        arrays = sorted(path.glob("*.npy"))
        tables = next(path.rglob("*.parquet"), None)
        if bool(arrays) == (tables is not None):
            raise ValueError(f"x: expected a folder of .npy or of .parquet files, got {path}")
        return NpyFiles(arrays, str(path)) if arrays else parquet(path)
    if not path.is_file():
        raise FileNotFoundError(f"x: no file or folder {path}")
    if path.suffix == ".npy":
        return NpyFiles([path], str(path))
    if path.suffix == ".parquet":
        return parquet(path)
    raise ValueError(f"x: expected a .npy or .parquet file, or a folder of these, got {path}")


def check_shape(shape: tuple[int, ...], name: str, minimum: int = 1) -> None:
    """Refuse a shape other than [N, D] with N >= minimum and D >= 1."""
    if len(shape) != 2 or shape[0] < minimum or shape[1] < 1:
        raise ValueError(f"{name}: expected shape [N, D] with rows and columns, got {list(shape)}")


def float_dtype(dtype: Any, name: str) -> np.dtype:
    """float32 for float16 and float32, float64 for float64 and integers; refuses other types."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise TypeError(f"{name}: expected real numbers, got dtype {dtype}")
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def stamps(paths: list[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file."""
    found = [(str(path), path.stat()) for path in paths if path.exists()]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _pages(array: Any) -> mmap.mmap | None:
    """The memory map of an array, unless it holds changes that are not in the file (mode c)."""
    if not isinstance(array, np.memmap) or array.mode not in ("r", "r+"):
        return None
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise") else None
