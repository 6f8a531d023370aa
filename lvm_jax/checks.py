"""Host-side validation: refuse bad input before anything compiles.

Every function raises a ValueError or TypeError that names the argument, says what was expected
and what came, and how to cure it.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral, Real

import jax
import numpy as np

from lvm_jax.typing import ArrayLike


def key(value: object, name: str = "key") -> jax.Array:
    """Return `value` if it is one typed PRNG key, as `jax.random.key(seed)` makes it."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        if value.shape == ():
            return value
        raise ValueError(f"{name}: expected one key, got an array of keys of shape {value.shape}")
    raise TypeError(
        f"{name}: expected a typed key, as jax.random.key(0) makes it, got {type(value).__name__}"
    )


def integer(value: object, name: str, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer >= {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {value}")
    return int(value)


def number(value: object, name: str, minimum: float = 0.0) -> float:
    """Return `value` as a finite float of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Real | np.number):
        raise TypeError(f"{name}: expected a number >= {minimum:g}, got {value!r}")
    if not (np.isfinite(float(value)) and float(value) >= minimum):
        raise ValueError(f"{name}: expected a finite number >= {minimum:g}, got {value}")
    return float(value)


def choice(value: object, name: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`; otherwise suggest the nearest."""
    if value in allowed:
        return str(value)
    near = get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}{hint}")


def float_array(value: object, name: str) -> ArrayLike:
    """Return `value` as a real floating array; integers and booleans become floats."""
    array = value if isinstance(value, np.ndarray | jax.Array) else np.asarray(value)
    if array.dtype == object or array.dtype.kind in "USOM":
        raise TypeError(
            f"{name}: expected real numbers, got dtype {array.dtype}; "
            "convert text or mixed columns to numbers first"
        )
    if array.dtype.kind == "c":
        raise TypeError(f"{name}: expected real numbers, got complex dtype {array.dtype}")
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    return array


def finite(array: ArrayLike, name: str) -> None:
    """Refuse NaN and infinity, saying how many there are and where the first one is."""
    # A finite sum proves every entry finite without an [N, D] array of booleans.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(float(array.sum())):
            return
    bad = ~np.isfinite(np.asarray(array))
    if not bad.any():
        return
    nans = int(np.isnan(np.asarray(array)).sum())
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    where = f"row {first[0]}, column {first[1]}" if len(first) == 2 else f"index {first}"
    raise ValueError(
        f"{name}: expected finite numbers, got {nans} NaN and {int(bad.sum()) - nans} inf, "
        f"the first at {where}; drop or impute them first"
    )


def points(value: object, name: str = "x", minimum: int = 1) -> ArrayLike:
    """Return `value` as an [N, D] array of finite floats with N >= minimum and D >= 1."""
    array = float_array(value, name)
    if array.ndim != 2:
        cure = " (one column: x.reshape(-1, 1))" if array.ndim == 1 else ""
        raise ValueError(f"{name}: expected shape [N, D], got {array.shape}{cure}")
    if array.shape[1] < 1:
        raise ValueError(f"{name}: expected at least one column, got shape {array.shape}")
    if array.shape[0] < minimum:
        raise ValueError(f"{name}: expected at least {minimum} rows, got shape {array.shape}")
    finite(array, name)
    return array


def distinct_rows(array: ArrayLike, wanted: int, name: str = "x") -> None:
    """Refuse data with fewer than `wanted` distinct rows (each component needs one of its own)."""
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
    """Refuse an array whose shape is not `expected`."""
    if array.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")


def symmetric_positive_definite(array: np.ndarray, name: str) -> None:
    """Refuse matrices [..., D, D] that are not symmetric positive definite."""
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
