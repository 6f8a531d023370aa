"""Bias and variance of a gradient estimator against the exact gradient."""

from typing import NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.typing import Float

ROUNDING = 1e-3  # of the exact gradient; smaller biases may be float32 rounding


class Accuracy(NamedTuple):
    """Bias and variance, in units of the exact gradient's length (variance: its square)."""

    bias: Estimate  # length of the mean error, corrected for noise; 0 if the noise is larger
    z: float  # squared bias in standard errors; below 3 no bias is detected
    limit: float  # upper limit of the bias, two standard errors above the estimate
    variance: Estimate  # summed over the coordinates

    @property
    def is_seen(self) -> bool:
        """Whether the bias exceeds its noise and the rounding of float32."""
        return self.z > 3 and self.bias.value > ROUNDING


def accuracy(
    means: Float[np.ndarray, "B P"],
    variances: Float[np.ndarray, " B"],
    exact: Float[np.ndarray, " P"],
) -> Accuracy:
    """Bias and variance from B independent blocks of gradients with P coordinates.

        bias^2 = average over i != j of <e_i, e_j>,    e_i = mean of block i - exact gradient

    Products of different, independent blocks contain no noise variance. The standard error is by
    delete-one jackknife. `variances` are within blocks, summed over the coordinates.

    Raises ValueError for fewer than 3 blocks, or an exact gradient of length 0.
    """
    num, scale = len(means), np.linalg.norm(exact)
    if num < 3:
        raise ValueError(f"means: expected at least 3 blocks, got {num}")
    if not scale > 0:
        raise ValueError("exact: expected a gradient that is not 0, the unit of bias and variance")
    errors, variances = (means - exact) / scale, variances / scale**2

    def squared(errors: np.ndarray) -> float:
        n = len(errors)
        return float(((errors.sum(0) ** 2).sum() - (errors**2).sum()) / (n * (n - 1)))

    value = squared(errors)
    without_one = np.array([squared(np.delete(errors, i, axis=0)) for i in range(num)])
    error = float(np.sqrt((num - 1) * without_one.var()))
    bias = float(np.sqrt(max(value, 0.0)))
    return Accuracy(
        bias=Estimate(bias, error / (2 * bias) if bias > 0 else 0.0),
        z=value / error if error > 0 else 0.0,
        limit=float(np.sqrt(max(value, 0.0) + 2 * error)),
        variance=Estimate(*map(float, (variances.mean(), variances.std(ddof=1) / np.sqrt(num)))),
    )
