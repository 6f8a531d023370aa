"""Rows with missing entries (NaN) on the host: their validation, order and families.

The entries are missing at random (Rubin 1976): given the observed entries of a row, the probability
that others are missing does not depend on their values. The likelihood of the observed entries is
then sufficient, and EM maximises it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.warn import warn
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


def arrange(
    family: ExponentialFamily, x: np.ndarray, weight: np.ndarray | None, block: int | None = None
) -> Rows:
    """Order rows with missing entries for their family.

    For a family `by_pattern` the rows are sorted by their pattern of missing entries, and each
    pattern is padded to a multiple of `block`, by default that of `block_size`, with copies of its
    last row and weight 0.
    """
    if not family.by_pattern:
        return Rows(with_missing(family), x, weight)
    order, counts = by_pattern(x)
    block = block_size(counts, x.shape[1]) if block is None else block
    padded = -(-counts // block) * block
    more = padded - counts
    to = np.arange(len(x)) + np.repeat(np.cumsum(more) - more, counts)  # of each row in order
    rows = np.repeat(order[np.cumsum(counts) - 1], padded)
    rows[to] = order
    places = np.empty(len(x), np.int64)
    places[order] = to
    given = np.ones(len(x), x.dtype) if weight is None else weight
    spread = np.zeros(len(rows), given.dtype)
    spread[to] = given[order]
    return Rows(with_missing(family, block), x[rows], spread, places)


def by_pattern(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts rows [N, D] by their missing entries; the rows of each pattern."""
    bits = np.packbits(np.isnan(x), axis=1)
    size = next((size for size in (1, 2, 4, 8) if bits.shape[1] <= size), None)
    if size is None:
        keys = np.unique(bits, axis=0, return_inverse=True)[1].ravel()
    else:  # integers sort faster
        bits = np.pad(bits, ((0, 0), (0, size - bits.shape[1])))
        keys = np.ascontiguousarray(bits).view(f"u{size}").ravel()
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order])) + 1
    return order, np.diff(np.concatenate([[0], first, [len(x)]]))


def block_size(counts: np.ndarray, dim: int) -> int:
    """The block size with the least work for patterns with these counts of rows.

    A block costs D rank-one updates of a [D, D] matrix, about as much as D rows.
    """
    return min(BLOCKS, key=lambda size: int((-(-counts // size)).sum()) * (dim + size))


def is_grouped(family: ExponentialFamily) -> bool:
    """Whether the family takes rows with missing entries in blocks of one pattern."""
    return family.by_pattern and family != family.original


def with_missing(family: ExponentialFamily, block: int = 1) -> ExponentialFamily:
    """The family of rows with missing entries, of which every `block` have one pattern."""
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
    check_columns(x if weight is None else x[weight > 0], "x")
    return drop_empty(x, weight)


def drop_empty(x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """`observed_weight`, with a warning if it drops rows."""
    given = np.ones(len(x), x.dtype) if weight is None else weight
    weight = observed_weight(x, given)
    rows = np.flatnonzero(weight != given).tolist()
    if rows:
        warn_empty(_some("row", rows), len(x))
    return weight


def observed_weight(x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """The weights [N], by default 1, with 0 for rows without any observed entry."""
    weight = np.ones(len(x), x.dtype) if weight is None else weight.copy()
    some = np.flatnonzero(np.isnan(x[:, 0]))
    weight[some[np.isnan(x[some]).all(1)]] = 0
    return weight


def warn_empty(rows: str, number: int) -> None:
    """Warn about rows without any observed entry, named by `rows`."""
    message = f"x: {rows} of {number:,} without an observed value do not affect the fit"
    warn(message)


def check_columns(x: np.ndarray, name: str) -> None:
    """Raise ValueError for columns without any observed entry."""
    refuse_columns(np.flatnonzero(np.isnan(x).all(0)).tolist(), name)


def refuse_columns(lost: Sequence[Any], name: str) -> None:
    """Raise ValueError if any columns, given by name or number, are `lost`."""
    if lost:
        raise ValueError(
            f"{name}: expected an observed value in every column, got none in "
            f"{_some('column', lost)}; drop them"
        )


def _some(name: str, places: Sequence[Any]) -> str:
    """A count of rows or columns and the first of them."""
    plural = "s" if len(places) > 1 else ""
    return f"{len(places)} {name}{plural} ({places[:10]}{'...' if len(places) > 10 else ''})"
