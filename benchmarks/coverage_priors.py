"""Priors of `benchmarks.coverage_problems` on a part of R^D."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Gamma(NamedTuple):
    """Independent gamma distributions; -inf outside z > 0."""

    shape: jax.Array  # [D]
    rate: jax.Array

    def sample(self, *, seed: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws, [*sample_shape, D]."""
        shape = (*sample_shape, self.shape.size)
        return jax.random.gamma(seed, self.shape, shape) / jnp.broadcast_to(self.rate, shape)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Log-density of one z, in nats."""
        inside = jnp.where(z > 0, z, 1.0)
        constant = self.shape * jnp.log(self.rate) - jax.scipy.special.gammaln(self.shape)
        value = constant + (self.shape - 1) * jnp.log(inside) - self.rate * inside
        return jnp.where(z > 0, value, -jnp.inf).sum()


class Beta(NamedTuple):
    """Independent beta distributions; -inf outside 0 < z < 1."""

    a: jax.Array  # [D]
    b: jax.Array

    def sample(self, *, seed: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws, [*sample_shape, D]."""
        return jax.random.beta(seed, self.a, self.b, (*sample_shape, self.a.size))

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Log-density of one z, in nats."""
        inside = (z > 0) & (z < 1)
        y = jnp.where(inside, z, 0.5)
        value = (self.a - 1) * jnp.log(y) + (self.b - 1) * jnp.log1p(-y)
        value -= jax.scipy.special.betaln(self.a, self.b)
        return jnp.where(inside, value, -jnp.inf).sum()


class Box(NamedTuple):
    """Uniform on [-end, end]^D."""

    end: jax.Array  # [D]

    def sample(self, *, seed: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws, [*sample_shape, D]."""
        shape = (*sample_shape, self.end.size)
        return jnp.broadcast_to(self.end, shape) * jax.random.uniform(seed, shape, minval=-1.0)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Log-density of one z, in nats."""
        inside = (jnp.abs(z) <= self.end).all()
        return jnp.where(inside, -jnp.log(2 * self.end).sum(), -jnp.inf)
