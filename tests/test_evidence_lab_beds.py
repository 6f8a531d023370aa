"""The beds of the evidence_lab experiment: exact evidence by other means, and what chains cost."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import grid, quick_jit
from scipy import special, stats

from experiments import evidence_lab_beds as beds
from experiments import evidence_lab_methods as methods
from lvm_jax import annealing
from lvm_jax.models import log_joint

HMC, GIBBS = (annealing.hmc(2), 3), (annealing.gibbs(2, 3), 6)


def bed(parts, moves=HMC):
    return beds.Bed("a bed", *parts, *moves)


def in_float64(parts):
    model, theta, _ = parts
    return model, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), theta)


def test_gaussian_evidence():
    x = np.array([[0.7, -1.2, 2.0], [-3.0, 0.4, 0.1]], np.float32)
    w = np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
    truth = stats.multivariate_normal(np.zeros(3), w @ w.T + 0.25 * np.eye(3)).logpdf(x)
    np.testing.assert_allclose(beds.exact(bed(beds.gaussian(3)), x), truth, rtol=1e-6)


def test_two_modes_evidence(x64):
    model, theta = in_float64(beds.two_modes(2))
    z = np.asarray(grid(8.0, 0.05, 2))

    @quick_jit
    def both(x):
        return jax.vmap(log_joint(model, theta, x))(z[::500]), model.log_evidence(theta, x)

    for x in np.array([[1.5, -0.4], [-2.5, 2.0]]):
        each = [stats.norm(s * z, d).logpdf(x).sum(1) for s, d in ((1, 0.3), (-1, 1.0))]
        joint = stats.norm.logpdf(z).sum(1) + np.logaddexp(*each) - np.log(2)
        found, log_p = both(x)
        np.testing.assert_allclose(found, joint[::500], rtol=1e-6)
        truth = np.log(np.exp(joint).sum() * 0.05**2)
        np.testing.assert_allclose(log_p, truth, rtol=1e-6)


def test_heavy_tailed_evidence(x64):
    model, theta = in_float64(beds.heavy_tails(1))

    @quick_jit
    def both(x, angles):
        z = jnp.tan(angles)  # the tails of a Cauchy in a bounded interval
        joint = jax.vmap(log_joint(model, theta, x))(z[:, None])
        return jnp.exp(joint) * (1 + z**2), model.log_evidence(theta, x)

    nodes, weights = special.roots_legendre(4_000)
    for x in (np.array([1.3]), np.array([-40.0])):
        density, log_p = both(x, np.pi / 2 * nodes)
        truth = np.pi / 2 * weights @ np.asarray(density)
        np.testing.assert_allclose(log_p, np.log(truth), rtol=1e-6)


def test_discrete_evidence(x64):
    model, theta = in_float64(beds.discrete(3, 3))
    x = np.array([0.9, -1.4, 0.3])
    w = np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
    tilt = np.array([-0.8, 0.0, 0.8])
    total = 0.0
    for z in itertools.product((-1, 0, 1), repeat=3):
        prior = np.prod(np.exp(tilt * z) / np.exp(np.outer(tilt, (-1, 0, 1))).sum(1))
        total += prior * np.exp(stats.norm(w @ z, 0.5).logpdf(x).sum())
    found = quick_jit(model.log_evidence)(theta, x)
    np.testing.assert_allclose(found, np.log(total), rtol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "two_modes", "heavy_tails"])
def test_the_posterior_is_bayes_rule_at_every_z(name, x64):
    parts = getattr(beds, name)(3)
    model, theta = in_float64(parts)
    x, z = np.array([1.1, -0.6, 2.0]), np.random.default_rng(0).normal(size=(5, 3))

    @quick_jit
    def both(x, z):
        log_q = jax.vmap(model.posterior(theta, x).log_prob)(z)
        return jax.vmap(log_joint(model, theta, x))(z) - log_q, model.log_evidence(theta, x)

    ratio, log_p = both(x, z)
    np.testing.assert_allclose(ratio, np.full(5, log_p), rtol=1e-6)


def test_student_t_and_its_draws():
    z = np.array([[0.2, 0.1], [9.0, -30.0]], np.float32)

    @quick_jit
    def both(key, z):
        t = beds.StudentT(jnp.array([0.5, -1.0]), jnp.float32(1.7), jnp.float32(3.0))
        return jax.vmap(t.log_prob)(z), t.sample(seed=key, sample_shape=(4_000,))

    found, drawn = map(np.asarray, both(jax.random.key(0), z))
    exact = stats.multivariate_t([0.5, -1.0], 1.7**2 * np.eye(2), df=3).logpdf(z)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    radius = ((drawn - [0.5, -1.0]) ** 2).sum(1) / (2 * 1.7**2)
    assert stats.kstest(radius, stats.f(2, 3).cdf).pvalue > 1e-3
    assert abs((drawn[:, 0] > 0.5).mean() - 0.5) < 4 * 0.5 / 4_000**0.5


def test_simulated_data_follow_the_evidence():
    # |x|^2 / (2 D) of a t_1 of scale sqrt(2) in D dimensions is F(D, 1).
    data = beds.simulate(jax.random.key(0), bed(beds.heavy_tails(2)), 2_000)
    assert stats.kstest((np.asarray(data.x) ** 2).sum(1) / 4, stats.f(2, 1).cdf).pvalue > 1e-3
    # E|x|^2 / D = 1 + (0.3^2 + 1) / 2 of the two modes.
    data = beds.simulate(jax.random.key(1), bed(beds.two_modes(4)), 2_000)
    squared = (np.asarray(data.x) ** 2).mean(1)
    assert abs(squared.mean() - 1.545) < 4 * squared.std() / 2_000**0.5 < 0.15


def test_guides_are_what_they_say(x64):
    model, theta, guide = beds.gaussian(3)
    x = np.array([0.7, -1.2, 2.0])

    @quick_jit
    def gaussian(x):
        q, posterior = guide.posterior((), x).distribution, model.posterior(theta, x)
        return q.loc, q.scale, posterior.mean, posterior.cholesky

    loc, scale, mean, cholesky = map(np.asarray, gaussian(x))
    deviation = np.sqrt(np.diagonal(cholesky @ cholesky.T))
    np.testing.assert_allclose(scale, 1.2 * deviation, rtol=1e-6)
    np.testing.assert_allclose(loc, mean + 0.1 * deviation, rtol=1e-6)
    tails, nu, laplace = beds.heavy_tails(3)

    @quick_jit
    def curvature(x):  # Laplace's, at the mode
        scale = laplace.posterior((), x).distribution.scale
        return scale, -jax.hessian(log_joint(tails, jnp.float64(nu), x))(0.5 * x)

    scale, curved = curvature(x)
    np.testing.assert_allclose(scale, 1.2 * np.diagonal(curved) ** -0.5, rtol=1e-6)
    finite, tilts, defensive = beds.discrete(2, 3)

    @quick_jit
    def tables(x):
        q = jax.vmap(defensive.posterior((), x).log_prob)(jnp.array([[0, 0], [1, 0], [2, 0]]))
        return finite.posterior(tilts, x).log_probs, q

    log_probs, log_q = map(np.asarray, tables(x[:2]))
    marginal = np.exp(log_probs).reshape(3, 3).sum(1)  # of the first variable
    q = np.exp(log_q)
    np.testing.assert_allclose(q / q.sum(), 0.9 * marginal + 0.1 / 3, rtol=1e-5)


class Counted:
    """A likelihood that counts how often it is priced."""

    def __init__(self, inner, seen):
        self.inner, self.seen = inner, seen
        self.sample = inner.sample

    def log_prob(self, x):
        value = self.inner.log_prob(x)
        jax.debug.callback(self.seen.append, value)  # of a value, or vmap would call it once
        return value


CONFIG = SimpleNamespace(num_chains=3, num_runs=2, num_particles=2, level=0.9)


@pytest.mark.parametrize("kind", ["sandwich", "sequential"])
def test_chains_cost_what_is_counted(kind):
    parts, moves = (beds.gaussian(2), HMC) if kind == "sandwich" else (beds.discrete(3, 2), GIBBS)
    model = parts[0]
    own, seen = bed(parts, moves), []
    data = beds.simulate(jax.random.key(0), own, 2)
    counted = own._replace(
        model=model._replace(likelihood=lambda *of: Counted(model.likelihood(*of), seen))
    )
    if kind == "sandwich":
        found = methods.sandwich(jax.random.key(1), counted, data, "prior", 3, CONFIG)
        costs = [one.cost for one in found]
        assert (costs[1] > costs[0]).all()
    else:
        costs = [methods.sequential(jax.random.key(1), counted, data, 3, CONFIG).cost]
    jax.effects_barrier()
    assert len(seen) == costs[-1].sum()


@pytest.mark.parametrize("move_cost", [4, 18])
def test_the_budget_pays_for_as_many_temperatures_as_it_can(move_cost):
    def cost(length):
        return methods.pilot_cost(length, move_cost) + methods.chain_cost(32, length, move_cost)

    for budget in (100, 1_500, 2_000, 9_000, 25_000, 90_000, 200_000):
        length = methods.affordable(budget, 32, move_cost)
        assert cost(length) <= budget or length == 0
        assert cost(length + 1) > budget


def test_importance_sampling_misses_the_mode_that_the_guide_does_not_know():
    own = bed(beds.two_modes(4))
    data = beds.simulate(jax.random.key(0), own, 40)
    config = SimpleNamespace(budgets=(400,), level=0.95)
    found = methods.by_weights(jax.random.key(1), own, data, config)["importance"][0]
    # The mass of the wide mode, from the densities of x under either: all that q can find.
    x = np.asarray(data.x, float)
    each = np.stack([stats.norm(0, (1 + s**2) ** 0.5).logpdf(x).sum(1) for s in (0.3, 1.0)])
    known = each[1] - np.logaddexp(*each)
    far = (x**2).sum(1) > 7  # from mode to mode: 4.6 standard deviations of q
    errors = (found.log_evidence - data.log_evidence)[far]
    # Each has a standard error of about 0.03, from 400 weights of relative variance 0.3.
    assert abs(np.median(errors - known[far])) < 5 * 1.25 * 0.03 / far.sum() ** 0.5 < 0.06
    assert np.median(known[far]) < -0.2
    again = methods.by_weights(jax.random.key(1), own, data, config)["importance"][0]
    np.testing.assert_array_equal(again.log_evidence, found.log_evidence)
