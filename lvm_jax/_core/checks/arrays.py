"""Validation of arrays on the host, without compilation; large arrays are read in blocks."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from lvm_jax.typing import ArrayLike

BLOCK = 2**20  # numbers per block


def float_array(value: object, name: str) -> ArrayLike:
    """Return `value` as a real floating array; integers and booleans become floats."""
    array = real_array(value, name)
    if array.dtype.kind not in "iub":
        return array
    return array.astype(np.float64 if isinstance(array, np.ndarray) else float)


def real_array(value: object, name: str) -> ArrayLike:
    """Return `value` (an array, a sequence or a data frame) as an array of real numbers."""
    array = value if isinstance(value, np.ndarray | jax.Array) else _read(value, name)
    if array.dtype == object or array.dtype.kind in "USOM":
        raise TypeError(
            f"{name}: expected real numbers, got dtype {array.dtype}; "
            "convert text or mixed columns to numbers first"
        )
    if array.dtype.kind == "c":
        raise TypeError(f"{name}: expected real numbers, got complex dtype {array.dtype}")
    return array


def _read(value: Any, name: str) -> np.ndarray:
    """The array of a sequence or a data frame, with NaN for missing values."""
    if not (hasattr(value, "columns") and hasattr(value, "to_numpy")):
        return np.asarray(value)
    array = value.to_numpy()
    if array.dtype != object:
        return array
    text = [c for c in value.columns if getattr(value[c].dtype, "kind", "O") not in "iufbc"]
    if text:
        raise TypeError(
            f"{name}: expected columns of real numbers, got {value[text[0]].dtype} in column "
            f"{text[0]!r} ({len(text)} of {len(value.columns)} columns are not numbers); choose "
            "the numeric columns, or encode the others as numbers"
        )
    return value.to_numpy(dtype=np.float64, na_value=np.nan)


def blocks(array: ArrayLike) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of rows of an array on the host, each with the index of its first row.

    A memory map is read block by block; a JAX array is copied to the host once.
    """
    rows = np.asarray(array) if isinstance(array, jax.Array) else array
    together = max(1, BLOCK // max(1, rows[:1].size))
    for start in range(0, rows.shape[0], together):
        yield start, np.asarray(rows[start : start + together])


def finite(array: ArrayLike, name: str) -> None:
    """Raise ValueError for NaN and infinity, with their numbers and the first position."""
    if array.dtype.kind in "iub" or array.size == 0:
        return
    if array.ndim == 0:
        array = np.asarray(array)[None]
    if all(_is_finite(block) for _, block in blocks(array)):
        return
    nans = infinite = 0
    first: tuple[int, ...] = ()
    for start, block in blocks(array):
        bad = ~np.isfinite(block)
        if bad.any() and not first:
            first = position(start, bad)
        nans += int(np.isnan(block).sum())
        infinite += int(np.isinf(block).sum())
    raise ValueError(
        f"{name}: expected finite numbers, got {nans} NaN and {infinite} inf, "
        f"the first at {place(first)}; drop or impute them first"
    )


def _is_finite(block: np.ndarray) -> bool:
    # A finite sum implies finite entries, without an array of booleans. The sum may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(block.sum()) or np.isfinite(block).all())


def position(start: int, bad: np.ndarray) -> tuple[int, ...]:
    """The index of the first bad entry of a block whose first row is `start`."""
    row, *rest = (int(i) for i in np.argwhere(bad)[0])
    return (start + row, *rest)


def place(index: tuple[int, ...]) -> str:
    """An index as text."""
    return f"row {index[0]}, column {index[1]}" if len(index) == 2 else f"index {index}"


def points(value: object, name: str = "x", minimum: int = 1) -> ArrayLike:
    """Return `value` as an [N, D] array of finite floats with N >= minimum and D >= 1."""
    array = table(value, name, minimum)
    finite(array, name)
    return array


def points_or_nan(value: object, name: str = "x") -> tuple[np.ndarray, bool]:
    """`points` with NaN for missing entries, and whether there are any."""
    array = np.asarray(table(value, name, 1))
    if array.dtype.kind in "iub" or all(_is_finite(block) for _, block in blocks(array)):
        return array, False
    found = [np.argwhere(np.isinf(block)) + [start, 0] for start, block in blocks(array)]
    infinite = np.concatenate(found)
    if len(infinite):
        raise ValueError(
            f"{name}: expected finite numbers, or NaN for missing ones, got {len(infinite)} inf, "
            f"the first at row {infinite[0, 0]}, column {infinite[0, 1]}; drop or impute them first"
        )
    return array, True


def table(value: object, name: str, minimum: int) -> ArrayLike:
    """Return `value` as an [N, D] array of floats with N >= minimum and D >= 1."""
    array = float_array(value, name)
    if array.ndim != 2:
        cure = " (one column: x.reshape(-1, 1))" if array.ndim == 1 else ""
        raise ValueError(f"{name}: expected shape [N, D], got {array.shape}{cure}")
    if array.shape[1] < 1:
        raise ValueError(f"{name}: expected at least one column, got shape {array.shape}")
    if array.shape[0] < minimum:
        raise ValueError(f"{name}: expected at least {minimum} rows, got shape {array.shape}")
    return array


def distinct_rows(array: ArrayLike, wanted: int, name: str = "x") -> None:
    """Raise ValueError for fewer than `wanted` distinct rows, one for each component."""
    found: set[bytes] = set()
    size = max(64, 2 * wanted)
    for start in range(0, array.shape[0], size):
        rows = np.ascontiguousarray(np.asarray(array[start : start + size])) + 0.0
        found.update(row.tobytes() for row in rows)
        if len(found) >= wanted:
            return
    raise ValueError(
        f"{name}: expected at least {wanted} distinct rows for {wanted} components, "
        f"got {len(found)}; lower num_components or remove the duplicates"
    )


def weights(value: object, num_points: int, name: str = "sample_weight") -> np.ndarray:
    """Return `value` as [N] finite, non-negative weights with a positive sum."""
    array = np.asarray(float_array(value, name))
    if array.shape != (num_points,):
        raise ValueError(f"{name}: expected shape [{num_points}], got {array.shape}")
    finite(array, name)
    if (array < 0).any():
        first = int(np.argmax(array < 0))
        raise ValueError(
            f"{name}: expected non-negative weights, got {array[first]:g} at index {first} "
            f"({int((array < 0).sum())} in all)"
        )
    if not array.sum() > 0:
        raise ValueError(f"{name}: expected a positive sum, got all zeros")
    return array


def shape(array: ArrayLike, expected: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless the array has the shape `expected`."""
    if array.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")


def one_point(log_w: Any) -> None:
    """Raise ValueError unless log-weights have the shape [S], S >= 1; works under jit."""
    shape = np.shape(log_w)
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(
            f"log_w: expected the log-weights of one data point, shape [S] with S >= 1, got "
            f"{shape}; map over data points with jax.vmap"
        )


def one_value(value: Any, expected: tuple[int, ...], like: str) -> None:
    """Raise ValueError unless the argument `value` of a log_prob has the shape `expected`."""
    if np.shape(value) != expected:
        raise ValueError(
            f"value: expected shape {expected}, as the {like}, got {np.shape(value)}; map over "
            "rows with jax.vmap"
        )


def symmetric_positive_definite(array: np.ndarray, name: str) -> None:
    """Raise ValueError unless matrices [..., D, D] are symmetric positive definite."""
    asymmetry = np.abs(array - np.swapaxes(array, -1, -2)).max()
    if asymmetry > 1e-5 * np.abs(array).max():
        raise ValueError(f"{name}: expected symmetric matrices, got |A - A.T| up to {asymmetry:g}")
    smallest = np.linalg.eigvalsh(array).min(axis=-1)
    if not (smallest > 0).all():
        worst = int(np.argmin(np.atleast_1d(smallest)))
        raise ValueError(
            f"{name}: expected positive definite matrices, got smallest eigenvalue "
            f"{np.min(smallest):g} (matrix {worst}); add a small multiple of the identity"
        )
