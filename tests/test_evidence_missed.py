"""Mass that chains miss: a mode without chains, a tail beyond q, and the verdict of particles."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.special import stdtrit

from lvm_jax import annealing, distributions, evidence
from lvm_jax.evidence import Check, missed, result
from lvm_jax.evidence.sequential import _variance

NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))
WALK = annealing.random_walk(3)._replace(step_size=0.6)
PLAN = annealing.plan(annealing.linear(60), WALK, num_pilot=0)
LOG_Z = -1.3
MEANS = jnp.array([[-0.6, -0.5], [1.2, 1.1]])
FACTORS = jnp.array([[[2.0, 0.0], [0.8, 1.9]], [[45.0, 0.0], [-25.0, 50.0]]])  # of the precisions


def modes(shares, z):
    """exp(-1.3) times a mixture of two correlated normals, the second 25 times as narrow."""
    white = jnp.einsum("kd,kde->ke", z[None] - MEANS, FACTORS)
    log_det = jnp.log(jnp.diagonal(FACTORS, axis1=1, axis2=2)).sum(1)
    each = log_det - jnp.log(2 * jnp.pi) - 0.5 * (white**2).sum(1)
    return jax.nn.logsumexp(each + jnp.log(shares)) + LOG_Z


def test_chains_that_miss_a_mode_are_contradicted_and_others_are_not():
    @quick_jit
    @jax.vmap
    def run(shares):
        anneal = partial(
            evidence.annealed, jax.random.key(1), partial(modes, shares), NORMAL, 32, PLAN
        )
        without = anneal(num_scouts=0)
        return anneal(), (without.scouted, without.log_weights, without.z)

    found, without = jax.device_get(run(jnp.array([[0.05, 0.95], [1 - 1e-9, 1e-9]])))
    low, high = found.evidence.nominal_interval()
    # By the other checks both are reliable, and the first is wrong by more than 3 half-widths.
    assert high[0] + (high - low)[0] < LOG_Z
    assert low[1] < LOG_Z < high[1]
    np.testing.assert_array_equal(found.evidence.failed, [Check.CONTRADICTED, 0])
    np.testing.assert_allclose(found.scouted.log_evidence, LOG_Z, atol=0.05)
    np.testing.assert_array_equal(found.scouted.num_modes, [2, 1])
    # Each start and draw once, and ascents of 3 evaluations a step.
    least = missed.SCOUTS + missed.DRAWS
    assert (found.scouted.evaluations > least + 3 * found.scouted.num_modes).all()
    assert (found.scouted.evaluations < least + 300).all()
    # The error of 256 draws, half of which are of the normals: their weights are at most 2.
    assert ((found.scouted.standard_error > 0.01) & (found.scouted.standard_error < 0.06)).all()
    assert without[0] is None
    np.testing.assert_array_equal(without[1], found.log_weights)
    np.testing.assert_array_equal(without[2], found.z)


def evidence_of(log_evidence, error):
    zero = jnp.zeros((), jnp.int32)
    return evidence.Evidence(log_evidence, error, error, error, zero, zero, zero, zero, zero)


@quick_jit
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def failed(second, error, long, accepted):
    scouted = missed.Scouted(second, error, jnp.int32(1), jnp.int32(1))
    found = evidence_of(jnp.float32(-3), 0.2 + 0 * second)
    moves = jnp.array([0.9, accepted]), 0.8
    return missed.check_missed(found, scouted, jnp.zeros((64, 12)), long, 8, *moves).failed


def test_the_second_estimate_is_compared_with_the_interval():
    half = 0.2 * stdtrit(7, 0.975)
    low, high = -3 - half, -3 + half
    # The second estimate has an error of 0.01: one is added at the upper limit, two at the lower.
    cases = [
        (high - 0.005, False, Check.CONTRADICTED), (high - 0.015, False, 0),
        (high - 0.005, True, Check.CONTRADICTED), (high - 0.015, True, 0),
        (low - 0.015, True, 0), (low - 0.025, True, Check.TAIL), (low - 0.025, False, 0),
        (-np.inf, True, Check.TAIL), (np.nan, True, Check.TAIL), (np.nan, False, 0),
    ]  # fmt: skip
    second, long, expected = (np.array(part) for part in zip(*cases, strict=True))
    second = jnp.asarray(second, jnp.float32)
    np.testing.assert_array_equal(failed(second, 0.01 + 0 * second, long, 0.41), expected)
    # An estimate that is above the first by less than 2 of its errors is no contradiction.
    wide = jnp.full(len(second), 0.51 * half, jnp.float32)
    found = failed(second, wide, long, 0.41)
    # With an error of over 0.1 it does not confirm chains with a long tail.
    np.testing.assert_array_equal(found, np.where(long, Check.TAIL, 0))
    second = jnp.full(2, -3.0, jnp.float32)
    found = failed(second, jnp.array([0.099, 0.101]), jnp.ones(2, bool), 0.41)
    np.testing.assert_array_equal(found, [0, Check.TAIL])
    nothing = evidence_of(jnp.zeros(()), jnp.zeros(()))
    given = jnp.zeros((3, 2)), jnp.array(True), 3, jnp.zeros(1), 0.8
    assert missed.check_missed(nothing, None, *given) is nothing


def test_a_share_of_the_weight_without_mass_is_stuck():
    """Below log p - 5 - log 20 = -11: by its weight, not by the number of chains."""
    ratio = jnp.where(jnp.arange(100) < 10, -3 - 5 - jnp.log(20.0), 0.0)
    light = jnp.where(jnp.arange(100) < 10, jnp.log(0.4), 0.0)  # 4.3% of the weight
    given = evidence_of(jnp.float32(-3), jnp.float32(0.2))
    cases = [(ratio - 0.1, 0 * light), (ratio + 0.1, 0 * light), (ratio - 0.1, light)]
    found = [missed.check_ends(given, *case).failed for case in cases]
    np.testing.assert_array_equal(found, [Check.STUCK, 0, 0])
    dead = missed.check_ends(given, jnp.full(100, -jnp.inf), jnp.full(100, -jnp.inf))
    assert dead.failed == 0  # all weights are zero: other checks fail


@pytest.mark.parametrize("method", ["annealed", "sequential", "tempered"])
def test_the_ends_of_every_method_are_checked(method, monkeypatch):
    """With the log-ratios at the ends, and the weights of the chains; particles count equally."""
    seen = []

    def check_ends(found, *given):
        seen.append(given)
        return found._replace(failed=found.failed | Check.STUCK)

    monkeypatch.setattr(
        importlib.import_module(f"lvm_jax.evidence.{method}"), "check_ends", check_ends
    )
    plan = annealing.plan(annealing.linear(3), WALK, num_pilot=0)
    log_joint, q = partial(modes, jnp.array([0.5, 0.5])), NORMAL
    key, options = jax.random.key(0), {"num_scouts": 0}

    @jax.jit
    def run(key):
        seen.clear()
        if method == "annealed":
            found = evidence.annealed(key, log_joint, q, 4, plan, **options)
            z, weights = found.z, found.log_weights
        elif method == "sequential":
            found = evidence.sequential(key, log_joint, q, 3, plan, num_runs=4, **options)
            z, weights = found.z, jnp.zeros(found.z.shape[:2])
        else:
            found = evidence.tempered(key, log_joint, q, 4, plan, num_runs=2, **options)
            z, weights = found.z, jnp.zeros(found.z.shape[:2])
        ratio = lambda z: log_joint(z) - q.log_prob(z)  # noqa: E731
        for _ in range(z.ndim - 1):
            ratio = jax.vmap(ratio)
        return found.evidence.failed, *seen[0], ratio(z), weights

    failed, ratio, weights, expected, expected_weights = run(key)
    assert failed & Check.STUCK
    np.testing.assert_allclose(ratio, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-5, atol=1e-5)


def test_far_from_all_modes_moves_have_half_of_their_target_acceptance():
    """The second estimate is D = 12 nats below the interval, or nothing; the target is 0.8."""
    limit = -3 - 0.2 * stdtrit(7, 0.975) - 12
    second = jnp.array([limit + 0.1, limit - 0.1, -jnp.inf], jnp.float32)
    short = jnp.zeros(3, bool)
    found = [failed(second, 0.01 + 0 * second, short, accepted) for accepted in (0.41, 0.39)]
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, Check.ACCEPTANCE, Check.ACCEPTANCE]])


def test_a_discrete_or_long_z_has_no_scouts():
    key, labels = jax.random.key(2), distributions.categorical(jnp.zeros((2, 3)))
    long = distributions.normal(jnp.zeros(129), jnp.ones(129))
    zero = lambda z: jnp.zeros(())  # noqa: E731
    assert missed.scout(key, zero, labels, annealing.gibbs(3), 16) is None
    assert missed.scout(key, zero, labels, WALK, 16) is None
    assert missed.scout(key, zero, long, WALK, 16) is None
    assert missed.scout(key, zero, NORMAL, WALK, 0) is None
    for method in (evidence.annealed, evidence.sequential, evidence.tempered):
        with pytest.raises(ValueError, match="num_scouts: expected an integer >= 0, got -1"):
            method(key, NORMAL.log_prob, NORMAL, 8, PLAN, num_scouts=-1)


def test_the_variance_of_a_run_is_that_of_its_estimate():
    """Against NumPy, and the variance (e^(s^2) - 1) / S of the mean of S lognormal weights."""
    rng, size = np.random.default_rng(3), 200
    log_w = 0.5 * rng.standard_normal((2_000, size))
    w = np.exp(log_w) / np.exp(log_w).sum(1, keepdims=True)
    ess, resampled = rng.uniform(20, size, (2_000, 5)), rng.random((2_000, 5)) < 0.4
    run = quick_jit(jax.vmap(_variance))
    found = run(*(jnp.asarray(part) for part in (ess, resampled, np.log(w))))
    last = (size * (w**2).sum(1) - 1) / (size - 1)
    steps = np.where(resampled, (size / ess - 1) / (size - 1), 0).sum(1)
    np.testing.assert_allclose(found, last + steps, rtol=1e-4)
    np.testing.assert_allclose(last.mean(), np.expm1(0.25) / size, rtol=0.02)
    # Weights that are all zero count as one positive weight.
    none = run(jnp.full((1, 5), np.inf), jnp.zeros((1, 5), bool), jnp.full((1, size), -np.inf))
    np.testing.assert_allclose(none, 1.0)


def test_the_limits_of_particles_are_those_of_their_number():
    """sqrt(log(8^(1/3) / 1.31)) = 0.650, as the root of the mean variance; twice as log Z."""

    @quick_jit
    @jax.vmap
    def spread(log_z, variance):
        found = evidence_of(jnp.zeros(()), jnp.zeros(()))
        found = found._replace(failed=jnp.int32(int(Check.ESS | Check.PARETO)))
        return result.check_runs(found, log_z, variance, jnp.ones(1), True).failed

    limit = np.log(8 / result.least_ess(8)) ** 0.5
    np.testing.assert_allclose(limit, 0.656, atol=0.01)
    even = np.tile([-1.0, 1.0], 4) * (7 / 8) ** 0.5  # of standard deviation 1
    cases = [(0.3, 0.99), (0.3, 1.01), (1.99 * limit, 0.5), (2.01 * limit, 0.5)]
    log_z = np.array([size * even for size, _ in cases])
    variance = np.array([np.full(8, (part * limit) ** 2) for _, part in cases])
    found = spread(jnp.asarray(log_z, jnp.float32), jnp.asarray(variance, jnp.float32))
    np.testing.assert_array_equal(found & ~int(Check.PARETO), [0, Check.SPREAD] * 2)
    assert (found & Check.PARETO != 0).all()


def test_a_log_joint_without_second_derivatives_names_the_cure():
    @jax.custom_vjp
    def log_joint(z):
        return -(z**2).sum()

    log_joint.defvjp(lambda z: (log_joint(z), z), lambda z, slope: (-2 * z * slope,))
    q = distributions.normal(jnp.zeros(2), jnp.ones(2))
    plan = annealing.plan(annealing.linear(2), annealing.hmc(1))

    def run(key, **options):
        return evidence.annealed(key, log_joint, q, 4, plan, **options).log_weights

    with pytest.raises(TypeError, match="log_joint: expected two derivatives.*num_scouts=0"):
        jax.eval_shape(run, jax.random.key(0))
    assert jax.eval_shape(partial(run, num_scouts=0), jax.random.key(0)).shape == (4,)
