"""Reader of delimited text (CSV, TSV): named columns of numbers."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lvm_jax.data.dataset import column_indices

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})


class Columns(NamedTuple):
    """The result of a reader: names, an [N, D] array, and the name of row i in a message."""

    names: tuple[str, ...]
    x: np.ndarray
    row_name: Callable[[int], str]


class Text(NamedTuple):
    """The cells of a file as text: header, rows, and the line number of each row."""

    names: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]


def read_csv(path: Path, columns: Sequence[str] | None) -> Columns:
    """Read the chosen columns; a missing value becomes NaN.

    The delimiter is the most frequent of comma, semicolon and tab on the first line. A first line
    that has only numbers and missing values is data; otherwise it is the header. Blank lines are
    skipped, except in a file of one column, where a blank line between two rows, or a line "", is
    a missing value.
    """
    text = _read_text(path)
    names = text.names
    chosen = range(len(names)) if columns is None else column_indices(columns, names, str(path))
    x = np.empty((len(text.rows), len(chosen)))
    for j, index in enumerate(chosen):
        x[:, j] = _column(path, text, index)
    return Columns(tuple(names[i] for i in chosen), x, lambda row: f"line {text.lines[row]}")


def numbered(count: int) -> tuple[str, ...]:
    """Names for columns without a header: x1, x2, ..."""
    return tuple(f"x{i + 1}" for i in range(count))


def check_distinct(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError for a table in which two columns have the same name."""
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"path: expected distinct column names, got {repeated[0]!r} twice: {path}")


def _read_text(path: Path) -> Text:
    rows: list[list[str]] = []
    lines: list[int] = []
    blank: list[int] = []  # lines since the last row
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                single = bool(rows) and len(rows[0]) == 1
                if len(row) < 2 and not "".join(row).strip() and not (single and row == [""]):
                    blank.append(reader.line_num)
                    continue
                if single:
                    rows.extend([""] for _ in blank)
                    lines.extend(blank)
                blank.clear()
                rows.append(row)
                lines.append(reader.line_num)
                _check_width(path, rows, reader.line_num, delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"path: expected UTF-8 delimited text, got {path}: {error}") from error
    if not rows:
        raise ValueError(f"path: expected a table of numbers, got only blank lines: {path}")
    if all(_is_number(cell) or _is_missing(cell) for cell in rows[0]):
        return Text(numbered(len(rows[0])), rows, lines)
    names = tuple(cell.strip() or f"x{i + 1}" for i, cell in enumerate(rows[0]))
    check_distinct(path, names)
    return Text(names, rows[1:], lines[1:])


def _check_width(path: Path, rows: list[list[str]], line: int, delimiter: str) -> None:
    if len(rows[-1]) != len(rows[0]):
        raise ValueError(
            f"path: expected {len(rows[0])} cells on every line, as on the first, got "
            f"{len(rows[-1])} on line {line} of {path} (cells separated by {delimiter!r}). "
            "Correct or remove that line."
        )


def _column(path: Path, text: Text, index: int) -> np.ndarray:
    cells = [row[index].strip() for row in text.rows]
    if _is_plain("".join(cells)):
        try:
            return np.array(cells, dtype=str).astype(np.float64)
        except ValueError:  # a missing value or a word: convert cell by cell, for the message
            pass
    name = text.names[index]
    where = [f"line {line} of {path}" for line in text.lines]
    return np.array([_number(c, name, w) for c, w in zip(cells, where, strict=True)])


def _is_plain(text: str) -> bool:
    """Whether the text has no underscores and no non-ASCII digits, which `float` accepts."""
    return text.isascii() and "_" not in text


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return _is_plain(cell.strip())


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _number(cell: str, column: str, where: str) -> float:
    if _is_missing(cell):
        return float("nan")
    if not _is_number(cell):
        raise ValueError(
            f"path: expected numbers in column {column!r}, got the text {cell!r} on {where}. "
            "Choose the numeric columns by name with columns, or encode this one as numbers."
        )
    return float(cell)
