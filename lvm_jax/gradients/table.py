"""Estimators beside one another: bias, variance and time, as text."""

from typing import NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.typing import Float


class EstimatorRow(NamedTuple):
    """One estimator; bias and variance in units of the exact gradient's length and its square.

    Where the exact gradient is not known the bias is NaN, and the variance in nats^2.
    """

    bias: Estimate  # length of the mean's error; 0 where its noise hides it
    bias_limit: float  # the bias is below this, two standard errors up
    is_biased: bool  # is the bias beyond its noise?
    variance: Estimate  # of one gradient, summed over the coordinates
    seconds: float  # for one gradient, of many that run together

    @property
    def bias_text(self) -> str:
        """The bias with its error where it is seen, otherwise what it is below."""
        if np.isnan(self.bias.value):
            return "NaN"
        if self.is_biased:
            return f"{self.bias.value:.3f} +- {self.bias.standard_error:.3f}"
        return f"< {self.bias_limit:.3f}"


class EstimatorTable(NamedTuple):
    """The estimators of one bound by name; `print` shows a table."""

    bound: str
    num_samples: int
    exact: Float[np.ndarray, " P"] | None  # d bound / d phi, flat, where it is known
    rows: dict[str, EstimatorRow]
    left_out: dict[str, str]  # estimators that need more draws, or fewer values of z: the reason

    def __str__(self) -> str:
        """A line for each estimator, times in microseconds."""
        unit = "nats^2" if self.exact is None else "|exact|^2"
        found = "not known" if self.exact is None else f"{np.linalg.norm(self.exact):.3g} nats"
        lines = [
            f"{self.bound}, {self.num_samples} draws of z; |exact gradient| {found}",
            f"{'estimator':34}{'bias / |exact|':>20}{f'variance / {unit}':>24}{'us':>10}",
        ]
        for name, row in self.rows.items():
            spread = f"{row.variance.value:.3g} +- {row.variance.standard_error:.1g}"
            lines.append(f"{name:34}{row.bias_text:>20}{spread:>24}{1e6 * row.seconds:10.2f}")
        lines += [f"{name}: left out, {reason}" for name, reason in self.left_out.items()]
        if self.exact is None:
            lines.append("bias: NaN, as no exact gradient is known; give exact=")
        return "\n".join(lines)
