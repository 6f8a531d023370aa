"""Parallel tempering: log Z and the shares of modes between which no move at beta = 1 leads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import annealing, distributions, evidence
from lvm_jax.evidence.result import Check
from lvm_jax.evidence.tempered import bridge, exchange

Q = distributions.normal(jnp.zeros(1), jnp.full(1, 3.0))
WEIGHTS, MEANS, SCALES = jnp.array([0.8, 0.2]), jnp.array([-4.0, 4.0]), jnp.array([0.5, 0.3])
LOG_Z, RUNS = -1.7, 24
WALK = annealing.random_walk(2)


def two_modes(z):
    """exp(-1.7) times 0.8 N(-4, 0.5^2) + 0.2 N(4, 0.3^2)."""
    each = jax.scipy.stats.norm.logpdf(z[0], MEANS, SCALES)
    return jax.nn.logsumexp(jnp.log(WEIGHTS) + each) + LOG_Z


@pytest.fixture(scope="module")
def found():
    plan = annealing.plan(annealing.linear(8), WALK, adaptive=True)
    run = lambda key: evidence.tempered(key, two_modes, Q, 400, plan, num_runs=RUNS, num_scouts=0)  # noqa: E731
    return jax.device_get(quick_jit(run)(jax.random.key(0)))


def test_log_z_of_separate_modes(found):
    error = found.log_evidences.std(ddof=1) / RUNS**0.5
    assert error < 0.05  # half of the evidence would be 0.7 nats
    assert abs(found.log_evidences.mean() - LOG_Z) < 4.5 * error
    assert found.evidence.failed == 0
    low, high = found.evidence.interval(0.999)
    assert low < LOG_Z < high


def test_the_draws_visit_each_mode_by_its_mass(found):
    assert found.z.shape == (RUNS, 300, 1)
    right = (found.z[..., 0] > 0).mean(1)
    assert abs(right.mean() - 0.2) < 4.5 * right.std(ddof=1) / RUNS**0.5 < 0.15
    # Every ladder brings chains from one mode to the other, which moves at beta = 1 cannot.
    assert (((found.z[:, 1:, 0] > 0) != (found.z[:, :-1, 0] > 0)).sum(1) > 2).all()
    left = found.z[found.z < 0]
    np.testing.assert_allclose([left.mean(), left.std()], [-4.0, 0.5], atol=0.06)


def test_exchanges_are_accepted_by_their_ratio(found):
    assert found.exchanges.shape == found.acceptance.shape == (8,)
    assert (found.exchanges > 0.1).all()
    assert (found.exchanges < 1).all()
    # Certain exchanges swap the even pairs in sweep 0 and the odd ones in sweep 1.
    certain, key = jnp.ones(4), jax.random.key(1)
    assert exchange(key, certain, jnp.int32(0)).tolist() == [1, 0, 3, 2, 4]
    assert exchange(key, certain, jnp.int32(1)).tolist() == [0, 2, 1, 4, 3]
    assert exchange(key, jnp.zeros(4), jnp.int32(0)).tolist() == [0, 1, 2, 3, 4]


def test_the_bridge_is_exact_for_a_constant_ratio():
    ratio = jnp.full((5, 4), -2.5)
    np.testing.assert_allclose(bridge(ratio, jnp.array([0.0, 0.2, 0.7, 1.0])), -2.5, rtol=1e-6)


def test_rare_exchanges_are_not_reliable():
    """Two temperatures only, from a q that is 100 standard deviations away."""

    def narrow(z):
        return jax.scipy.stats.norm.logpdf(z[0], 30.0, 0.1)

    plan = annealing.plan(annealing.linear(2), WALK, num_pilot=0)
    run = lambda key: evidence.tempered(key, narrow, Q, 20, plan, num_runs=4, num_scouts=0)  # noqa: E731
    found = quick_jit(run)(jax.random.key(2))
    assert found.evidence.failed & Check.ACCEPTANCE


def test_refusals():
    plan = annealing.plan(annealing.linear(2), WALK)
    with pytest.raises(ValueError, match="num_sweeps: expected an integer >= 4"):
        evidence.tempered(jax.random.key(0), two_modes, Q, 3, plan)
    with pytest.raises(ValueError, match="num_runs: expected an integer >= 2"):
        evidence.tempered(jax.random.key(0), two_modes, Q, 8, plan, num_runs=1)
