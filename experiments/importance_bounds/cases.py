"""Test problems at one x, whose log-weights have a known distribution."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lvm_jax import problems
from lvm_jax.problems import Problem
from lvm_jax.problems.expected_bounds import WeightLaw, weight_law
from lvm_jax.typing import Distribution
from lvm_jax.weights import LogJoint

DIM = 20  # of the Gaussian problem (Rainforth et al. 2018)


class Case(NamedTuple):
    """A problem at one x, and the exact distribution of its weights."""

    name: str
    log_joint: LogJoint
    q: Distribution
    posterior: Distribution
    log_evidence: float  # in nats
    law: WeightLaw  # of log w - log p(x) under q


def make_cases(seed: int) -> list[Case]:
    """The problems, in float64; `seed` sets mu and x of the Gaussian, which change no gap."""
    return [gaussian(seed), mixture(), two_modes()]


def bind(problem: Problem, x: np.ndarray) -> tuple[LogJoint, Distribution, Distribution, float]:
    """log p(x, .), q, the posterior and log p(x) of one point."""
    point = jnp.asarray(x)
    q = jax.jit(problem.q)(point)
    posterior, log_evidence = problems.truth(problem, x)
    return problem.p.log_joint(point), q, jax.tree.map(jnp.asarray, posterior), log_evidence


def gaussian(seed: int) -> Case:
    """Rainforth's problem at its optimal q: log w = log p(x) + 10 log 4/3 - c / 6, c ~ chi2(20)."""
    rng = np.random.default_rng([seed, 7])
    mu = rng.standard_normal(DIM)
    x = mu + math.sqrt(2) * rng.standard_normal(DIM)
    root = np.linspace(0.0, 12.5, 1_501)[1:]  # of c, so that the density is smooth at 0
    log_probs = stats.chi2(DIM).logpdf(root**2) + np.log(root)
    law = weight_law(DIM / 2 * math.log(4 / 3) - root**2 / 6, log_probs, is_grid=True)
    return Case("Gaussian, D = 20", *bind(problems.rainforth(mu), x), law)


def mixture() -> Case:
    """Four Gaussians in the plane, z the component; q is p(z), which does not depend on x."""
    joint, q, posterior, log_evidence = bind(problems.gaussian_mixture(), np.array([1.1, 0.4]))
    both = jax.jit(jax.vmap(lambda z: (joint(z), q.log_prob(z))))
    log_joints, log_q = map(np.asarray, both(jnp.arange(4)))
    law = weight_law(log_joints - log_q - log_evidence, log_q)
    return Case("Mixture, K = 4", joint, q, posterior, log_evidence, law)


def two_modes() -> Case:
    """p(z) = (N(-2, 1/4) + N(2, 1/4)) / 2, x | z ~ N(z, 9/4), x = 0.7; q covers the right mode."""
    joint, q, posterior, log_evidence = bind(problems.two_normals(), np.array([0.7]))
    mean, scale = float(q.distribution.loc[0]), 1.0
    z = np.linspace(mean - 11 * scale, mean + 11 * scale, 4_001)
    log_q = stats.norm.logpdf(z, mean, scale)
    log_post = np.asarray(jax.jit(jax.vmap(posterior.log_prob))(z[:, None]))
    law = weight_law(log_post - log_q, log_q, is_grid=True)
    return Case("Two modes, one missed", joint, q, posterior, log_evidence, law)
