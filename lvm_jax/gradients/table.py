"""Tables of bias, variance and time of gradient estimators."""

from typing import NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.typing import Float


class EstimatorRow(NamedTuple):
    """One estimator; bias and variance in units of the exact gradient's length and its square.

    Without an exact gradient the bias is NaN and the variance is in nats^2.
    """

    bias: Estimate  # length of the mean error, corrected for noise; 0 if the noise is larger
    bias_limit: float  # upper limit of the bias, two standard errors above the estimate
    is_biased: bool  # whether the bias exceeds its noise
    variance: Estimate  # of one gradient, summed over the coordinates
    seconds: float  # per gradient of a parallel batch

    @property
    def bias_text(self) -> str:
        """The bias with its standard error if it is detected, otherwise its upper limit."""
        if np.isnan(self.bias.value):
            return "NaN"
        if self.is_biased:
            return f"{self.bias.value:.3f} +- {self.bias.standard_error:.3f}"
        return f"< {self.bias_limit:.3f}"


class EstimatorTable(NamedTuple):
    """The estimators of one bound by name; `print` shows a table."""

    bound: str
    num_samples: int
    exact: Float[np.ndarray, " P"] | None  # d bound / d phi, flat
    rows: dict[str, EstimatorRow]
    left_out: dict[str, str]  # estimators that could not run, with the reason

    def __str__(self) -> str:
        """The table, with one line per estimator and times in microseconds."""
        unit = "nats^2" if self.exact is None else "|exact|^2"
        length = "unknown" if self.exact is None else f"{np.linalg.norm(self.exact):.3g} nats"
        lines = [
            f"{self.bound}, {self.num_samples} draws of z; |exact gradient| {length}",
            f"{'estimator':34}{'bias / |exact|':>20}{f'variance / {unit}':>24}{'us':>10}",
        ]
        for name, row in self.rows.items():
            spread = f"{row.variance.value:.3g} +- {row.variance.standard_error:.1g}"
            lines.append(f"{name:34}{row.bias_text:>20}{spread:>24}{1e6 * row.seconds:10.2f}")
        lines += [f"{name}: left out, {reason}" for name, reason in self.left_out.items()]
        if self.exact is None:
            lines.append("bias: NaN, because the exact gradient is unknown; give exact=")
        return "\n".join(lines)
