"""Reader of a user's table (CSV, TSV, NPY, Parquet) into a Dataset.

One reader per format returns named columns; the numbers are validated once, after the reader.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lvm_jax.data.csv_table import Columns, check_distinct, numbered, read_csv
from lvm_jax.data.dataset import Dataset, column_indices


def load_table(
    path: str | Path, columns: Sequence[str] | None = None, missing: bool = False
) -> Dataset:
    """Read a table of numbers, one data point per row, into x [N, D] (float64).

    `path` ends in .csv, .tsv, .npy or .parquet. `columns` chooses columns by name and sets their
    order (default: all); columns of an array, or of a CSV without a header, are x1, x2, ... A
    header needs at least one name that is not a number: a first line 0,1,2 is a data point.

    Raises FileNotFoundError for a missing file, and ValueError, with the line, row or column, for
    invalid content. Missing values are errors, or NaN with `missing`; they are not imputed.
    """
    path = Path(path)
    check_file(path, list(READERS))
    table = READERS[path.suffix.lower()](path, columns)
    if table.x.shape[0] == 0:
        raise ValueError(f"path: expected rows of numbers, got a table without data rows: {path}")
    _check_finite(path, table, missing)
    return Dataset(
        name=path.stem,
        source=f"{path.name}: {table.x.shape[0]:,} rows, columns {', '.join(table.names[:12])}",
        x=table.x,
        columns=table.names,
        units=("",) * len(table.names),
    )


def check_file(path: Path, suffixes: Sequence[str]) -> None:
    """Raise an error unless the path is a non-empty file with one of these suffixes."""
    if path.is_dir():
        raise ValueError(f"path: expected a file, got a folder: {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: no file {path}, and no folder {path.parent} either")
    if not path.is_file():
        neighbours = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
        near = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.5)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise FileNotFoundError(f"path: no file {path}{hint}")
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"path: expected a file ending in {', '.join(suffixes)}, got {path.name!r}. Convert it "
            "first: numpy.save writes .npy, a pandas frame has to_csv(..., index=False)"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"path: expected a table of numbers, got an empty file: {path}")


def _check_finite(path: Path, table: Columns, missing: bool) -> None:
    bad = np.isinf(table.x) if missing else ~np.isfinite(table.x)
    if not bad.any():
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    counts = [(name, int(n)) for name, n in zip(table.names, bad.sum(axis=0), strict=True) if n]
    where = ", ".join(f"{n} in {name!r}" for name, n in counts[:6])
    raise ValueError(
        f"path: expected finite numbers, got {int(bad.sum())} missing or infinite cells in "
        f"{int(bad.any(axis=1).sum())} of {len(bad)} rows of {path} ({where}); the first is on "
        f"{table.row_name(row)}, column {table.names[column]!r}. Drop these rows, or choose other "
        "columns with columns."
    )


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file of real numbers; ValueError for other or damaged files."""
    try:
        with path.open("rb") as file:  # np.load would also accept archives and pickles
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"path: expected an array of numbers, got dtype object in {path}. Save it again "
                "with array.astype(float)."
            ) from error
        raise ValueError(
            f"path: {path} is not a whole .npy file ({error}). It may have been cut off in "
            "copying: write it again with numpy.save."
        ) from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"path: expected real numbers, got dtype {array.dtype} in {path}")
    return array


def _read_npy_table(path: Path, columns: Sequence[str] | None) -> Columns:
    array = read_npy(path)
    if array.ndim != 2:
        cure = " Save array.reshape(-1, 1) for one column." if array.ndim == 1 else ""
        raise ValueError(f"path: expected shape [N, D], got {array.shape} in {path}.{cure}")
    names = numbered(array.shape[1])
    index = range(len(names)) if columns is None else column_indices(columns, names, str(path))
    chosen = tuple(names[i] for i in index)
    return Columns(chosen, array[:, list(index)].astype(np.float64), lambda row: f"row {row}")


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Columns:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f"path: reading {path.name} needs pyarrow, which is not installed: pip install pyarrow"
        ) from error
    try:
        with ParquetFile(path) as file:
            # pandas stores the index of a filtered frame as a column, which is not data.
            index_levels = re.compile(r"__index_level_\d+__").fullmatch
            names = tuple(n for n in file.schema_arrow.names if not index_levels(n))
            check_distinct(path, names)
            index = (
                range(len(names)) if columns is None else column_indices(columns, names, str(path))
            )
            chosen = tuple(names[i] for i in index)
            table = file.read(columns=list(chosen))
    except (ArrowInvalid, OSError) as error:
        raise ValueError(
            f"path: {path} is not a whole Parquet file ({error}). It may have been cut off in "
            "copying: write it again."
        ) from error
    x = np.empty((table.num_rows, len(chosen)))
    for j, name in enumerate(chosen):
        x[:, j] = _parquet_column(path, name, table.column(name))
    return Columns(chosen, x, lambda row: f"row {row}")


def _parquet_column(path: Path, name: str, column: Any) -> np.ndarray:
    """The values of an Arrow column in float64, with NaN for nulls."""
    kind = str(column.type)
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "bool")):
        first = column[0].as_py() if len(column) else None
        raise ValueError(
            f"path: expected numbers in column {name!r}, got {kind} in {path} (first: {first!r}). "
            "Choose the numeric columns by name with columns, or encode this one as numbers."
        )
    return column.cast("float64", safe=False).fill_null(float("nan")).to_numpy()


READERS = {".csv": read_csv, ".tsv": read_csv, ".npy": _read_npy_table, ".parquet": _read_parquet}
