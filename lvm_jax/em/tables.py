"""Parquet files and other pyarrow datasets as a source, with columns by name."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lvm_jax._core import extras
from lvm_jax._core.nearest import suggestion
from lvm_jax.em.sources import Batch, Source, stamps

NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool")  # Arrow's names of types


class Table(Source):
    """The rows of a pyarrow dataset, file by file and row group by row group."""

    def __init__(self, dataset: Any, columns: tuple[str, ...], name: str) -> None:
        self.name, self.columns, self.dim = name, columns, len(columns)
        self.parts: list[tuple[str, Any, int]] = []  # file, row group, and its first row
        number, types = 0, set()
        for fragment in dataset.get_fragments():
            path = str(getattr(fragment, "path", name))
            with reading(path):
                types |= {str(kind) for kind in self._types(path, fragment.physical_schema)}
                split = getattr(
                    fragment, "split_by_row_group", lambda fragment=fragment: [fragment]
                )
                for part in split():
                    self.parts.append((path, part, number))
                    number += rows_of(part)
        if not number:
            raise ValueError(f"x: expected rows, got none in {name}")
        self.num_rows, narrow = number, types <= {"float", "halffloat"}
        self.dtype = np.dtype(np.float32 if narrow else np.float64)

    def _types(self, path: str, schema: Any) -> list[Any]:
        """The types of the columns in one file; refuses a missing column and text."""
        for column in self.columns:
            if column not in schema.names:
                raise ValueError(f"x: {path} has no column {column!r}; it has {schema.names}")
            kind = schema.field(column).type
            if not str(kind).startswith(NUMBERS):
                raise ValueError(f"x: expected numbers in column {column!r}, got {kind} in {path}")
        return [schema.field(column).type for column in self.columns]

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Batches of rows; a null is NaN."""
        ends = [*(start for _, _, start in self.parts[1:]), self.num_rows]
        for (path, part, start), end in zip(self.parts, ends, strict=True):
            if end is not None and end <= first:
                continue
            skipped = max(first - start, 0)
            with reading(path):
                for batch in part.to_batches(columns=[*self.columns], batch_size=self.batch_rows):
                    x = np.empty((batch.num_rows, self.dim), self.dtype)
                    for j in range(self.dim):
                        x[:, j] = batch.column(j).to_numpy(zero_copy_only=False)
                    if skipped < len(x):
                        yield x[skipped:], None
                    skipped = max(skipped - len(x), 0)

    def place(self, row: int) -> str:
        """The row in its file."""
        path = next(path for path, _, start in reversed(self.parts) if start <= row)
        begin = next(start for file, _, start in self.parts if file == path)
        return f"row {row - begin:,} of {path}"

    def stamp(self) -> Any:
        """Size and time of each local file."""
        return stamps([Path(path) for path in dict.fromkeys(path for path, _, _ in self.parts)])


def parquet(data: Any, columns: Sequence[str] | None = None) -> Source:
    """Rows of Parquet files for `fit`: of a file, of a folder, or of a `pyarrow.dataset.Dataset`.

    Args:
        data: the path, or the dataset.
        columns: their names, in the order of D; by default all columns of the first file.

    Raises ValueError for a truncated file, for a column that a file does not have, or that is not
    numeric, and ModuleNotFoundError without pyarrow.
    """
    with extras.needed("experiments"):
        from pyarrow import dataset
    name = str(data) if isinstance(data, str | os.PathLike) else f"x ({type(data).__name__})"
    if isinstance(data, str | os.PathLike):
        if not Path(data).exists():
            raise FileNotFoundError(f"x: no file or folder {data}")
        with reading(name):
            data = dataset.dataset(data, format="parquet")
    names = [n for n in data.schema.names if not n.startswith("__index_level_")]  # pandas' index
    chosen = tuple(names if columns is None else columns)
    if isinstance(columns, str) or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"columns: expected different names, at least one, got {columns!r}")
    for column in chosen:
        if column not in names:
            hint = suggestion(str(column), names)
            raise ValueError(f"columns: {name} has no column {column!r}{hint}; it has {names}")
    return Table(data, chosen, name)


def rows_of(part: Any) -> int:
    """The number of rows of a fragment; `count_rows` of a row group counts the whole file."""
    groups = getattr(part, "row_groups", None)
    return part.count_rows() if groups is None else sum(group.num_rows for group in groups)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Errors of pyarrow name the file."""
    from pyarrow import ArrowInvalid

    try:
        yield
    except (ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"x: {path} is not a whole Parquet file ({error}); it may have been cut off in "
            "copying: write it again"
        ) from error
