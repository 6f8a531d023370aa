"""A problem whose posterior has four modes of equal mass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.guides.base import Guide
from lvm_jax.models import Model
from lvm_jax.problems.base import Problem, host, on_device
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar

NUM_NODES, REACH = 8_001, 8.0  # of the quadrature over |z|, up to REACH prior deviations
SQUARED = 2  # coordinates that enter by their squares


class Squares(NamedTuple):
    """theta of `four_modes`: z ~ N(0, spread^2 I), x | z ~ N((z_1^2, z_2^2, z_3, ...), noise^2)."""

    spread: Scalar
    noise: Scalar

    def nodes(self) -> Float[Array, " M"]:
        """Values of |z| from 0, evenly spaced."""
        return jnp.linspace(0.0, REACH * self.spread, NUM_NODES)

    def log_masses(self, x: Float[Array, " 2"]) -> Float[Array, "2 M"]:
        """log p(x_i, z_i = +-node) for the squared coordinates, at the nodes times their spacing.

        Both signs count, and the end of the trapezoidal rule at 0 counts half.
        """
        z = self.nodes()
        prior = jax.scipy.stats.norm.logpdf(z, 0.0, self.spread)
        likelihood = jax.scipy.stats.norm.logpdf(x[:, None], z[None] ** 2, self.noise)
        weight = jnp.log(jnp.where(jnp.arange(NUM_NODES) == 0, 1.0, 2.0) * (z[1] - z[0]))
        return prior[None] + likelihood + weight[None]


class SquaresPosterior(NamedTuple):
    """p(z | x) of `four_modes`, for one x."""

    theta: Squares
    x: Float[Array, " D"]

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one z, in nats, normalised by quadrature."""
        prior = jax.scipy.stats.norm.logpdf(value, 0.0, self.theta.spread).sum()
        mean = jnp.concatenate([value[:SQUARED] ** 2, value[SQUARED:]])
        likelihood = jax.scipy.stats.norm.logpdf(self.x, mean, self.theta.noise).sum()
        return prior + likelihood - _log_evidence(self.theta, self.x)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, D]; |z_1| and |z_2| are nodes of the quadrature."""
        key_size, key_sign, key_rest = jax.random.split(seed, 3)
        log_masses = self.theta.log_masses(self.x[:SQUARED])
        shape = (*sample_shape, SQUARED)
        size = self.theta.nodes()[jax.random.categorical(key_size, log_masses, shape=shape)]
        sign = jax.random.rademacher(key_sign, shape, size.dtype)
        precision = self.theta.spread**-2 + self.theta.noise**-2
        mean = self.x[SQUARED:] * self.theta.noise**-2 / precision
        shape = (*sample_shape, self.x.size - SQUARED)
        noise = jax.random.normal(key_rest, shape, size.dtype) / jnp.sqrt(precision)
        return jnp.concatenate([sign * size, jnp.broadcast_to(mean, shape) + noise], axis=-1)


def four_modes(dim: int, spread: float = 2.0, noise: float = 0.3) -> Problem:
    """z ~ N(0, spread^2 I), x | z ~ N((z_1^2, z_2^2, z_3, ..., z_D), noise^2 I).

    The signs of z_1 and z_2 do not change x: the posterior has four modes of equal mass, of which
    those with x_i below about 2 noise merge. log p(x) is a trapezoidal sum for z_1 and z_2, whose
    error is that of rounding. The guide is the prior. Raises ValueError for dim < 2.
    """
    dim = checks.integer(dim, "dim", 2)
    theta = Squares(host(spread), host(noise))

    def prior(theta: Squares) -> Distribution:
        return distributions.normal(jnp.zeros(dim), jnp.broadcast_to(theta.spread, (dim,)))

    def likelihood(theta: Squares, z: Float[Array, " D"]) -> Distribution:
        mean = jnp.concatenate([z[:SQUARED] ** 2, z[SQUARED:]])
        return distributions.normal(mean, jnp.broadcast_to(theta.noise, (dim,)))

    model = Model(lambda key: theta, prior, likelihood, SquaresPosterior, _log_evidence)
    guide = Guide(lambda key: (), lambda phi, x: prior(on_device(theta)))
    return Problem("four modes", model, theta, guide, (), "the prior")


def _log_evidence(theta: Squares, x: Float[Array, " D"]) -> Scalar:
    squared = jax.nn.logsumexp(theta.log_masses(x[:SQUARED]), axis=1).sum()
    scale = jnp.sqrt(theta.spread**2 + theta.noise**2)
    return squared + jax.scipy.stats.norm.logpdf(x[SQUARED:], 0.0, scale).sum()
