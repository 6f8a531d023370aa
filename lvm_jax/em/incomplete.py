"""Rows with missing entries (NaN) on the host: their validation, order and families.

The entries are missing at random (Rubin 1976): given the observed entries of a row, the probability
that others are missing does not depend on their values. The likelihood of the observed entries is
then sufficient, and EM maximises it.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from lvm_jax._core import checks
from lvm_jax.em import refusals
from lvm_jax.em.covariances import GAUSSIANS
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.gaussian import Gaussian
from lvm_jax.em.grouped import GroupedFull, GroupedTied
from lvm_jax.em.masked import MaskedDiagonal, MaskedSpherical

BLOCKS = (1, 8, 64, 512)  # powers of two, so that they divide the buckets of `padding`


class Rows(NamedTuple):
    """Rows in the order that their family needs."""

    family: ExponentialFamily
    x: np.ndarray
    weight: np.ndarray | None
    places: np.ndarray | None = None  # [N], the place of each of the user's rows; None: their own
    fill: np.ndarray | None = None  # [D], the means of the observed entries, for a fit


def gaussian(family: Gaussian, block: int) -> ExponentialFamily | None:
    """The family of rows with missing entries for one of the four covariance types."""
    if family != GAUSSIANS[family.covariance_type]:  # a user's subclass
        return None
    made = {
        "full": GroupedFull(block),
        "tied": GroupedTied(block),
        "diag": MaskedDiagonal(),
        "spherical": MaskedSpherical(),
    }
    return made[family.covariance_type]


def read_rows(x: Any, family: ExponentialFamily) -> tuple[np.ndarray, bool]:
    """Rows [N, D] of the family's support, and whether entries are missing.

    Raises ValueError for infinity, and for NaN if the family has no `incomplete` family.
    """
    x, missing = checks.points_or_nan(x, "x")
    if not missing:
        refusals.check_rows(family.check, x)
        return x, False
    lost = np.isnan(x) & ~family.accepts_nan(x.shape[1])[None]
    if lost.any():
        raise ValueError(
            f"x: expected finite numbers for {type(family).__name__} components, got {lost.sum()} "
            f"NaN, the first at {checks.place(checks.position(0, lost))}; drop or impute them first"
        )
    refusals.check_rows(family.check_observed, x)
    return x, True


def arrange_fit(family: ExponentialFamily, x: np.ndarray, weight: np.ndarray | None) -> Rows:
    """Rows with missing entries for a fit, with the means of the observed entries."""
    weight = check_observed(x, weight)
    return arrange(family, x, weight)._replace(fill=column_means(x, weight))


def arrange(family: ExponentialFamily, x: np.ndarray, weight: np.ndarray | None) -> Rows:
    """Order rows with missing entries for their family.

    For a family `by_pattern` the rows are sorted by their pattern of missing entries, and each
    pattern is padded to a multiple of the block size with copies of its last row and weight 0.
    """
    if not family.by_pattern:
        return Rows(_family(family, 1), x, weight)
    bits = np.packbits(np.isnan(x), axis=1)
    keys = np.ascontiguousarray(bits).view(np.dtype((np.void, bits.shape[1]))).ravel()
    _, pattern, counts = np.unique(keys, return_inverse=True, return_counts=True)
    block = block_size(counts, x.shape[1])
    padded = -(-counts // block) * block
    order = np.argsort(pattern, kind="stable")
    shift = np.concatenate([[0], np.cumsum(padded - counts)[:-1]])
    places = np.empty(len(x), np.int64)
    places[order] = np.arange(len(x)) + shift[pattern[order]]
    last = np.zeros(padded.sum(), np.int64)  # of the places up to here, the last with a row
    last[places] = places
    rows = np.empty(len(last), np.int64)
    rows[places] = np.arange(len(x))
    rows = rows[np.maximum.accumulate(last)]
    given = np.ones(len(x), x.dtype) if weight is None else weight
    spread = np.zeros(len(last), given.dtype)
    spread[places] = given
    return Rows(_family(family, block), x[rows], spread, places)


def block_size(counts: np.ndarray, dim: int) -> int:
    """The block size with the least work for patterns with these counts of rows.

    A block costs D rank-one updates of a [D, D] matrix, about as much as D rows.
    """
    return min(BLOCKS, key=lambda size: int((-(-counts // size)).sum()) * (dim + size))


def _family(family: ExponentialFamily, block: int) -> ExponentialFamily:
    made = family.incomplete(block)
    if made is None:  # refused by `read_rows`
        raise TypeError(f"{type(family).__name__} has no family for rows with missing entries")
    return made


def column_means(x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """The (weighted) means of the observed entries in float64."""
    seen = ~np.isnan(x)
    ones = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    return (ones @ np.where(seen, x, 0)) / (ones @ seen)


def check_observed(x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """The weights of a fit, 0 for rows without any observed entry, with a warning.

    Raises ValueError for columns without any observed entry.
    """
    weight = np.ones(len(x), x.dtype) if weight is None else weight
    check_columns(x[weight > 0], "x")
    empty = np.isnan(x).all(1)
    rows = np.flatnonzero(empty & (weight > 0)).tolist()
    if rows:
        warnings.warn(
            f"x: {_some('row', rows)} of {len(x)} without an observed value do not affect the fit",
            UserWarning,
            stacklevel=5,
        )
    return np.where(empty, 0, weight).astype(weight.dtype)


def check_columns(x: np.ndarray, name: str) -> None:
    """Raise ValueError for columns without any observed entry."""
    lost = np.flatnonzero(np.isnan(x).all(0)).tolist()
    if lost:
        raise ValueError(
            f"{name}: expected an observed value in every column, got none in "
            f"{_some('column', lost)}; drop them"
        )


def _some(name: str, places: list[int]) -> str:
    """A count of rows or columns and the first of them."""
    plural = "s" if len(places) > 1 else ""
    return f"{len(places)} {name}{plural} ({places[:10]}{'...' if len(places) > 10 else ''})"
