"""Data sources for the training loop: all rows on the device, or batches from the host.

Both use the same permutation of the rows, which depends on the epoch, and drop its last N mod B
rows.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from lvm_jax import parallel
from lvm_jax._core.batching import num_rows, rows_of
from lvm_jax.compiling import bucket
from lvm_jax.training.options import SEGMENT
from lvm_jax.training.rows import host_order, padded_rows
from lvm_jax.training.step import Keys, Program, Run, State, advance, advance_fed
from lvm_jax.typing import ArrayLike

DEVICE_BYTES = 2**30  # larger data stay on the host by default
CHUNK_BYTES = 2**24  # the most bytes of a chunk of batches


class DeviceBatches:
    """All rows on the device, or a copy on every device of the mesh."""

    def __init__(self, program: Program, keys: Keys, x: Any) -> None:
        self._program, self._keys = program, keys
        self._x = padded_rows(keys.order, x, program.mesh)
        self.steps_per_epoch = num_rows(x) // program.batch_size

    def furthest(self, step: int) -> int:
        """The last step that one call can reach."""
        return step + SEGMENT

    def advance(self, state: State, stop: int) -> Run:
        """Run to step `stop`, or to the first unhealthy one."""
        return advance(self._program, self._keys, state, self._x, np.int32(stop))

    def batch(self, step: int) -> Any:
        """The minibatch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        size = self._program.batch_size
        order = host_order(self._keys.order, epoch, int(self._x.number))
        return rows_of(self._x.values, order[place * size : (place + 1) * size])

    def close(self) -> None:
        """Nothing reads ahead."""


class HostBatches:
    """Batches from rows on the host (in memory or a memory map), read ahead by Grain.

    Grain reads chunks of several batches: a Python call for every row would cost more than the
    step. x holds the rows of this process only.
    """

    def __init__(self, program: Program, keys: Keys, x: Any, num_epochs: int) -> None:
        self._program, self._keys = program, keys
        self._chunks = Chunks(x, keys.order, program, num_epochs)
        self.steps_per_epoch = self._chunks.steps_per_epoch
        self._reader: Iterator[Any] | None = None
        self._number = -1  # of the chunk that is on the device
        self._batches: Any = None

    def furthest(self, step: int) -> int:
        """The end of the chunk that holds the step."""
        return self._chunks.span(self._chunks.find(step))[1]

    def advance(self, state: State, stop: int) -> Run:
        """Run to step `stop`, or to the first unhealthy one."""
        number = self._chunks.find(int(state.step))
        self._fetch(number)
        start = np.int32(self._chunks.span(number)[0])
        return advance_fed(self._program, self._keys, state, self._batches, start, np.int32(stop))

    def batch(self, step: int) -> Any:
        """The minibatch of a step."""
        number = self._chunks.find(step)
        self._fetch(number)
        return rows_of(self._batches, step - self._chunks.span(number)[0])

    def close(self) -> None:
        """Stop reading ahead."""
        close = getattr(self._reader, "close", None)
        if close is not None:
            close()
        self._reader = None

    def _fetch(self, number: int) -> None:
        if number == self._number:
            return
        if self._reader is None or number != self._number + 1:
            self.close()
            self._reader = read_ahead(self._chunks, number)
        rows = next(self._reader)
        self._batches = parallel.rows_to_global(self._program.mesh, rows, axis=1)
        self._number = number


class Chunks:
    """A random-access source of chunks of batches, [T, B, ...], for Grain.

    A chunk belongs to one epoch; rows of zeros, which no step uses, fill the last of an epoch.
    """

    def __init__(self, x: Any, key: Any, program: Program, num_epochs: int) -> None:
        self._x = x
        self._size = parallel.rows_per_process(program.mesh, program.batch_size)
        self.steps_per_epoch = num_rows(x) // self._size
        row_bytes = sum(map(bytes_of_row, jax.tree.leaves(x)))
        most = CHUNK_BYTES // (row_bytes * self._size)
        self._steps = max(1, min(SEGMENT, bucket(self.steps_per_epoch), most))
        self._per_epoch = -(-self.steps_per_epoch // self._steps)
        self._num_epochs = num_epochs
        self._order = lru_cache(2)(partial(host_order, key, num_rows=num_rows(x)))

    def __len__(self) -> int:
        return self._per_epoch * self._num_epochs

    def __getitem__(self, number: int) -> Any:
        start, stop = self.span(number)
        epoch = start // self.steps_per_epoch
        first, last = (step - epoch * self.steps_per_epoch for step in (start, stop))
        rows = self._order(epoch)[first * self._size : last * self._size]

        def fill(leaf: np.ndarray) -> np.ndarray:
            shape = (self._steps, self._size, *leaf.shape[1:])
            chunk = np.zeros(shape, float_type(leaf))
            chunk[: last - first] = leaf[rows].reshape(-1, *shape[1:])
            return chunk

        return jax.tree.map(fill, self._x)

    def find(self, step: int) -> int:
        """The number of the chunk that holds a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return epoch * self._per_epoch + place // self._steps

    def span(self, number: int) -> tuple[int, int]:
        """The steps [start, stop) of a chunk."""
        epoch, place = divmod(number, self._per_epoch)
        start = place * self._steps
        stop = min(start + self._steps, self.steps_per_epoch)
        return epoch * self.steps_per_epoch + start, epoch * self.steps_per_epoch + stop


BatchSource = DeviceBatches | HostBatches


def read_ahead(chunks: Chunks, first: int) -> Iterator[Any]:
    """The chunks from number `first` on, in order, made in another thread."""
    import grain  # slow to import, and needed for data on the host only

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.source(chunks)[first:].to_iter_dataset(options))


def bytes_of_row(leaf: ArrayLike) -> int:
    """The size of a row on the device."""
    return max(1, int(leaf[:1].size)) * int(np.dtype(float_type(leaf)).itemsize)


def float_type(x: ArrayLike) -> Any:
    """The type of rows on the device: float64 for float64 rows if x64 is on, else float32."""
    given = x.dtype if x.dtype.kind == "f" else np.float64
    return jax.dtypes.canonicalize_dtype(given)
