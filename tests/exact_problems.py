"""Exact test problems of the variational side: log p(x), its posterior and a guide that misses it.

The densities are written out here by hand, apart from the product's models, so that one checks the
other. All parameters are asymmetric. A guide's q is reparameterised on the linear-Gaussian problem only,
and on `chain_problem`, whose z is a tuple.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import multivariate_normal

from lvm_jax import distributions


class Problem(NamedTuple):
    """One data point x; everything below is a pure function of theta, phi and x."""

    name: str
    theta: Any
    phi: Any
    x: Any
    other_x: Any  # a second data point, far from the first
    log_joint: Callable[[Any, Any], Callable[[Any], Any]]  # (theta, x) -> z -> log p(x, z)
    guide: Callable[[Any], Any]  # phi -> q
    log_evidence: Callable[[Any, Any], Any]  # (theta, x)
    posterior: Callable[[Any, Any], Any]  # (theta, x) -> q
    elbo: Callable[[Any, Any, Any], Any]  # exact, (theta, phi, x)
    # Of a Gaussian q: phi -> mean [D] and triangular factor [D, D] of the flat z; and flat z -> z.
    moments: Callable[[Any], tuple[Any, Any]] | None = None
    unflatten: Callable[[Any], Any] = lambda flat: flat


def made_once(make: Callable[[], Problem]) -> Callable[[], Problem]:
    """The same problem at each call in a precision, and its exact answers as one program each."""

    @functools.cache
    def of(x64: bool) -> Problem:
        own = make()
        return own._replace(log_evidence=jax.jit(own.log_evidence), elbo=jax.jit(own.elbo))

    return functools.wraps(make)(lambda: of(jax.config.read("jax_enable_x64")))


@made_once
def linear_gaussian() -> Problem:
    """z ~ N(m, I) in 2 dimensions, x | z ~ N(W z + b, diag(exp(2 s))) in 3."""
    theta = {
        "mean": jnp.array([0.3, -0.7]),
        "weight": jnp.array([[1.0, 0.4], [-0.5, 0.8], [0.2, -1.3]]),
        "bias": jnp.array([0.1, -0.2, 0.5]),
        "log_noise": jnp.array([-0.3, 0.1, 0.4]),
    }
    phi = {"loc": jnp.array([0.8, -0.1]), "log_scale": jnp.array([-0.6, -0.2])}

    def log_joint(theta, x):
        def joint(z):
            prior = -0.5 * ((z - theta["mean"]) ** 2 + jnp.log(2 * jnp.pi)).sum()
            white = (x - theta["weight"] @ z - theta["bias"]) * jnp.exp(-theta["log_noise"])
            return prior - (0.5 * (white**2 + jnp.log(2 * jnp.pi)) + theta["log_noise"]).sum()

        return joint

    def log_evidence(theta, x):
        w = theta["weight"]
        covariance = w @ w.T + jnp.diag(jnp.exp(2 * theta["log_noise"]))
        return multivariate_normal.logpdf(x, w @ theta["mean"] + theta["bias"], covariance)

    def posterior(theta, x):
        w, precision = theta["weight"], jnp.exp(-2 * theta["log_noise"])
        covariance = jnp.linalg.inv(jnp.eye(2) + w.T @ (w * precision[:, None]))
        residual = x - theta["bias"] - w @ theta["mean"]
        mean = theta["mean"] + covariance @ (w.T @ (precision * residual))
        return distributions.FullRankNormal(mean, jnp.linalg.cholesky(covariance))

    def guide(phi):
        return distributions.normal(phi["loc"], jnp.exp(phi["log_scale"]))

    def elbo(theta, phi, x):  # E_q of a quadratic: its value at the mean plus half its curvature
        joint = log_joint(theta, x)
        curvature = jnp.diagonal(jax.hessian(joint)(phi["loc"])) @ jnp.exp(2 * phi["log_scale"])
        entropy = (phi["log_scale"] + 0.5 * (1 + jnp.log(2 * jnp.pi))).sum()
        return joint(phi["loc"]) + 0.5 * curvature + entropy

    def moments(phi):
        return phi["loc"], jnp.diag(jnp.exp(phi["log_scale"]))

    x, other = jnp.array([1.2, -0.4, 0.9]), jnp.array([-3.0, 2.0, 1.0])
    exact = log_evidence, posterior, elbo, moments
    return Problem("linear_gaussian", theta, phi, x, other, log_joint, guide, *exact)


def _finite(name, theta, phi, x, other, log_joint, guide, values) -> Problem:
    """A problem whose z has the listed values: everything by enumeration."""

    def joints(theta, x):
        return jax.vmap(log_joint(theta, x))(values)

    def log_evidence(theta, x):
        return jax.nn.logsumexp(joints(theta, x))

    def posterior(theta, x):
        return distributions.Table(jax.nn.log_softmax(joints(theta, x)), values)

    def elbo(theta, phi, x):
        log_q = jax.vmap(guide(phi).log_prob)(values)
        return jnp.exp(log_q) @ (joints(theta, x) - log_q)

    return Problem(name, theta, phi, x, other, log_joint, guide, log_evidence, posterior, elbo)


@made_once
def mixture() -> Problem:
    """z in {0, 1, 2}, x | z ~ N(mu_z, s_z^2) in 2 dimensions."""
    theta = {
        "logits": jnp.array([0.2, -0.5, 1.0]),
        "means": jnp.array([[0.0, 1.0], [2.0, -1.0], [-1.5, 0.5]]),
        "log_scale": jnp.array([0.1, -0.4, 0.5]),
    }
    phi = {"logits": jnp.array([0.5, 0.1, -0.8])}

    def log_joint(theta, x):
        def joint(z):
            s = theta["log_scale"][z]
            squared = ((x - theta["means"][z]) ** 2).sum() * jnp.exp(-2 * s)
            return (
                jax.nn.log_softmax(theta["logits"])[z] - 0.5 * squared - 2 * s - jnp.log(2 * jnp.pi)
            )

        return joint

    def guide(phi):
        return distributions.Categorical(logits=phi["logits"])

    x, other = jnp.array([0.4, 0.3]), jnp.array([3.0, -2.0])
    return _finite("mixture", theta, phi, x, other, log_joint, guide, jnp.arange(3))


@made_once
def bits() -> Problem:
    """z in {0, 1}^3 as floats, x | z ~ N(W z + b, s^2) in 2 dimensions; the density relaxes."""
    theta = {
        "logits": jnp.array([0.4, -0.9, 0.2]),
        "weight": jnp.array([[1.5, -0.7, 0.4], [0.3, 1.1, -1.6]]),
        "bias": jnp.array([-0.2, 0.3]),
        "log_noise": jnp.array(-0.1),
    }
    phi = {"logits": jnp.array([-0.3, 0.6, 1.1])}

    def log_joint(theta, x):
        def joint(z):
            logits, s = theta["logits"], theta["log_noise"]
            prior = (z * logits - jax.nn.softplus(logits)).sum()
            squared = ((x - theta["weight"] @ z - theta["bias"]) ** 2).sum() * jnp.exp(-2 * s)
            return prior - 0.5 * squared - 2 * s - jnp.log(2 * jnp.pi)

        return joint

    values = jnp.array([[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)])
    x, other = jnp.array([0.9, -0.8]), jnp.array([-1.5, 2.0])

    def guide(phi):
        return distributions.Bernoulli(phi["logits"])

    return _finite("bits", theta, phi, x, other, log_joint, guide, values)


@made_once
def one_hot() -> Problem:
    """Two one-hot rows of three values, x | z normal around a table look-up; the density relaxes."""
    theta = {
        "logits": jnp.array([[0.4, -0.9, 0.2], [0.0, 0.7, -0.3]]),
        "table": jnp.array([[0.9, -1.2, 0.1], [1.4, 0.0, -0.8]]),
        "log_noise": jnp.array(-0.2),
    }
    phi = {"logits": jnp.array([[0.1, 0.5, -0.4], [-0.6, 0.3, 0.2]])}

    def log_joint(theta, x):
        def joint(z):
            prior = (z * jax.nn.log_softmax(theta["logits"])).sum()
            mean, s = (z * theta["table"]).sum(1), theta["log_noise"]
            squared = ((x - mean - 0.3 * mean[::-1] * mean) ** 2).sum() * jnp.exp(-2 * s)
            return prior - 0.5 * squared - 2 * s - jnp.log(2 * jnp.pi)

        return joint

    values = jnp.stack([jnp.eye(3)[np.array([i, j])] for i in range(3) for j in range(3)])
    x, other = jnp.array([0.7, -0.5]), jnp.array([-1.8, 1.3])

    def guide(phi):
        return distributions.one_hot(phi["logits"])

    return _finite("one_hot", theta, phi, x, other, log_joint, guide, values)


def curved(name: str, sites, values, theta, phi, guide) -> Problem:
    """x | z ~ N(mean, s^2), mean = (c u_1 u_2 u_3, sin(a u + b)), of three sites u(z), functions of z.

    No polynomial in z, and no site enters at most quadratically, so that an estimator that is exact
    for quadratic densities shows its bias. Nothing is symmetric.
    """

    def log_joint(theta, x):
        def joint(z):
            u = sites(theta, z)
            mean = jnp.stack(
                [theta["product"] * u.prod(), jnp.sin(theta["slope"] @ u + theta["phase"])]
            )
            squared = ((x - mean) ** 2).sum() * jnp.exp(-2 * theta["log_noise"])
            linear = (theta["logits"] * z).sum()  # of a prior, up to a constant
            return linear - 0.5 * squared - 2 * theta["log_noise"] - jnp.log(2 * jnp.pi)

        return joint

    theta = theta | {
        "product": jnp.array(1.3),
        "slope": jnp.array([1.9, -1.2, 2.6]),
        "phase": jnp.array(0.4),
        "log_noise": jnp.array(-0.7),
    }
    x, other = jnp.array([0.9, -0.6]), jnp.array([-1.2, 1.4])
    return _finite(name, theta, phi, x, other, log_joint, guide, values)


@made_once
def bits_curved() -> Problem:
    """Three bits, the sites themselves."""
    theta = {"logits": jnp.array([0.4, -0.9, 0.2])}
    values = jnp.array([[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)])
    return curved(
        *(
            "bits_curved",
            lambda theta, z: z,
            values,
            theta,
            {"logits": jnp.array([-0.3, 0.6, 1.1])},
        ),
        lambda phi: distributions.Bernoulli(phi["logits"]),
    )


@made_once
def one_hot_curved() -> Problem:
    """Three one-hot rows of three values, each of which looks up its site in a table."""
    theta = {
        "logits": jnp.array([[0.4, -0.9, 0.2], [0.0, 0.7, -0.3], [0.5, 0.1, -0.6]]),
        "table": jnp.array([[0.9, -0.4, 0.3], [1.2, 0.5, -0.7], [-0.6, 1.1, 0.8]]),
    }
    phi = {"logits": jnp.array([[0.1, 0.5, -0.4], [-0.6, 0.3, 0.2], [0.4, -0.2, 0.3]])}
    rows = itertools.product(range(3), repeat=3)
    values = jnp.stack([jnp.eye(3)[np.array(row)] for row in rows])
    return curved(
        *("one_hot_curved", lambda theta, z: (z * theta["table"]).sum(1), values, theta, phi),
        lambda phi: distributions.one_hot(phi["logits"]),
    )


CURVED = {problem.__name__: problem for problem in (bits_curved, one_hot_curved)}


def prior_of(problem: Problem):
    """p(z; theta) of a problem, as a distribution."""
    if problem.name == "linear_gaussian":
        return distributions.normal(problem.theta["mean"], jnp.ones(2))
    family = {
        "mixture": lambda logits: distributions.Categorical(logits=logits),
        "bits": distributions.Bernoulli,
        "one_hot": distributions.one_hot,
    }
    return family[problem.name](problem.theta["logits"])


PROBLEMS = {problem.__name__: problem for problem in (linear_gaussian, mixture, bits, one_hot)}
