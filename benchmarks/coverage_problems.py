"""The problems of `benchmarks.coverage`: models with known log p(x), and data that they draw."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from benchmarks.coverage_priors import Beta, Box, Gamma
from lvm_jax import annealing, distributions, models, problems
from lvm_jax.guides import Guide
from lvm_jax.models import LinearGaussian, Model

LEAPFROGS = 3  # of a move of HMC
LENGTH, DECAY, NOISE = 20, 0.9, 0.5  # of `state_space`


class Problem(NamedTuple):
    """p and q, with N data sets of one point each and their log p(x) in nats."""

    p: Any
    q: Any  # the prior where `guided` is False
    x: Any  # [N, ...]
    truth: np.ndarray  # [N]
    guided: bool = False
    moves: annealing.Transition = annealing.hmc(LEAPFROGS)
    from_unit: Callable[[np.ndarray], np.ndarray] | None = None  # the unit cube -> the prior's z


Make = Callable[[jax.Array, int], Problem]  # key, N -> the problem


class Drawn(NamedTuple):
    """p(x | z) from two functions of z, its draws and its log-density."""

    z: jax.Array
    draw: Callable[..., jax.Array]  # key, z -> x
    density: Callable[..., jax.Array]  # x, z -> log p(x | z)

    def sample(self, *, seed: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """One draw; `sample_shape` is () in these problems."""
        return self.draw(seed, self.z)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """log p(x | z), in nats."""
        return self.density(x, self.z)


def from_prior(
    prior: Any, draw: Callable, density: Callable, truth: Callable, from_unit: Any = None
) -> Make:
    """A problem whose q is the prior; truth(x) is log p(x) of x [N, ...] in float64."""
    model = Model(lambda key: (), lambda _: prior, lambda _, z: Drawn(z, draw, density))
    guide = Guide(lambda key: (), lambda _, x: prior)

    def make(key: jax.Array, number: int) -> Problem:
        p = model(())
        x = jax.jit(jax.vmap(p.sample))(jax.random.split(key, number)).x
        found = np.asarray(truth(np.asarray(x, np.float64)))
        return Problem(p, guide(()), x, found, from_unit=from_unit)

    return make


def of_library(problem: problems.Problem, guided: bool = True, **more: Any) -> Make:
    """A problem of `lvm_jax.problems`."""

    def make(key: jax.Array, number: int) -> Problem:
        data = problems.simulate(key, problem, number)
        return Problem(problem.p, problem.q, data.x, data.log_evidence, guided, **more)

    return make


def of_target(target: problems.Target, prior: Any, from_unit: Any) -> Make:
    """A density with known log Z, as prior times likelihood: N seeds of one x without content."""
    return from_prior(
        prior,
        lambda key, z: jnp.zeros(1),
        lambda x, z: target.log_density(z) - prior.log_prob(z),
        lambda x: np.full(len(x), target.log_evidence),
        from_unit,
    )


def normal(dim: int, scale: float) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """N(0, scale^2 I), and its map from the unit cube."""
    prior = distributions.normal(jnp.zeros(dim), jnp.full(dim, scale))
    return prior, lambda u: scale * stats.norm.ppf(u)


def ill_conditioned(dim: int = 8, condition: float = 1e6) -> Make:
    """x = A z + noise, A a rotation; the posterior's precision is 2 to 2 `condition`."""
    deviations = (np.geomspace(2.0, 2 * condition, dim) - 1) ** -0.5
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    a, scale = jnp.asarray(rotation, jnp.float32), jnp.asarray(deviations, jnp.float32)
    wide = np.sqrt(1 + deviations**2)
    prior, from_unit = normal(dim, 1.0)
    return from_prior(
        prior,
        lambda key, z: a @ z + scale * jax.random.normal(key, (dim,)),
        lambda x, z: distributions.normal(a @ z, scale).log_prob(x),
        lambda x: stats.norm.logpdf(x, 0, wide).sum(1),
        from_unit,
    )


