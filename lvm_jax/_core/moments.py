"""Streaming mean and variance: moments of chunks, which are merged.

The merge is that of Chan, Golub and LeVeque (1983). Unlike sum v^2 - (sum v)^2 / n it has no
cancellation: the variance is never negative, and 0 to rounding for equal values.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lvm_jax.typing import Array, Bool, Float, Scalar


class Moments(NamedTuple):
    """The number of values, their sum, and their sum of squared deviations from the mean."""

    number: Scalar
    total: Array
    squared: Array

    @property
    def mean(self) -> Array:
        """The sample mean; NaN for no values."""
        return self.total / self.number

    @property
    def variance(self) -> Array:
        """The unbiased sample variance; NaN for fewer than two values."""
        return self.squared / jnp.where(self.number > 1, self.number - 1, jnp.nan)


def moments(values: Float[Array, "S ..."], keep: Bool[Array, " S"] | None = None) -> Moments:
    """Moments over the leading axis, of the rows where `keep` is True (by default all rows)."""
    if keep is None:
        keep = jnp.ones(values.shape[0], bool)
    kept = keep.reshape(-1, *[1] * (values.ndim - 1))
    number = keep.sum(dtype=values.dtype)
    total = jnp.where(kept, values, 0).sum(0)
    mean = total / jnp.maximum(number, 1)
    return Moments(number, total, (jnp.where(kept, values - mean[None], 0) ** 2).sum(0))


def merge(left: Moments, right: Moments) -> Moments:
    """The moments of the union of two sets of values."""
    number = left.number + right.number
    apart = left.total / jnp.maximum(left.number, 1) - right.total / jnp.maximum(right.number, 1)
    between = apart**2 * (left.number * right.number / jnp.maximum(number, 1))
    return Moments(number, left.total + right.total, left.squared + right.squared + between)
