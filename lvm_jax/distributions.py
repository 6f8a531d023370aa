"""The one door to distrax, with the few families it lacks.

distrax builds a multivariate normal on a bijector that keeps bound methods, and with them the OLD
parameters, so it must never cross a transformation; `full_rank_normal` holds plain arrays.
"""

from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax.typing import Array, Float, Key, Scalar

Categorical = distrax.Categorical
Independent = distrax.Independent
Normal = distrax.Normal


class FullRankNormal(NamedTuple):
    """N(mean, L L^T) in D dimensions; a pytree of arrays, safe under every transformation."""

    mean: Float[Array, " D"]
    cholesky: Float[Array, "D D"]

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        white = solve_triangular(self.cholesky, value - self.mean, lower=True)
        log_det = jnp.log(jnp.diagonal(self.cholesky)).sum()
        return -0.5 * (white @ white + value.size * jnp.log(2 * jnp.pi)) - log_det

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """mean + L epsilon, [*sample_shape, D]."""
        shape = (*sample_shape, self.mean.shape[0])
        noise = jax.random.normal(seed, shape, self.mean.dtype)
        return self.mean + noise @ self.cholesky.T
