"""Errors of estimates with a known truth: root mean square error and coverage of intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lvm_jax._core import checks
from lvm_jax.estimate import Estimate
from lvm_jax.typing import Bool, Float


class Share(NamedTuple):
    """A share of n cases with its Clopper-Pearson interval."""

    share: float
    low: float
    high: float
    of: int


def share(holds: Bool[np.ndarray, " n"] | Sequence[bool], level: float = 0.95) -> Share:
    """The share of True, with the exact interval of a binomial probability at `level`.

    For k of n: low and high are the quantiles (1 - level) / 2 of Beta(k, n - k + 1) and
    (1 + level) / 2 of Beta(k + 1, n - k). For n = 0 the share is NaN and the interval [0, 1].
    Raises ValueError for a level outside (0, 1). Source: Clopper and Pearson (1934).
    """
    from scipy.stats import beta

    level = checks.level(level)
    holds = np.asarray(holds, bool)
    tail = round((1 - level) / 2, 15)  # 0.025 of 0.95, without the rounding of 1 - level
    hits, size = int(holds.sum()), holds.size
    low = beta.ppf(tail, hits, size - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, size - hits) if hits < size else 1.0
    return Share(hits / size if size else np.nan, float(low), float(high), size)


def rmse(errors: Float[np.ndarray, " n"]) -> Estimate:
    """The root mean square error of n independent estimates, with its standard error.

    The error is sd(e^2) / (2 RMSE sqrt(n)) by the delta method, NaN for n = 1. Units as `errors`.
    """
    squared = np.asarray(errors, np.float64) ** 2
    found = float(np.sqrt(squared.mean()))
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squared.std(ddof=1) if squared.size > 1 else np.nan
    return Estimate(found, float(spread / (2 * max(found, 1e-12) * squared.size**0.5)))