def on_grid(x: np.ndarray, scale: float, log_likelihood: Callable) -> np.ndarray:
    """log p of rows x [N, M] that share one z ~ N(0, scale^2), by a sum over a grid."""
    z = np.linspace(-8 * scale, 8 * scale, 16_001)
    prior = stats.norm.logpdf(z, 0, scale) + math.log(z[1] - z[0])
    rows = [special.logsumexp(prior + log_likelihood(row[:, None], z).sum(0)) for row in x]
    return np.array(rows)


def student() -> Make:
    """z ~ N(0, 1), eight x | z ~ z + 0.3 t_2."""
    return from_prior(
        normal(1, 1.0)[0],
        lambda key, z: z[0] + 0.3 * jax.random.t(key, 2.0, (8,)),
        lambda x, z: jax.scipy.stats.t.logpdf(x, 2.0, z[0], 0.3).sum(),
        lambda x: on_grid(x, 1.0, lambda x, z: stats.t.logpdf(x, 2.0, z, 0.3)),
        normal(1, 1.0)[1],
    )


def cauchy(dim: int = 2) -> Make:
    """z ~ N(0, 9 I), two Cauchy observations of each z_i: up to 2^D modes."""
    prior, from_unit = normal(dim, 3.0)
    return from_prior(
        prior,
        lambda key, z: z[:, None] + jax.random.cauchy(key, (dim, 2)),
        lambda x, z: jax.scipy.stats.cauchy.logpdf(x, z[:, None]).sum(),
        lambda x: sum(on_grid(x[:, i], 3.0, stats.cauchy.logpdf) for i in range(dim)),
        from_unit,
    )


def gamma_poisson(shape: float = 2.0, dim: int = 2) -> Make:
    """z_i ~ Gamma(shape, 1/2), x_i ~ Poisson(z_i)."""
    return from_prior(
        Gamma(jnp.full(dim, shape), jnp.full(dim, 0.5)),
        lambda key, z: jax.random.poisson(key, z).astype(jnp.float32),
        lambda x, z: (jax.scipy.special.xlogy(x, z) - z - jax.scipy.special.gammaln(x + 1)).sum(),
        lambda x: stats.nbinom.logpmf(x.astype(int), shape, 1 / 3).sum(1),
        lambda u: stats.gamma.ppf(u, shape, scale=2.0),
    )


def beta_binomial(trials: int = 12, dim: int = 2) -> Make:
    """z_i ~ Beta(2, 3), x_i ~ Binomial(12, z_i)."""

    def density(x: jax.Array, z: jax.Array) -> jax.Array:
        gammaln, xlogy = jax.scipy.special.gammaln, jax.scipy.special.xlogy
        ways = gammaln(trials + 1.0) - gammaln(x + 1) - gammaln(trials - x + 1)
        return (ways + xlogy(x, z) + xlogy(trials - x, 1 - z)).sum()

    def draw(key: jax.Array, z: jax.Array) -> jax.Array:
        return (jax.random.uniform(key, (trials, dim)) < z[None]).sum(0).astype(jnp.float32)

    return from_prior(
        Beta(jnp.full(dim, 2.0), jnp.full(dim, 3.0)),
        *(draw, density, lambda x: stats.betabinom.logpmf(x.astype(int), trials, 2, 3).sum(1)),
        lambda u: stats.beta.ppf(u, 2, 3),
    )


def state_space() -> Make:
    """z_t = 0.9 z_{t-1} + noise of 1, x_t = z_t + noise of 0.5, 20 steps; z is whitened."""
    factor = np.linalg.inv(np.eye(LENGTH) - DECAY * np.eye(LENGTH, k=-1))
    model = models.linear_gaussian(LENGTH, LENGTH)
    zeros = np.zeros(LENGTH)
    theta = LinearGaussian(zeros, factor, zeros, np.asarray(math.log(NOISE)))
    guide = Guide(lambda key: (), lambda _, x: normal(LENGTH, 1.0)[0])
    problem = problems.Problem("state space", model, theta, guide, (), "the prior")
    return of_library(problem, guided=False, from_unit=normal(LENGTH, 1.0)[1])


