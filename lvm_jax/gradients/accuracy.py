"""Bias and variance of a gradient estimator against the exact gradient."""

from typing import NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.typing import Float

ROUNDING = 1e-3  # of the exact gradient: the rounding of float32, and no bias of interest


class Accuracy(NamedTuple):
    """Against the exact gradient, in units of its length (variance: of its square)."""

    bias: Estimate  # length of the mean's error, its noise taken off; 0 if that leaves nothing
    z: float  # squared bias in its own standard errors: no bias is seen below 3
    limit: float  # the bias is below this, two standard errors up
    variance: Estimate  # summed over the coordinates

    @property
    def is_seen(self) -> bool:
        """Is the bias beyond its noise and beyond the rounding of float32?"""
        return self.z > 3 and self.bias.value > ROUNDING


def accuracy(
    means: Float[np.ndarray, "B P"],
    variances: Float[np.ndarray, " B"],
    exact: Float[np.ndarray, " P"],
) -> Accuracy:
    """Bias and variance from B independent blocks of gradients with P coordinates.

        bias^2 = average over i != j of <e_i, e_j>,    e_i = mean of block i less the exact gradient

    The noise of the means is not in it, for those of different blocks are independent. Standard
    error by delete-one jackknife. `variances` are those within each block, summed over coordinates.

    Raises ValueError for fewer than 3 blocks, or an exact gradient of length 0.
    """
    num, scale = len(means), np.linalg.norm(exact)
    if num < 3:
        raise ValueError(f"means: expected at least 3 blocks, got {num}")
    if not scale > 0:
        raise ValueError("exact: expected a gradient that is not 0, the unit of every number")
    errors, variances = (means - exact) / scale, variances / scale**2

    def squared(errors: np.ndarray) -> float:
        n = len(errors)
        return float(((errors.sum(0) ** 2).sum() - (errors**2).sum()) / (n * (n - 1)))

    value = squared(errors)
    left = np.array([squared(np.delete(errors, i, axis=0)) for i in range(num)])
    error = float(np.sqrt((num - 1) * left.var()))
    bias = float(np.sqrt(max(value, 0.0)))
    return Accuracy(
        bias=Estimate(bias, error / (2 * bias) if bias > 0 else 0.0),
        z=value / error if error > 0 else 0.0,
        limit=float(np.sqrt(max(value, 0.0) + 2 * error)),
        variance=Estimate(*map(float, (variances.mean(), variances.std(ddof=1) / np.sqrt(num)))),
    )
