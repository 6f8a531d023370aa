"""The distribution of an affine function of a vector."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax.distributions.base import has_sample_and_log_prob
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar


class Affine(NamedTuple):
    """z = mean + C^-T v, v ~ base: base in the coordinates of N(mean, (C C^T)^-1)."""

    base: Distribution  # of v, [D]
    mean: Float[Array, " D"]
    factor: Float[Array, "D D"] | Float[Array, " D"]  # C, lower, or its diagonal

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one z, in nats."""
        away = value - self.mean
        v = away * self.factor if self.factor.ndim == 1 else away @ self.factor
        return self.base.log_prob(v) + log_det(self.factor)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, D]."""
        return self._place(self.base.sample(seed=seed, sample_shape=sample_shape))

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws, [*sample_shape, D], and log q of each."""
        if has_sample_and_log_prob(self.base):
            v, log_q = self.base.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
        else:
            v = self.base.sample(seed=seed, sample_shape=sample_shape)
            log_q = jnp.vectorize(self.base.log_prob, signature="(d)->()")(v)
        return self._place(v), log_q + log_det(self.factor)

    def _place(self, v: Float[Array, "*S D"]) -> Array:
        away = solve_transposed(self.factor, v.reshape(-1, self.mean.size)).reshape(v.shape)
        return jnp.broadcast_to(self.mean, v.shape) + away


@precision.full
def solve_transposed(
    factor: Float[Array, "D D"] | Float[Array, " D"], v: Float[Array, "S D"]
) -> Float[Array, "S D"]:
    """C^-T v of some rows v, for a lower C or its diagonal."""
    if factor.ndim == 1:
        return v / factor[None]
    return solve_triangular(factor, v.T, trans=1, lower=True).T


def log_det(factor: Float[Array, "D D"] | Float[Array, " D"]) -> Scalar:
    """log |C|, for a lower C or its diagonal."""
    return jnp.log(factor if factor.ndim == 1 else jnp.diagonal(factor)).sum()
