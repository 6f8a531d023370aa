"""The rows of .npy files, read in batches; files beyond memory are read without the page cache."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lvm_jax.em.sources import Batch, Source, check_shape, float_dtype, stamps

BLOCK = 4096  # bytes: direct reads begin and end at multiples of it
O_DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has none: macOS and Windows
CACHED = 0.9  # of the memory: files up to this size can stay in the page cache


class NpyFiles(Source):
    """The rows of .npy files, in the order of their names.

    Attributes:
        direct: whether files in C order are read without the page cache, in a third of the CPU
            time. The default is True for files of more than 90% of the memory of the machine: their
            first pages leave the cache before the next pass.
    """

    def __init__(self, paths: list[Path], name: str) -> None:
        self.name, self.files = name, [NpyFile(path) for path in paths]
        first = self.files[0]
        self.dim, self.dtype = first.shape[1], float_dtype(first.dtype, str(first.path))
        for file in self.files:
            if file.shape[1] != self.dim or file.dtype != first.dtype:
                raise ValueError(
                    f"{file.path}: expected {self.dim} columns of {first.dtype} as in "
                    f"{first.path.name}, got {file.shape[1]} of {file.dtype}"
                )
        self.starts = np.cumsum([0, *(file.shape[0] for file in self.files)])
        self.num_rows = int(self.starts[-1])
        size = sum(path.stat().st_size for path in paths)
        beyond = O_DIRECT != 0 and size > CACHED * memory_bytes()
        self.direct = beyond and all(can_read_directly(path) for path in paths)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The rows of one file after the other."""
        for start, file in zip(self.starts, self.files, strict=False):
            skipped = max(first - int(start), 0)
            for x in file.batches(skipped, self.batch_rows, self.direct):
                yield x, None

    def place(self, row: int) -> str:
        """The row in its file."""
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"row {row - int(self.starts[index]):,} of {self.files[index].path}"

    def stamp(self) -> Any:
        """Size and time of each file."""
        return stamps([file.path for file in self.files])


class NpyFile:
    """One .npy file; it is read, not mapped, since a mapped file that shrinks ends the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0}
                header = read.get(version, np.lib.format.read_array_header_2_0)(file)
                self.shape, self.is_fortran, self.dtype = header
                self.offset = file.tell()
        except ValueError as error:
            raise ValueError(f"{path}: expected a .npy file ({error})") from error
        check_shape(self.shape, str(path))
        self.row_bytes = self.shape[1] * self.dtype.itemsize
        size, expected = path.stat().st_size, self.offset + self.shape[0] * self.row_bytes
        if size < expected:
            raise ValueError(
                f"{path}: expected {expected:,} bytes for shape {self.shape}, got {size:,}; the "
                "file is truncated: write it again"
            )

    def batches(self, first: int, rows: int, direct: bool = False) -> Iterator[np.ndarray]:
        """Batches of rows from row `first` of this file on, in one buffer."""
        if self.is_fortran:
            array = np.load(self.path, mmap_mode="r")
            yield from (array[at : at + rows] for at in range(first, self.shape[0], rows))
            return
        longest = min(rows, self.shape[0] - first) * self.row_bytes
        buffer = memoryview(mmap.mmap(-1, max(longest, 0) + 2 * BLOCK))  # aligned
        with open_raw(self.path, direct) as file:
            for at in range(first, self.shape[0], rows):
                number = min(rows, self.shape[0] - at)
                begin = self.offset + at * self.row_bytes
                skip, size = begin % BLOCK, number * self.row_bytes
                file.seek(begin - skip)
                whole = buffer[: -(-(skip + size) // BLOCK) * BLOCK]
                if not fill(file, whole, skip + size, BLOCK if direct else 1):
                    raise ValueError(f"{self.path}: the file became shorter while it was read")
                yield np.frombuffer(buffer[skip:][:size], self.dtype).reshape(number, -1)


def open_raw(path: Path, direct: bool) -> Any:
    """A file without a buffer of Python's, and without the page cache if `direct`."""
    flag = O_DIRECT if direct else 0
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | flag))


def fill(file: Any, buffer: memoryview, size: int, unit: int = BLOCK) -> bool:
    """Read at least `size` bytes into the buffer; False if the file ends before.

    A direct read that is no multiple of `unit` is the last one of a file.
    """
    found = 0
    while found < size and found % unit == 0 and (more := file.readinto(buffer[found:])):
        found += more
    return found >= size


def can_read_directly(path: Path) -> bool:
    """Whether the system and the file system of this file have direct reads."""
    try:
        with open_raw(path, direct=True) as file:
            return O_DIRECT != 0 and fill(file, memoryview(mmap.mmap(-1, BLOCK)), 1)
    except OSError:
        return False


def memory_bytes() -> int:
    """The memory of the machine; `os.sysconf` exists where `O_DIRECT` does."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