def discrete() -> Make:
    """Six variables of three values, with a prior that is not uniform; Gibbs moves."""
    logits = np.linspace(-0.8, 0.8, 6)[:, None] * np.arange(-1.0, 2.0)
    return of_library(problems.discrete(logits), moves=annealing.gibbs(3, 6))


def spike(dim: int = 10) -> Make:
    """The target `spike`, with the prior of its definition: N seeds of one x without content."""
    target = problems.spike(dim)

    def density(x: jax.Array, z: jax.Array) -> jax.Array:
        squared = (z**2).sum()
        return jnp.logaddexp(-0.5 * squared, math.log(9e10) - 50 * squared)

    return from_prior(
        Box(jnp.full(dim, 5.0)),
        lambda key, z: jnp.zeros(1),
        density,
        lambda x: np.full(len(x), target.log_evidence),
        lambda u: 10 * u - 5,
    )


def standard(make: Callable[[int], problems.Problem], dim: int) -> Make:
    """A problem of the library with a guide and the prior N(0, I)."""
    return of_library(make(dim), from_unit=stats.norm.ppf)


def four_modes(dim: int) -> Make:
    """`problems.four_modes`, whose guide is the prior."""
    return of_library(problems.four_modes(dim), False, from_unit=normal(dim, 2.0)[1])


MEANS = np.array(
    [[0.0, 0.9, -0.82], [-2.67, -1.36, -2.97], [0.18, 4.02, -1.48], [-1.86, 1.47, 1.07]]
)
SCALES = np.array(
    [[0.107, 0.19, 0.227], [0.262, 0.987, 0.537], [0.322, 0.967, 0.095], [0.081, 0.313, 0.057]]
)
SHARES = np.array([0.7, 0.2, 0.08, 0.02])


def rare_mode() -> Make:
    """Four normals; the smallest has 2% of the evidence, and 0.2% of the prior in its basin."""
    prior, from_unit = normal(3, 4.0)

    def density(x: jax.Array, z: jax.Array) -> jax.Array:
        each = jax.scipy.stats.norm.logpdf(z[None], MEANS, SCALES).sum(1) + np.log(SHARES)
        return jax.nn.logsumexp(each) - prior.log_prob(z)

    return from_prior(
        prior, lambda key, z: jnp.zeros(1), density, lambda x: np.zeros(len(x)), from_unit
    )


PROBLEMS: dict[str, Callable[[], Make]] = {
    **{f"Gaussian, D = {d}": partial(standard, problems.linear_gaussian, d) for d in (2, 8, 32)},
    "condition 1e6, D = 8": ill_conditioned,
    **{f"two modes, D = {d}": partial(standard, problems.two_modes, d) for d in (2, 4, 8, 16)},
    **{f"four modes, D = {d}": partial(four_modes, d) for d in (2, 3, 4)},
    "rare mode, D = 3": rare_mode,
    "funnel, D = 2": lambda: of_target(problems.funnel(2), *normal(2, 3.0)),
    "funnel, D = 3": lambda: of_target(problems.funnel(3), *normal(3, 3.0)),
    "funnel, D = 10": lambda: of_target(problems.funnel(10), *normal(10, 3.0)),
    "heavy tails": lambda: of_library(problems.heavy_tails(2)),
    "Cauchy likelihood": cauchy,
    "Student likelihood": student,
    "gamma-Poisson": gamma_poisson,
    "gamma-Poisson, shape 0.5": partial(gamma_poisson, 0.5),
    "beta-binomial": beta_binomial,
    "spike, D = 10": spike,
    "wells (5, 5, 4)": lambda: of_target(problems.wells(5, 5, 4.0), *normal(5, 2.0)),
    "state space, D = 20": state_space,
    "discrete": discrete,
}
