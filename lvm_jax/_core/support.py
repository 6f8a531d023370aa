"""The support of data, an attribute of likelihoods and models, and its validation on the host.

In a compiled step data outside the support give a bound of -inf or, for a Bernoulli likelihood of
grey levels, no visible error.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax.typing import ArrayLike

SLACK = 1e-3  # tolerance in steps; k / 255 in float32 has an error of 2e-5 steps


class Support(NamedTuple):
    """The valid numbers: low <= x <= high, in steps of `step` from low (0: all numbers)."""

    low: float
    high: float
    step: float
    expected: str  # description for an error
    cure: str


REAL = Support(-math.inf, math.inf, 0.0, "finite numbers", "drop or impute the others")
BITS = Support(
    *(0.0, 1.0, 1.0, "bits, 0 or 1"),
    cure="binarise the data, or use continuous_bernoulli, which takes numbers in [0, 1]",
)
UNIT = Support(
    *(0.0, 1.0, 0.0, "numbers in [0, 1]"),
    cure="divide by the largest possible value (255 for bytes), or use a gaussian",
)
COUNTS = Support(
    *(0.0, math.inf, 1.0, "counts 0, 1, 2, ..."),
    cure="give raw counts (neither normalised nor logarithms), or use a gaussian",
)

MASK = Support(
    *(0.0, 1.0, 1.0, "a mask of 0 and 1"),
    cure="give 1 for an entry that is observed, and 0 for one that is missing",
)
Supports = Support | tuple[Any, ...]  # one for all of x, or one for each part of x


def of_leaves(supports: Supports, x: Any) -> list[tuple[Any, Support]]:
    """The leaves of x, each with its support."""
    if isinstance(supports, Support):
        return [(leaf, supports) for leaf in jax.tree.leaves(x)]
    return [pair for own, part in zip(supports, x, strict=True) for pair in of_leaves(own, part)]


def up_to(max_length: int) -> Support:
    """Lengths of sequences that are padded to `max_length`."""
    return Support(
        *(0.0, float(max_length), 1.0, f"lengths 0, ..., {max_length}"),
        cure="count the entries before the padding, or pad to more",
    )


def whole_numbers(num_levels: int) -> Support:
    """0, ..., L - 1."""
    return Support(
        *(0.0, num_levels - 1.0, 1.0, f"integers 0, ..., {num_levels - 1}"),
        cure="multiply grey values in [0, 1] by num_levels - 1, or set num_levels to the data's",
    )


def grey_levels(num_levels: int) -> Support:
    """k / (L - 1), k < L."""
    return Support(
        *(0.0, 1.0, 1 / (num_levels - 1), f"{num_levels} equal levels of [0, 1]"),
        cure=f"give x = k / {num_levels - 1} with integers k, or num_levels as the data have them",
    )


def check(support: Support, x: ArrayLike, name: str = "x") -> None:
    """Raise ValueError for an array [...] with NaN, infinity or a number outside the support.

    The message has the first such value, their number, and a cure. x is read in blocks, in one pass
    if it is valid. Levels have a tolerance of a thousandth of a step; integers are exact.
    """
    array = np.asarray(x)[None] if np.ndim(x) == 0 else x
    if all(_holds(support, block) for _, block in checks.blocks(array)):
        return
    checks.finite(array, name)
    number, value = 0, np.nan
    first: tuple[int, ...] = ()
    for start, block in checks.blocks(array):
        bad = _off(support, block)
        if bad.any() and not number:
            first, value = checks.position(start, bad), block[bad][0]
        number += int(bad.sum())
    raise ValueError(
        f"{name}: expected {support.expected}, got {value:g} at {checks.place(first)} "
        f"({number:,} of {array.size:,} numbers are not); {support.cure}"
    )


def _holds(support: Support, block: np.ndarray) -> bool:
    if block.size == 0:
        return True
    least, most = block.min(), block.max()  # NaN if any number is NaN
    inside = support.low <= least and most <= support.high
    finite = bool(np.isfinite(least) and np.isfinite(most))
    return bool(inside and finite) and not (support.step and _between(support, block).any())


def _off(support: Support, block: np.ndarray) -> np.ndarray:
    bad = (block < support.low) | (block > support.high)
    return bad | _between(support, block) if support.step else bad


def _between(support: Support, block: np.ndarray) -> np.ndarray:
    """Whether each number is between two steps."""
    places = (block - support.low) / support.step
    return np.abs(places - np.round(places)) > (0.0 if support.step == 1 else SLACK)
