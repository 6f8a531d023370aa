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
    factor: Float[Array, "D D"]  # C, lower

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one z, in nats."""
        return self.base.log_prob((value - self.mean) @ self.factor) + self._log_det()

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
        return self._place(v), log_q + self._log_det()

    @precision.full
    def _place(self, v: Float[Array, "*S D"]) -> Array:
        flat = v.reshape(-1, self.mean.size).T
        away = solve_triangular(self.factor, flat, trans=1, lower=True).T.reshape(v.shape)
        return jnp.broadcast_to(self.mean, v.shape) + away

    def _log_det(self) -> Scalar:
        return jnp.log(jnp.diagonal(self.factor)).sum()
