"""Errors that name the first row and the column outside the support of a family."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


class OutsideSupport(ValueError):
    """A value that a family does not accept, with its column in the family's data."""

    def __init__(self, expected: str, got: str, column: int) -> None:
        self.expected, self.got, self.column = expected, got, column
        super().__init__(f"x: expected {expected}, got {got} in column {column}")


def refuse(x: Any, bad: Any, expected: str) -> None:
    """Raise OutsideSupport for the first entry of x [n, D] that is `bad`."""
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise OutsideSupport(expected, f"{x[row, column]:g}", column)


@contextmanager
def in_columns(columns: Sequence[int]) -> Iterator[None]:
    """Name the columns of the data in the errors of a family of some of the columns."""
    try:
        yield
    except OutsideSupport as error:
        column = columns[error.column]
        raise OutsideSupport(error.expected, error.got, column) from error
    except ValueError as error:
        raise ValueError(f"{error}, in the columns {list(columns)}") from error


def check_rows(check: Callable[[np.ndarray], None], x: np.ndarray) -> None:
    """check(x), whose error names the first row that it refuses."""
    if not _refused(check, x):
        return
    low, high = 0, len(x)  # x[:low] is accepted, x[:high] is refused
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _refused(check, x[low:middle]) else (middle, high)
    try:
        check(x[low:high])
    except ValueError as error:
        raise ValueError(f"{error}, the first at row {low}") from error
    check(x)  # no row alone is refused


def _refused(check: Callable[[np.ndarray], None], x: np.ndarray) -> bool:
    try:
        check(x)
    except ValueError:
        return True
    return False
