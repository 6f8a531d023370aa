"""A Monte Carlo number with its standard error, and averages of such numbers over data points."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.stats import norm

from lvm_jax._core import checks
from lvm_jax._core.moments import moments
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Int, Scalar


class Measured(NamedTuple):
    """Numbers with their standard errors over the draws (0 where they are exact)."""

    value: Float[Array, "..."]
    standard_error: Float[Array, "..."]

    def interval(self, confidence: float = 0.95) -> tuple[Array, Array]:
        """The normal interval, value -+ z standard_error; ValueError for another than (0, 1)."""
        if not 0 < checks.number(confidence, "confidence") < 1:
            raise ValueError(f"confidence: expected a probability in (0, 1), got {confidence}")
        half = norm.ppf(0.5 + confidence / 2) * self.standard_error
        return self.value - half, self.value + half


class Average(NamedTuple):
    """The mean over N data points, with its two errors apart, as `evidence.Summary` has them."""

    value: Scalar
    monte_carlo_error: Scalar  # over the draws, these points given
    sampling_error: Scalar  # over the points, another data set being drawn; holds the first


def average(found: Measured) -> Average:
    """The mean over the leading axis N of numbers measured independently for each point.

        monte_carlo_error = sqrt(sum_n standard_error_n^2) / N
        sampling_error = sqrt(Var_n(value_n) / N)

    The sampling error of one point is NaN. Raises ValueError for numbers of no axis.
    """
    if jnp.ndim(found.value) < 1:
        raise ValueError("found: expected numbers of N data points, [N, ...], got one number")
    return _average(found)


@bounded_jit()
def _average(found: Measured) -> Average:
    num_points = found.value.shape[0]
    spread = moments(found.value)
    return Average(
        spread.mean,
        jnp.sqrt((found.standard_error**2).sum(0)) / num_points,
        jnp.sqrt(spread.variance / num_points),
    )


def of_draws(values: Float[Array, "S ..."]) -> Measured:
    """The mean of S independent draws; its error is NaN for S = 1."""
    found = moments(values)
    return Measured(found.mean, jnp.sqrt(found.variance / values.shape[0]))


def of_points(
    values: Float[Array, "P S ..."],
    num_points: int | Int[Array, ""],
    chosen: int | Int[Array, ""] | None = None,
) -> Measured:
    """The mean over N = `num_points` points from S >= 2 draws for each of P <= N of them.

    P is `chosen` where `values` is padded with other rows.

        error^2 = (1 - P/N) Var_p(mean_p) / P + (P/N) mean_p(Var_s) / (P S)

    the two-stage formula for P points drawn without replacement: with P = N only the draws err.

    Source: Cochran (1977), chapter 10.
    """
    most, draws = values.shape[:2]
    chosen = most if chosen is None else chosen
    keep = jnp.arange(most) < chosen
    rows = moments(jnp.moveaxis(values, 1, 0))  # over the draws, [P, ...] each
    points, share = moments(rows.mean, keep), chosen / num_points
    within = share * moments(rows.variance, keep).mean / (chosen * draws)
    between = jnp.where(share < 1, (1 - share) * points.variance / chosen, 0.0)
    return Measured(points.mean, jnp.sqrt(within + between))
