"""Models with exact evidence, at asymmetric parameters, and independent densities."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chain_problem
import deep_cases
import exact_problems
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import multivariate_normal

from lvm_jax import distributions, likelihoods, models, networks, priors
from lvm_jax.distributions.normals import LogCholesky

# For a program that runs once: it compiles in two thirds of the time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Case(NamedTuple):
    model: models.Model
    theta: Any
    x: Any  # [2, D]: two very different points
    z: Any  # every z, or a grid of them, leaves [M, ...]
    cell: float  # what each z counts for in the integral
    reference: Callable[[Any], Callable[[Any], Any]]  # x -> z -> log p(x, z)


def grid(radius: float, step: float, dim: int) -> Any:
    """The nodes of a trapezoidal rule, [M, dim]."""
    axis = np.arange(-radius, radius + step / 2, step)
    return jnp.asarray(np.stack([a.ravel() for a in np.meshgrid(*[axis] * dim)], 1), float)


def expectation(q: Any, function: Callable[[Any], Any]) -> Any:
    """E_q[f(z)]: exact for a finite q, and for a Gaussian one where f is quadratic in z."""
    if isinstance(q, deep_cases.Joined):
        return distributions.cubature(q.normal, lambda flat: function(q.unflatten(flat)))
    value = distributions.expectation(q, function)
    return distributions.cubature(q, function) if value is None else value


def isotropic() -> Case:
    theta = models.LinearGaussian(
        jnp.array([0.4]), jnp.array([[1.3], [-0.6]]), jnp.array([0.5, -1.0]), jnp.array(-0.4)
    )
    return gaussian(theta, "isotropic", jnp.exp(-0.8) * jnp.eye(2), 0.05)


def full() -> Case:
    noise = LogCholesky(jnp.array([-0.3, 0.2]), jnp.array([0.7]))
    w = jnp.array([[1.0, 0.5], [-0.4, 1.2]])
    theta = models.LinearGaussian(jnp.array([-0.3, 0.6]), w, jnp.array([0.2, 0.9]), noise)
    lower = jnp.array([[np.exp(-0.3), 0.0], [0.7, np.exp(0.2)]])
    return gaussian(theta, "full", lower @ lower.T, 0.2)


def linear_networks() -> Case:
    """A deep model of one layer with a linear decoder: probabilistic PCA, and its exact answers."""
    problem, model = isotropic(), deep_cases.one_layer(1, 2)

    def as_linear(theta):
        output = theta.decoder["output"]
        return models.LinearGaussian(
            jnp.zeros(1),
            output["kernel"].T,
            output["bias"],
            8 * jnp.tanh(theta.likelihood / 8),
        )

    model = model._replace(
        posterior=lambda theta, x: problem.model.posterior(as_linear(theta), x),
        log_evidence=lambda theta, x: problem.model.log_evidence(as_linear(theta), x),
    )
    _, weight, bias, log_noise = problem.theta
    theta = models.DeepLatentGaussian(
        (), (), deep_cases.linear(weight, bias), 8 * jnp.arctanh(log_noise / 8)
    )
    own = gaussian(as_linear(theta), "isotropic", jnp.exp(2 * log_noise) * jnp.eye(2), 0.05)
    return own._replace(model=model, theta=theta)


def chain() -> Case:
    """Two linear layers, z = (z_1, z_2): a deep model with the exact answers of `chain_problem`."""
    problem, layer = chain_problem.chain(), deep_cases.constant_scale(1, 1)
    model = models.deep_latent_gaussian(
        priors.standard_normal(1), networks.mlp(1, (), 2), likelihoods.gaussian(2), [layer]
    )

    def as_problem(theta):
        (up,), output = theta.layers, theta.decoder["output"]
        return {
            "slope": up["weight"][0], "offset": up["bias"],
            "log_scale": 8 * jnp.tanh(up["free"] / 8),
            "weight": output["kernel"][0], "bias": output["bias"],
            "log_noise": 8 * jnp.tanh(theta.likelihood / 8),
        }  # fmt: skip

    model = model._replace(
        posterior=lambda theta, x: problem.posterior(as_problem(theta), x),
        log_evidence=lambda theta, x: problem.log_evidence(as_problem(theta), x),
    )
    own = problem.theta
    up = {"weight": own["slope"][None], "bias": own["offset"]}
    up["free"] = 8 * jnp.arctanh(own["log_scale"] / 8)
    decoder = deep_cases.linear(own["weight"][:, None], own["bias"])
    noise = 8 * jnp.arctanh(own["log_noise"] / 8)
    theta = models.DeepLatentGaussian((), (up,), decoder, noise)
    z = grid(9.0, 0.25, 2)
    return problem_case(problem, model, theta, (z[:, :1], z[:, 1:]), 0.0625)


def gaussian(theta, noise: str, psi, step: float) -> Case:
    """The reference is the dense joint Gaussian of (z, x)."""
    m, w, b, _ = theta
    eye = jnp.eye(m.size)
    mean = jnp.concatenate([m, w @ m + b])
    covariance = jnp.block([[eye, w.T], [w, w @ w.T + psi]])

    def reference(x):
        return lambda z: multivariate_normal.logpdf(jnp.concatenate([z, x]), mean, covariance)

    x = jnp.array([[0.7, 1.1], [-3.0, 2.0]])
    model = models.linear_gaussian(m.size, 2, noise)
    return Case(model, theta, x, grid(9.0, step, m.size), step**m.size, reference)


def problem_case(problem, model, theta, z, cell=1.0, encode=lambda z: z) -> Case:
    def reference(x):
        return lambda z: problem.log_joint(problem.theta, x)(encode(z))

    return Case(model, theta, jnp.stack([problem.x, problem.other_x]), z, cell, reference)


def diagonal() -> Case:
    problem = exact_problems.linear_gaussian()
    theta = models.LinearGaussian(
        *(problem.theta[k] for k in ("mean", "weight", "bias", "log_noise"))
    )
    return problem_case(
        problem, models.linear_gaussian(2, 3, "diagonal"), theta, grid(9.0, 0.2, 2), 0.04
    )


def mixture() -> Case:
    problem = exact_problems.mixture()
    scale = jnp.exp(problem.theta["log_scale"])
    theta = models.GaussianMixture(
        problem.theta["logits"] - jax.nn.logsumexp(problem.theta["logits"]),
        problem.theta["means"],
        scale[:, None, None] * jnp.eye(2)[None],
    )
    return problem_case(problem, models.gaussian_mixture(3, 2), theta, jnp.arange(3))


def bits() -> Case:
    problem = exact_problems.bits()

    def likelihood(parameters, z):
        mean = parameters["weight"] @ z + parameters["bias"]
        return distributions.normal(mean, jnp.full(2, jnp.exp(parameters["log_noise"])))

    parameters = {k: problem.theta[k] for k in ("weight", "bias", "log_noise")}
    model = models.bernoulli(3, likelihood, lambda key: parameters)
    theta = models.Discrete(problem.theta["logits"], parameters)
    z = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3, indexing="ij"), -1).reshape(8, 3)
    return problem_case(problem, model, theta, jnp.asarray(z, float))


def one_hot() -> Case:
    problem, z = exact_problems.one_hot(), np.eye(3)[[[i, j] for i in range(3) for j in range(3)]]
    parameters = {k: problem.theta[k] for k in ("table", "log_noise")}
    model = models.categorical(2, 3, look_up, lambda key: parameters, one_hot=True)
    theta = models.Discrete(problem.theta["logits"], parameters)
    return problem_case(problem, model, theta, jnp.asarray(z, float))


def look_up(parameters, z):
    mean = (z * parameters["table"]).sum(1)
    scale = jnp.exp(parameters["log_noise"])
    return distributions.normal(mean + 0.3 * mean[::-1] * mean, jnp.broadcast_to(scale, (2,)))


def integers() -> Case:
    problem, one_hot_case = exact_problems.one_hot(), one_hot()
    parameters = one_hot_case.theta.likelihood

    def encode(z):
        return jax.nn.one_hot(z, 3, dtype=parameters["table"].dtype)

    def likelihood(parameters, z):
        return look_up(parameters, encode(z))

    model = models.categorical(2, 3, likelihood, lambda key: parameters)
    z = jnp.array([[i, j] for i in range(3) for j in range(3)])
    return problem_case(problem, model, one_hot_case.theta, z, encode=encode)


CASES = {
    case.__name__: case
    for case in (
        isotropic, diagonal, full, linear_networks, chain, mixture, bits, one_hot, integers
    )
}  # fmt: skip
