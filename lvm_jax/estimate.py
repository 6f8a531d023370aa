"""Numbers with standard errors, and their mean over data points."""

from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax._core.display import by_field, is_number, with_error
from lvm_jax._core.moments import moments
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float


class Estimate(NamedTuple):
    """Numbers with standard errors: two numbers, arrays or pytrees of the same shape."""

    value: Any
    standard_error: Any  # 0 where the value is exact, NaN where the error is not known

    def __repr__(self) -> str:
        """For example Estimate(-4.155 ± 0.012) for one number, otherwise the two fields."""
        if is_number(self.value) and is_number(self.standard_error):
            return f"Estimate({with_error(self.value, self.standard_error)})"
        return by_field(self)

    @classmethod
    def exact(cls, value: Any) -> "Estimate":
        """An array or a scalar with standard error 0."""
        value = jnp.asarray(value)
        return cls(value, jnp.zeros_like(value))

    @classmethod
    def of_draws(cls, values: Float[Array, "S ..."]) -> "Estimate":
        """The mean of S independent draws; its error is NaN for S = 1."""
        found = moments(values)
        return cls(found.mean, jnp.sqrt(found.variance / values.shape[0]))

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """The normal interval, value -+ Phi^-1((1 + level) / 2) standard_error.

        Raises ValueError for a level outside (0, 1).
        """
        z = -NormalDist().inv_cdf(0.5 - checks.level(level) / 2)
        return (
            jax.tree.map(lambda value, error: value - z * error, *self),
            jax.tree.map(lambda value, error: value + z * error, *self),
        )

    def average(self) -> "Average":
        """The mean over the leading axis N of numbers estimated independently for each point.

            monte_carlo_error = sqrt(sum_n standard_error_n^2) / N
            sampling_error = sqrt(Var_n(value_n) / N)

        The sampling error of one point is NaN. Raises ValueError for a number without an axis.
        """
        if jnp.ndim(self.value) < 1:
            raise ValueError("value: expected numbers of N data points, [N, ...], got one number")
        return _average(self)


class Average(NamedTuple):
    """Means over N data points, each with two errors; the sampling error includes the other."""

    value: Any
    monte_carlo_error: Any  # from the draws, for these points
    sampling_error: Any  # from the draw of the data set


@bounded_jit()
def _average(found: Estimate) -> Average:
    num_points = found.value.shape[0]
    spread = moments(found.value)
    return Average(
        spread.mean,
        jnp.sqrt((found.standard_error**2).sum(0)) / num_points,
        jnp.sqrt(spread.variance / num_points),
    )
