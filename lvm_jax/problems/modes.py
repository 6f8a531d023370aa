"""Problems whose posterior has two modes and whose guide covers one mode."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions, priors
from lvm_jax._core import checks
from lvm_jax.models import Model
from lvm_jax.problems.base import Problem, changed, host
from lvm_jax.problems.changes import shifted_normal
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar


class Sensors(NamedTuple):
    """theta of `two_modes`: x = g_k z + noise of standard deviation s_k, with k unobserved."""

    log_weights: Float[Array, " 2"]
    signs: Float[Array, " 2"]  # g
    scales: Float[Array, " 2"]  # s: the narrow mode, then the wide one


def two_modes(dim: int, scales: tuple[float, float] = (0.3, 1.0)) -> Problem:
    """z ~ N(0, I), x | z ~ (N(z, s_1^2 I) + N(-z, s_2^2 I)) / 2; the posterior has two modes.

    Mode k is N(g_k x / (1 + s_k^2), s_k^2 / (1 + s_k^2) I), g = (1, -1), with a posterior mass
    proportional to N(x; 0, (1 + s_k^2) I). The guide covers the second mode only, like a q trained
    by the ELBO. Raises ValueError for dim < 1.
    """
    dim = checks.integer(dim, "dim", 1)
    theta = Sensors(host(np.log([0.5, 0.5])), host([1.0, -1.0]), host(scales))
    model = Model(
        init=lambda key: theta,
        prior=lambda theta: distributions.normal(jnp.zeros(dim), jnp.ones(dim)),
        likelihood=_sensed,
        posterior=_both_modes,
        log_evidence=lambda theta, x: jax.nn.logsumexp(_log_masses(theta, x)),
    )

    def second_mode(posterior: priors.Mixture) -> Distribution:
        means, deviations = posterior.parts
        return shifted_normal(means[1], deviations[1] * jnp.ones(dim))

    discrepancy = "second mode alone, 1.2 times as wide, 0.1 sd aside"
    return Problem("two modes", model, theta, changed(model, theta, second_mode), (), discrepancy)


def _sensed(theta: Sensors, z: Float[Array, " D"]) -> priors.Mixture:
    def component(z: Array, part: tuple[Scalar, Scalar]) -> Distribution:
        sign, scale = part
        return distributions.normal(sign * z, jnp.broadcast_to(scale, z.shape))

    return priors.Mixture(theta.log_weights, z, (theta.signs, theta.scales), component)


def _log_masses(theta: Sensors, x: Float[Array, " D"]) -> Float[Array, " 2"]:
    """log pi_k N(x; 0, (1 + s_k^2) I)."""
    variances = 1 + theta.scales**2
    log_normal = -0.5 * ((x**2).sum() / variances + x.size * jnp.log(2 * jnp.pi * variances))
    return theta.log_weights + log_normal


def _both_modes(theta: Sensors, x: Float[Array, " D"]) -> priors.Mixture:
    variances = 1 + theta.scales**2
    means = (theta.signs / variances)[:, None] * x[None]

    def component(shared: Params, part: tuple[Array, Array]) -> Distribution:
        return distributions.normal(part[0], jnp.broadcast_to(part[1], part[0].shape))

    log_weights = jax.nn.log_softmax(_log_masses(theta, x))
    return priors.Mixture(log_weights, (), (means, theta.scales / jnp.sqrt(variances)), component)


class NormalsOnLine(NamedTuple):
    """sum_k pi_k N(m_k, s^2) in one dimension; z has shape [1]."""

    log_weights: Float[Array, " K"]
    means: Float[Array, " K"]
    deviation: Scalar  # s

    def log_prob(self, value: Float[Array, " 1"]) -> Scalar:
        """Log-density of one z, in nats."""
        white = (value - self.means) / self.deviation
        constant = 0.5 * jnp.log(2 * jnp.pi) + jnp.log(self.deviation)
        return jax.nn.logsumexp(self.log_weights - 0.5 * white**2 - constant)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, 1]."""
        key_k, key_z = jax.random.split(seed)
        k = jax.random.categorical(key_k, self.log_weights, shape=(*sample_shape, 1))
        noise = jax.random.normal(key_z, (*sample_shape, 1))
        return jnp.asarray(self.means)[k] + self.deviation * noise


class TwoNormals(NamedTuple):
    """theta of `two_normals`."""

    log_weights: Float[Array, " 2"]
    means: Float[Array, " 2"]  # of the prior's modes
    deviation: Scalar  # of a mode
    noise: Scalar  # standard deviation of x given z


def two_normals() -> Problem:
    """p(z) = (N(-2, 1/4) + N(2, 1/4)) / 2, x | z ~ N(z, 9/4); x and z have shape [1].

    The posterior is a mixture of two normals of variance 9/40. The guide is N(m, 1), with m the
    mean of the right mode; only its far tail covers the left mode.
    """
    theta = TwoNormals(host(np.log([0.5, 0.5])), host([-2.0, 2.0]), host(0.5), host(1.5))

    def log_masses(theta: TwoNormals, x: Float[Array, " 1"]) -> Float[Array, " 2"]:
        variance = theta.deviation**2 + theta.noise**2
        log_normal = -0.5 * ((x - theta.means) ** 2 / variance + jnp.log(2 * math.pi * variance))
        return theta.log_weights + log_normal

    def posterior(theta: TwoNormals, x: Float[Array, " 1"]) -> NormalsOnLine:
        precisions = theta.deviation**-2, theta.noise**-2
        variance = 1 / (precisions[0] + precisions[1])
        means = variance * (theta.means * precisions[0] + x * precisions[1])
        log_weights = jax.nn.log_softmax(log_masses(theta, x))
        return NormalsOnLine(log_weights, means, jnp.sqrt(variance))

    model = Model(
        init=lambda key: theta,
        prior=lambda theta: NormalsOnLine(theta.log_weights, theta.means, theta.deviation),
        likelihood=lambda theta, z: distributions.normal(z, jnp.full(1, theta.noise)),
        posterior=posterior,
        log_evidence=lambda theta, x: jax.nn.logsumexp(log_masses(theta, x)),
    )
    guide = changed(model, theta, lambda p: distributions.normal(p.means[1:], jnp.ones(1)))
    return Problem("two normals", model, theta, guide, (), "N(m, 1) at the right mode")
