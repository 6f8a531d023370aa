"""The beds of the bounds experiment: log p(x), the posterior and the law of the weights are known."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.special import logsumexp

from experiments.importance_bounds_exact import Atoms, make_atoms
from lvm_jax import distributions, models
from lvm_jax.models.linear_gaussian import LinearGaussian
from lvm_jax.typing import Array, Distribution, Key
from lvm_jax.weights import LogJoint

DIM = 20  # of DESIGN's toy, from Rainforth et al. (2018): its optimal q has variance 2/3


class Bed(NamedTuple):
    """One data point of a model, a q that is not its posterior, and the exact law of the weights."""

    name: str
    said: str  # what it is, for the report
    log_joint: LogJoint
    q: Distribution
    posterior: Distribution
    log_evidence: float  # in nats
    atoms: Atoms  # of log w - log p(x) under q


def make_beds(seed: int) -> list[Bed]:
    """All beds, in float64; `seed` sets mu and x of the Gaussian one, which no gap depends on."""
    return [gaussian(seed), mixture(), two_modes()]


def exact(model: models.Model, theta: Any, x: Array) -> tuple[Distribution, Array]:
    """The posterior, and log p(x)."""
    return jax.jit(lambda: (model.posterior(theta, x), model.log_evidence(theta, x)))()


def gaussian(seed: int) -> Bed:
    """z ~ N(mu, I_20), x | z ~ N(z, I), q = N((x + mu) / 2, 2/3 I).

    log w = log p(x) + 10 log 4/3 - c / 6, c chi-squared with 20 degrees of freedom.
    """
    rng = np.random.default_rng([seed, 7])
    mu = rng.standard_normal(DIM)
    x = mu + math.sqrt(2) * rng.standard_normal(DIM)
    model = models.linear_gaussian(DIM, DIM)
    theta = LinearGaussian(jnp.asarray(mu), jnp.eye(DIM), jnp.zeros(DIM), jnp.zeros(()))
    point, scale = jnp.asarray(x), jnp.full(DIM, math.sqrt(2 / 3))
    posterior, log_evidence = exact(model, theta, point)
    root = np.linspace(0.0, 12.5, 1_501)[1:]  # of c, so that the density is smooth at 0
    log_probs = stats.chi2(DIM).logpdf(root**2) + np.log(root)
    return Bed(
        "Gaussian, D = 20",
        "z ~ N(μ, I) in 20 dimensions, x | z ~ N(z, I), q = N((x + μ)/2, 2/3 I): the posterior, "
        "its variance a third too large",
        models.log_joint(model, theta, point),
        distributions.normal(jnp.asarray(x + mu) / 2, scale),
        posterior,
        float(log_evidence),
        make_atoms(DIM / 2 * math.log(4 / 3) - root**2 / 6, log_probs, is_grid=True),
    )


def mixture() -> Bed:
    """Four Gaussians in the plane, z the component; q is p(z), which has not looked at x."""
    x = jnp.array([1.1, 0.4])
    model = models.gaussian_mixture(4, 2)
    theta = models.GaussianMixture(
        jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1])),
        jnp.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 2.0], [1.0, -1.5]]),
        jnp.stack([scale * jnp.eye(2) for scale in (1.0, 0.7, 1.4, 0.9)]),
    )
    joint, q = models.log_joint(model, theta, x), model.prior(theta)
    log_evidence = float(jax.jit(lambda: model.log_evidence(theta, x))())
    both = jax.jit(jax.vmap(lambda z: (joint(z), q.log_prob(z))))
    log_joints, log_q = map(np.asarray, both(jnp.arange(4)))
    return Bed(
        "Mixture, K = 4",
        "four Gaussians in the plane, z the component that x came from; q is the prior p(z), "
        "which has not looked at x",
        joint,
        q,
        model.posterior(theta, x),
        log_evidence,
        make_atoms(log_joints - log_q - log_evidence, log_q, is_grid=False),
    )


class TwoNormals(NamedTuple):
    """sum_k pi_k N(m_k, s^2) on the line, z of shape [1]."""

    log_weights: Array
    means: Array
    sd: Array

    def log_prob(self, value: Array) -> Array:
        """Log-density of one z, in nats."""
        white = (value - self.means) / self.sd
        constant = 0.5 * jnp.log(2 * jnp.pi) + jnp.log(self.sd)
        return jax.nn.logsumexp(self.log_weights - 0.5 * white**2 - constant)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, 1]."""
        key_k, key_z = jax.random.split(seed)
        k = jax.random.categorical(key_k, self.log_weights, shape=(*sample_shape, 1))
        return self.means[k] + self.sd * jax.random.normal(key_z, (*sample_shape, 1))


def two_modes() -> Bed:
    """p(z) = (N(-2, 1/4) + N(2, 1/4)) / 2, x | z ~ N(z, 9/4), x = 0.7; q sits on the right mode.

    Conjugate mode by mode, so the posterior is again two normals and p(x) is a sum of two terms.
    """
    x, prior_var, noise_var = 0.7, 0.25, 2.25
    centres = np.array([-2.0, 2.0])
    log_parts = np.log(0.5) + stats.norm.logpdf(x, centres, math.sqrt(prior_var + noise_var))
    log_evidence = float(logsumexp(log_parts))
    variance = 1 / (1 / prior_var + 1 / noise_var)
    means = variance * (centres / prior_var + x / noise_var)
    sd = jnp.asarray(math.sqrt(variance))
    prior = TwoNormals(jnp.log(jnp.full(2, 0.5)), jnp.asarray(centres), jnp.sqrt(prior_var))
    posterior = TwoNormals(jnp.asarray(log_parts - log_evidence), jnp.asarray(means), sd)
    likelihood_sd = jnp.full(1, math.sqrt(noise_var))

    def joint(z: Array) -> Any:
        return prior.log_prob(z) + distributions.normal(z, likelihood_sd).log_prob(jnp.full(1, x))

    mean, scale = float(means[1]), 1.0
    z = np.linspace(mean - 11 * scale, mean + 11 * scale, 4_001)
    log_q = stats.norm.logpdf(z, mean, scale)
    log_post = np.asarray(jax.vmap(posterior.log_prob)(jnp.asarray(z)[:, None]))
    mass = math.exp(log_parts[0] - log_evidence)
    return Bed(
        "Two modes, one missed",
        f"p(z) has two modes, at ±2, and so has the posterior; q = N({mean:.2f}, {scale:g}²) sits "
        f"on the right one and reaches the left one, which holds {mass:.1%} of the posterior, only "
        "with its far tail",
        joint,
        distributions.normal(jnp.full(1, mean), jnp.full(1, scale)),
        posterior,
        log_evidence,
        make_atoms(log_post - log_q, log_q, is_grid=True),
    )
