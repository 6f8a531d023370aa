"""The verdict of an Evidence: which checks fail, what its interval then is, and that it covers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import annealing, distributions, evidence
from lvm_jax.evidence import Check
from lvm_jax.evidence.result import least_ess, least_samples

NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))
of = quick_jit(jax.vmap(evidence.from_log_weights))


def verdict(log_w):
    found = jax.device_get(of(np.asarray(log_w, np.float32)[None]))
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), found)


def test_each_check_fails():
    rng = np.random.default_rng(0)
    good = rng.normal(0, 0.5, 1_001)
    assert verdict(good).failed == 0
    assert verdict(good).verdict() == "reliable"
    assert verdict(np.append(good[:-1], np.nan)).failed & Check.NONFINITE
    assert verdict(np.append(good[:-1], np.inf)).failed & Check.NONFINITE
    quantiles = (np.arange(1_001) + 0.5) / 1_001
    tail = Check.PARETO | Check.VARIANCE
    for shape, check in ((0.4, 0), (0.6, Check.VARIANCE), (0.8, Check.PARETO)):
        heavy = verdict(-shape * np.log(quantiles))
        np.testing.assert_allclose(heavy.k_hat, shape, atol=0.06)
        assert heavy.failed & tail == check
        assert bool(heavy.likely_low) == (shape > 0.7 or bool(heavy.failed & Check.ESS))
    # 1 weight in 50 is e^100 of the others: the tail is bounded, and 20 draws carry the mean.
    few = verdict(np.where(np.arange(1_001) < 20, 100.0, 0.0))
    np.testing.assert_allclose(few.ess, 20, rtol=1e-4)
    assert few.failed == Check.ESS
    assert few.verdict() == "not reliable: the effective sample size is too small"
    zero = verdict(np.full(1_001, -np.inf))
    assert zero.log_evidence == -np.inf
    assert zero.ess == 0
    assert zero.failed == Check.PARETO | Check.ESS


def test_results_print_numbers_errors_and_verdicts():
    """Weights 1 and 3 at 32 draws each: log 2, error 1 / (2 sqrt(63)), the ESS is 64 * 4 / 5."""
    log_w = jnp.tile(jnp.log(jnp.array([1.0, 3.0])), 32)
    found = evidence.from_log_weights(log_w)
    assert repr(found) == f"Evidence(0.693 ± 0.063, k-hat {found.k_hat:.2f}: reliable)"
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), found)
    two = two._replace(failed=jnp.array([0, int(Check.PARETO | Check.VARIANCE)]))
    assert repr(two).startswith("Evidence(2 points: 1 of 2 not reliable: Pareto k-hat")
    words = "Summary(0.693 ± 0.045 (Monte Carlo) ± 0 (sampling): 1 of 2 points not reliable: "
    reason = "Pareto k-hat is above 0.7 or not known: the tail of the weights is heavy)"
    assert repr(evidence.summarize(two)) == words + reason  # above 0.7 is above 0.5 as well
    shapes = jax.eval_shape(lambda: found)
    assert repr(shapes).startswith("Evidence(log_evidence=ShapeDtypeStruct")


def test_the_least_ess_is_that_of_a_skewness():
    # Lognormal weights have (S / ESS)^(3/2) / sqrt(S) = 2/3 there; k-hat needs 25 of them.
    np.testing.assert_allclose((64 / least_ess(64)) ** 1.5 / 8, 2 / 3, rtol=1e-12)
    np.testing.assert_allclose(least_samples(least_ess(77) / 77), 77, rtol=1e-12)
    assert least_samples(0.0) == np.inf
    for size, reliable in ((1, False), (2, False), (3, True), (24, True), (25, True)):
        found = verdict(np.zeros(size))
        assert bool(found.reliable) == reliable, size
    assert np.isinf(verdict(np.zeros(24)).k_hat)


def test_an_unreliable_interval_is_the_whole_line_and_nan_stays():
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 0.3, (4, 101))
    rows[1] *= 20
    rows[2, 7] = np.nan
    rows[3] = -np.inf
    found = of(jnp.asarray(rows, jnp.float32))
    np.testing.assert_array_equal(found.reliable, [True, False, False, False])
    low, high = found.interval()
    for limit, nominal in zip((low, high), found.nominal_interval(), strict=True):
        assert limit[0] == nominal[0]
        assert np.isfinite(nominal[1])
        assert np.isnan(limit[2])
        assert np.isnan(nominal[2])
    np.testing.assert_array_equal(low[[1, 3]], [-np.inf, -np.inf])
    np.testing.assert_array_equal(high[[1, 3]], [np.inf, np.inf])
    assert (found.nominal_interval()[0][3], found.nominal_interval()[1][3]) == (-np.inf, np.inf)
    words = found.verdict()
    assert words.startswith("3 of 4 not reliable: log-weights are NaN or +inf (1); ")
    assert evidence.summarize(found).failed == int(np.bitwise_or.reduce(found.failed))


@pytest.mark.parametrize("size", [31, 65])
def test_reliable_intervals_of_chains_cover(size):
    """Lognormal weights, E[w] = 1, as those of chains, of four spreads; 2,000 sets of each."""
    judged = quick_jit(
        jax.vmap(
            lambda log_w: evidence.result.check_chains(
                evidence.from_log_weights(log_w), log_w, jnp.ones(3), True
            )
        )
    )
    rng = np.random.default_rng(2)
    for spread, kept in ((0.4, 0.93), (0.7, 0.85), (1.6, None), (4.0, None)):
        log_w = spread * rng.standard_normal((2_000, size)) - spread**2 / 2
        found = judged(jnp.asarray(log_w, jnp.float32))
        reliable = np.asarray(found.reliable)
        low, high = found.interval()
        misses = ((low > 0) | (high < 0)) & reliable
        # Nominally 5% miss; within 4 standard errors of 5.5%.
        assert misses.mean() < 0.055 + 4 * (0.055 * 0.945 / 2_000) ** 0.5
        if kept is None:
            assert reliable.mean() < 0.01
            low, high = found.nominal_interval()
            assert ((low <= 0) & (high >= 0)).mean() < 0.88  # which is why
        else:
            assert reliable.mean() > kept


def test_the_error_of_chains_is_at_least_that_of_lognormal_weights():
    """sqrt((e^(s^2) - 1) / C), s from the log-weights above their median, at most the limit."""
    size, padding = 40, 7
    rng = np.random.default_rng(4)
    # A lower tail alone; one large weight, whose own error is larger; s beyond the limit.
    skewed = -0.6 * rng.standard_exponential(size)
    cases = np.stack([skewed, np.append(np.zeros(size - 1), 3.0), 5 * rng.standard_normal(size)])

    @quick_jit
    @jax.vmap
    def errors(log_w):
        before = evidence.from_log_weights(log_w[:size])
        padded = jnp.append(log_w, jnp.full(padding, -jnp.inf))
        found = [
            evidence.result.check_chains(before, w, jnp.ones(1), True, size).standard_error
            for w in (log_w, padded)
        ]
        return before.standard_error, *found

    before, found, padded = errors(jnp.asarray(cases, jnp.float32))
    above = np.maximum(cases - np.median(cases, axis=1, keepdims=True), 0)
    limit = np.log(size / evidence.result.least_ess(size)) ** 0.5
    spread = np.minimum(np.sqrt(2 * (above**2).mean(1)), limit)
    expected = np.maximum(before, np.sqrt(np.expm1(spread**2) / size))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(padded, expected, rtol=1e-5)
    assert spread[2] == limit
    assert expected[1] == before[1]
    assert expected[0] <= 1.2 * before[0]


def test_the_error_of_runs_is_at_least_that_of_their_particles():
    """The root of the mean variance over R, times the ratio of the quantiles of z and t."""

    @quick_jit
    @jax.vmap
    def error(log_z, variance):
        found = evidence.from_log_weights(log_z)
        return evidence.result.check_runs(found, log_z, variance, jnp.ones(1), True).standard_error

    log_z = np.stack([np.zeros(8), np.tile([-0.5, 0.5], 4), np.zeros(8)])
    variance = np.stack([np.linspace(0.1, 0.3, 8), np.full(8, 0.04), np.full(8, np.nan)])
    found = error(jnp.asarray(log_z, jnp.float32), jnp.asarray(variance, jnp.float32))
    own = np.std(np.exp(log_z[1]), ddof=1) / np.exp(log_z[1]).mean() / 8**0.5
    np.testing.assert_allclose(found, [(0.2 / 8) ** 0.5 * 1.959964 / 2.364624, own, 0], rtol=1e-4)


@quick_jit
@jax.vmap
def moved(precision, step_size):
    """31 chains from the prior N(0, I) to a posterior `precision` times as narrow, or so."""
    temperatures, move = annealing.linear(3), annealing.random_walk(1)
    steps = jnp.full(3, step_size)
    plan = annealing.fixed(annealing.Schedule(temperatures, steps, jnp.ones(2)), move)

    def joint(z):
        return NORMAL.log_prob(z) + NORMAL.log_prob(precision * (z - 0.3))

    key, z = jax.random.key(0), jnp.full(2, 0.3)
    return (
        evidence.annealed(key, joint, NORMAL, 31, plan, num_scouts=0).evidence,
        evidence.sequential(key, joint, NORMAL, 1, plan, num_runs=31, num_scouts=0).evidence,
        evidence.sandwich(key, joint, NORMAL, z, 31, plan),
    )


def test_chains_that_have_not_arrived_are_not_reliable():
    chains, runs, both = moved(jnp.array([30.0, 0.5, 0.5]), jnp.array([0.3, 0.3, 1e4]))
    for found in (chains, runs, both.lower):
        assert found.failed[0] & Check.SPREAD
        assert found.failed[1] == 0
        assert found.failed[2] == Check.ACCEPTANCE
    assert both.upper.failed[2] & Check.ACCEPTANCE
    assert both.reliable.all()  # Markov's inequality needs no check
    assert np.isfinite(both.interval()).all()
    assert both.verdict() == "reliable"


def test_untuned_moves_may_reject_every_proposal():
    # All mass at one value of z: a flip is never accepted, and the weights are right.
    q = distributions.categorical(jnp.zeros((1, 3)))
    plan = annealing.plan(annealing.linear(5), annealing.flip(3))

    def joint(z):
        return jnp.where(z[0] == 1, 0.0, -40.0)

    found = quick_jit(lambda key: evidence.annealed(key, joint, q, 64, plan))(jax.random.key(1))
    assert found.acceptance.min() < 0.05
    assert not found.evidence.failed & Check.ACCEPTANCE


def test_an_average_of_few_or_heavy_draws_is_not_reliable():
    compiled = quick_jit(evidence.average)

    def average(values):
        number = jnp.zeros(len(values), jnp.int32)
        return compiled(evidence.Telescope(jnp.asarray(values), number, number))

    normal = np.random.default_rng(3).normal(size=301)
    assert average(normal).reliable
    heavy = average(((np.arange(301) + 0.5) / 301) ** -0.65)  # a tail of shape 0.65
    assert 0.5 < heavy.k_hat < 0.7
    assert heavy.failed == Check.VARIANCE
    assert not heavy.likely_low
    assert average(np.append(normal[1:], -np.inf)).failed & Check.NONFINITE
