"""The sandwich, sequential Monte Carlo and the debiased methods: what the contract does not test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import PROBLEMS, prior_of
from jax.nn import logsumexp
from model_cases import quick_jit
from scipy.special import stdtrit

from lvm_jax import annealing, distributions, evidence
from lvm_jax.models import Model
from lvm_jax.weights import log_weights

NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))
WALK = annealing.random_walk(2)
PLAN = annealing.plan(annealing.sigmoid(6), WALK, num_pilot=0)


def toy(likelihood_scale=1.0):
    """z ~ N(0, I_2), x | z ~ N(z, I); a scale other than 1 prices what it does not draw."""

    class Wrong(tuple):
        def __new__(cls, loc):
            return super().__new__(cls, (loc,))

        def sample(self, *, seed, sample_shape=()):
            return distributions.normal(self[0], jnp.full(2, likelihood_scale)).sample(
                seed=seed, sample_shape=sample_shape
            )

        def log_prob(self, x):
            return distributions.normal(self[0], jnp.ones(2)).log_prob(x)

    return Model(lambda key: (), lambda theta: NORMAL, lambda theta, z: Wrong(z))


@pytest.fixture(scope="module")
def bidirectional():
    def run(seed, temperatures):
        return evidence.bidirectional(
            jax.random.key(seed), MODEL(()), None, 300, 5,
            annealing.plan(temperatures, WALK, num_pilot=0),
        )  # fmt: skip

    MODEL = toy()
    return run


def log_evidence(x):
    return -(np.asarray(x) ** 2).sum(1) / 4 - np.log(4 * np.pi)


def test_the_bounds_hold_and_close(bidirectional):
    gaps = []
    for number in (2, 16):
        found = bidirectional(0, annealing.sigmoid(number))
        truth = log_evidence(found.x)
        below = np.asarray(found.sandwich.lower.log_evidence) - truth
        above = np.asarray(found.sandwich.upper.log_evidence) - truth
        for off, sign in ((below, -1), (above, 1)):
            assert sign * off.mean() > -5 * off.std() / 300**0.5
            ratio = np.exp(-sign * off)  # unbiased for 1 on either side
            assert abs(ratio.mean() - 1) < 5 * ratio.std() / 300**0.5
        np.testing.assert_allclose(found.gap.value, (above - below).mean(), rtol=1e-3)
        np.testing.assert_allclose(found.lower.value, (below + truth).mean(), rtol=1e-5)
        np.testing.assert_allclose(
            found.gap.standard_error, (above - below).std(ddof=1) / 300**0.5, rtol=1e-3
        )
        low, high = found.sandwich.interval(0.9)
        assert np.mean((low <= truth) & (truth <= high)) > 0.9 - 3 * (0.09 / 300) ** 0.5
        np.testing.assert_allclose(high - low, found.sandwich.gap + 2 * np.log(20), rtol=1e-5)
        gaps.append(float(found.gap.value))
    assert gaps[0] > 2 * gaps[1] > 0


def test_bounds_that_cross_are_refused():
    # Draws that are three times as wide as their density make a z that x does not suggest;
    # moves that mix would hide it.
    still = WALK._replace(step_size=0.01)
    with pytest.raises(ValueError, match="do not follow their log_prob"):
        evidence.bidirectional(
            jax.random.key(0), toy(3.0)(()), None, 60, 40,
            annealing.plan(annealing.linear(1), still, num_pilot=0),
        )  # fmt: skip


def test_sequential_without_resampling_is_annealed():
    # One particle is never resampled, whatever the threshold: R runs are R annealed chains.
    problem = PROBLEMS["linear_gaussian"]()
    joint, q = problem.log_joint(problem.theta, problem.x), prior_of(problem)

    @quick_jit
    def run(key):
        one = evidence.sequential(key, joint, q, 1, PLAN, num_runs=400, num_scouts=0)
        many = evidence.sequential(key, joint, q, 16, PLAN, num_runs=400, num_scouts=0)
        always = evidence.sequential(
            key, joint, q, 16, PLAN, num_runs=3, threshold=1.0, num_scouts=0
        )
        # Without the evidence, whose statistics have tests of their own.
        return [found._replace(evidence=None) for found in (one, many, always)]

    one, many, always = jax.device_get(run(jax.random.key(0)))
    np.testing.assert_allclose(one.ess, np.ones((400, 6)), rtol=1e-5)
    np.testing.assert_array_equal(one.log_weights, np.zeros((400, 1)))
    # Sixteen particles: a sixteenth of the variance of p-hat, or less.
    truth = float(problem.log_evidence(problem.theta, problem.x))
    spread = [np.var(np.exp(np.asarray(r.log_evidences) - truth)) for r in (one, many)]
    assert spread[1] < spread[0] / 10
    assert always.resampled.all()
    np.testing.assert_allclose(always.log_weights, np.full((3, 16), -np.log(16)), rtol=1e-5)
    assert not many.resampled.all()
    np.testing.assert_allclose(logsumexp(many.log_weights, axis=1), np.zeros(400), atol=1e-5)
    # Weighted particles are draws of the posterior: its mean within 5 errors over runs.
    means = (np.exp(many.log_weights)[:, :, None] * np.asarray(many.z)).sum(1)
    weight = np.exp(np.asarray(many.log_evidences) - truth)
    exact = np.asarray(problem.posterior(problem.theta, problem.x).mean)
    off = weight[:, None] * (means - exact)
    assert (np.abs(off.mean(0)) < 5 * off.std(0) / 20).all()
    assert (off.std(0) / 20 < 0.1).all()


def test_multilevel_is_the_telescope():
    # One draw, rebuilt in float64 from the same keys; and the law of its level and cost.
    def wide(z):
        return -2 * jnp.log1p(z @ z)

    keys = jax.random.split(jax.random.key(3), 3_000)
    draws = quick_jit(
        lambda keys: jax.lax.map(lambda key: evidence.multilevel(key, wide, NORMAL, base=4), keys)
    )(keys)
    levels = np.asarray(draws.num_terms)
    for level in (1, 2, 3, 5):
        chance = 2 ** (-1.5 * (level - 1))
        error = (chance * (1 - chance) / len(levels)) ** 0.5
        assert abs((levels >= level).mean() - chance) <= 5 * error
    np.testing.assert_array_equal(draws.num_samples, 4 * (1 + 2**levels))
    place = int(np.flatnonzero(levels == 2)[0])
    first, _, rest = jax.random.split(keys[place], 3)
    weigh = quick_jit(lambda key: log_weights(key, wide, NORMAL, 4))
    blocks = [weigh(jax.random.fold_in(rest, i)) for i in range(4)]
    log_w = np.concatenate(blocks).astype(np.float64)
    mean = lambda w: np.log(np.exp(w).mean())  # noqa: E731
    difference = mean(log_w) - 0.5 * (mean(log_w[:8]) + mean(log_w[8:]))
    start = mean(np.asarray(weigh(first), np.float64))
    expected = start + difference / ((1 - 2**-1.5) * 2**-1.5)
    np.testing.assert_allclose(draws.log_evidence[place], expected, rtol=1e-4)
    # The average of draws: a plain mean, its error, and no weights.
    mean_of = quick_jit(evidence.average)(draws)
    values = np.asarray(draws.log_evidence, np.float64)
    np.testing.assert_allclose(mean_of.log_evidence, values.mean(), rtol=1e-4)
    np.testing.assert_allclose(mean_of.standard_error, values.std(ddof=1) / 3_000**0.5, rtol=1e-4)
    assert mean_of.num_samples == mean_of.ess == 3_000
    # p = integral of (1 + r^2)^-2 over the plane = pi.
    assert abs(mean_of.log_evidence - np.log(np.pi)) < 5 * mean_of.standard_error < 0.3


def test_jackknife_takes_the_bias_down():
    problem = PROBLEMS["linear_gaussian"]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)

    @quick_jit
    def run(key):
        def one(key):
            return [
                evidence.jackknife(key, joint, q, 8, order=order).log_evidence for order in (0, 1)
            ]

        return jax.vmap(one)(jax.random.split(key, 20_000))

    off = np.stack(run(jax.random.key(0))) - float(problem.log_evidence(problem.theta, problem.x))
    plain, less = off.mean(1)
    error = off.std(1) / 20_000**0.5
    assert plain < -5 * error[0]
    assert abs(less) < 0.5 * abs(plain) + 5 * error[1]


def test_interval():
    found = evidence.from_log_weights(jnp.log(jnp.array([4.0, 5.0, 6.0])))
    low, high = found.interval(0.95)
    np.testing.assert_allclose((low + high) / 2, np.log(5), rtol=1e-6)
    # Student's t with ESS - 1 = 15^2 / 77 - 1 degrees of freedom; sd / sqrt(3) / 5 = 0.11547.
    quantile = stdtrit(225 / 77 - 1, 0.975)
    assert 4.302653 < quantile < 4.5  # of 2 degrees
    np.testing.assert_allclose(high - low, 2 * quantile * 0.1154701, rtol=1e-5)
    one = evidence.from_log_weights(jnp.zeros(1))
    assert one.interval() == one.nominal_interval() == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="level: expected a probability"):
        found.interval(1.0)


def test_refusals():
    key = jax.random.key(0)
    for options, message in (
        ({"num_particles": 0}, "num_particles: expected an integer >= 1"),
        ({"num_particles": 3, "num_runs": 0}, "num_runs: expected an integer >= 1"),
        ({"num_particles": 3, "threshold": 1.5}, "threshold: expected a share"),
        ({"num_particles": 3, "resampling": "systematc"}, "did you mean 'systematic'"),
    ):
        with pytest.raises(ValueError, match=message):
            evidence.sequential(key, NORMAL.log_prob, NORMAL, plan=PLAN, **options)
    with pytest.raises(ValueError, match="z: expected one draw of the posterior"):
        evidence.sandwich(key, NORMAL.log_prob, NORMAL, jnp.zeros(3), 2, PLAN)
    with pytest.raises(ValueError, match="base: expected an integer >= 1"):
        evidence.multilevel(key, NORMAL.log_prob, NORMAL, base=0)
    with pytest.raises(ValueError, match="draws: expected leaves of shape"):
        evidence.average(evidence.Telescope(jnp.zeros(()), jnp.int32(1), jnp.int32(1)))
