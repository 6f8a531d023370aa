"""Mean and variance that add, so that a stream needs one pass and the memory of one chunk.

Chan, Golub and LeVeque's (1983) merge: unlike sum v^2 - (sum v)^2 / n it does not cancel, so the
variance is never negative and that of equal values is 0 to rounding, however far from 0 they are.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lvm_jax.typing import Array, Bool, Float, Scalar


class Moments(NamedTuple):
    """Of n values, each an array: n, their sum and their squared distance from the mean."""

    number: Scalar
    total: Array
    squared: Array

    @property
    def mean(self) -> Array:
        """The sample mean; NaN of no values."""
        return self.total / self.number

    @property
    def variance(self) -> Array:
        """The unbiased sample variance; NaN of fewer than two values."""
        return self.squared / jnp.where(self.number > 1, self.number - 1, jnp.nan)


def moments(values: Float[Array, "S ..."], keep: Bool[Array, " S"] | None = None) -> Moments:
    """Moments over the leading axis, of the rows that `keep` marks (all of them by default)."""
    if keep is None:
        keep = jnp.ones(values.shape[0], bool)
    kept = keep.reshape(-1, *[1] * (values.ndim - 1))
    number = keep.sum(dtype=values.dtype)
    total = jnp.where(kept, values, 0).sum(0)
    mean = total / jnp.maximum(number, 1)
    return Moments(number, total, (jnp.where(kept, values - mean[None], 0) ** 2).sum(0))


def merge(left: Moments, right: Moments) -> Moments:
    """The moments of both sets of values together."""
    number = left.number + right.number
    apart = left.total / jnp.maximum(left.number, 1) - right.total / jnp.maximum(right.number, 1)
    between = apart**2 * (left.number * right.number / jnp.maximum(number, 1))
    return Moments(number, left.total + right.total, left.squared + right.squared + between)
