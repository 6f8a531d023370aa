"""The rule that ends a fit, on iterations whose stationary distribution is known."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax.distributions import normal
from lvm_jax.vi.density import check_density
from lvm_jax.vi.method import Reason, Task
from lvm_jax.vi.stopping import Iteration, iterate

DIM, SAMPLES = 4, 10
KEY = jax.random.key(8)
BEST = np.linspace(-1, 1, DIM)
pytestmark = pytest.mark.usefixtures("compile_quickly")


class Walk(NamedTuple):
    state: jax.Array
    log_weights: jax.Array


def walk(noise, bias, slowness, density, key, state, rate):
    """A linear pull to BEST + bias rate with noise; the first coordinate is slower."""
    speed = jnp.ones(DIM).at[0].set(1 / slowness)
    pull = BEST.astype(np.float32) + bias * rate - state
    step = rate * speed * (pull + noise * jax.random.normal(key, (DIM,)))
    return Walk(state + step, -half_square(state, jnp.zeros(DIM))[None] * jnp.ones(SAMPLES))


def half_square(first, second):
    return ((first - second) ** 2).sum() / 2


def average_of(state):
    return state


def build(average):
    return normal(average, jnp.ones(DIM))


def iteration(noise=1.0, bias=0.0, slowness=1.0, step=None):
    step = partial(walk, noise, bias, slowness) if step is None else step
    return Iteration(step, average_of, build, half_square, SAMPLES)


def run(one, tolerance=0.01, budget=100_000, key=KEY, at=3.0, first_rate=0.4):
    density, _ = check_density(lambda z: -(z**2).sum(), np.zeros(DIM, np.float32))
    task = Task(density, "mean_field", tolerance, budget)
    return iterate(key, one, jnp.full(DIM, at), task, first_rate, 0)


def error_of(found):
    return float(half_square(np.asarray(found.eta), BEST))


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_the_end_is_within_the_tolerance(noise, bias):
    """Over eight seeds: the mean error in nats, and the predicted error beside it."""
    found = [run(iteration(noise, bias), key=jax.random.key(seed)) for seed in range(8)]
    assert all(one.reason is Reason.CONVERGED for one in found)
    assert all(one.trace.error[-1] <= 0.01 for one in found)
    errors = np.array([error_of(one) for one in found])
    assert errors.mean() < 0.015
    assert errors.max() < 0.06


def test_the_predicted_noise_is_the_spread_of_averages():
    """Without bias, the predicted error is the mean squared error of the average."""
    found = [run(iteration(1.0), key=jax.random.key(seed)) for seed in range(16)]
    assert all(one.reason is Reason.CONVERGED for one in found)
    predicted = np.mean([one.trace.error[-1] for one in found])
    errors = np.array([error_of(one) for one in found])
    assert 0.5 * predicted < errors.mean() + 2 * errors.std() / np.sqrt(16)
    assert errors.mean() - 2 * errors.std() / np.sqrt(16) < 2 * predicted


def test_less_noise_takes_fewer_evaluations():
    cost = [run(iteration(noise, 1.0)).evaluations for noise in (0.1, 1.0)]
    assert cost[0] < cost[1]


def test_a_slow_drift_raises_the_rate_again():
    """The slow coordinate moves by 2 in 15 units of rate times steps."""
    found = run(iteration(0.3, slowness=15.0), budget=200_000)
    rates = found.trace.rate
    assert (np.diff(rates) > 0).any()
    assert abs(float(found.eta[0]) - BEST[0]) < 0.8
    assert found.reason is Reason.CONVERGED


@pytest.mark.parametrize("budget", [0, 100, 1_000, 3_001])
def test_the_budget_is_a_limit(budget):
    found = run(iteration(4.0), tolerance=1e-6, budget=budget)
    assert found.reason is Reason.BUDGET
    assert budget - 2_000 < found.evaluations <= budget
    assert len(found.trace.evaluations) == len(found.trace.elbo)
    if budget < 100:
        np.testing.assert_array_equal(found.eta, np.full(DIM, 3.0))


def unstable(density, key, state, rate):
    """Steps that diverge at a rate above 0.1."""
    new = state - rate * 20 * (state - BEST.astype(np.float32))
    return Walk(new, -half_square(state, BEST.astype(np.float32))[None] * jnp.ones(SAMPLES))


def test_steps_that_diverge_are_undone_at_half_the_rate():
    found = run(iteration(step=unstable))
    assert found.trace.rate[-1] <= 0.1
    assert error_of(found) < 0.01


def hopeless(density, key, state, rate):
    return Walk(state, jnp.full(SAMPLES, jnp.nan))


def test_an_elbo_that_is_never_finite_is_reported():
    found = run(iteration(step=hopeless), budget=10**9)
    assert found.reason is Reason.DIVERGED
    assert found.trace.rate[-1] < 1e-4


def test_equal_keys_give_equal_fits():
    first, second = run(iteration()), run(iteration())
    np.testing.assert_array_equal(first.eta, second.eta)
    assert first.evaluations == second.evaluations
