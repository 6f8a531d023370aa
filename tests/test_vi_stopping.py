"""The rule that ends a fit, on iterations whose stationary distribution is known."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax.distributions import normal
from lvm_jax.vi.blocks import Iteration
from lvm_jax.vi.density import check_density
from lvm_jax.vi.method import Reason, Task
from lvm_jax.vi.stopping import iterate
from lvm_jax.vi.trend import squared_slope

DIM, SAMPLES = 4, 10
KEY = jax.random.key(8)
BEST = np.linspace(-1, 1, DIM)


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


def iteration(noise=1.0, bias=0.0, slowness=1.0, step=None, products=None):
    step = partial(walk, noise, bias, slowness) if step is None else step
    return Iteration(step, average_of, build, half_square, SAMPLES, products=products)


def products(averages, centre):
    away = averages - centre[None]
    return away @ away.T


def run(one, tolerance=0.01, budget=100_000, key=KEY, at=3.0, first_rate=0.4):
    density, _ = check_density(lambda z: -(z**2).sum(), np.zeros(DIM, np.float32))
    task = Task(density, "mean_field", tolerance, budget)
    return iterate(key, one, jnp.full(DIM, 1.0) * at, task, first_rate, 0)


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


def gap(found, slowness):
    """Nats of the ELBO whose natural gradient the walk follows: curvature 1 / slowness in one."""
    away = np.asarray(found.eta) - BEST
    return float((away**2 * np.r_[1 / slowness, np.ones(DIM - 1)]).sum() / 2)


def test_a_drift_below_the_noise_of_a_window_does_not_end_the_fit():
    """A direction of curvature 1 / 80, from 3 away: 0.05 nats that windows of 8 units hide."""
    slow = 80.0
    with_, without = (
        [run(iteration(0.3, slowness=slow, products=given), key=jax.random.key(seed), at=BEST + 3)
         for seed in range(6)]
        for given in (products, None)
    )  # fmt: skip
    assert all(one.reason is Reason.CONVERGED for one in with_ + without)
    assert np.median([gap(one, slow) for one in with_]) < 0.015
    assert np.median([gap(one, slow) for one in without]) > 0.02


def test_the_squared_slope_is_unbiased_and_its_error_is_the_spread():
    """Of lines in 30 dimensions with noise that correlates neighbours."""
    rng, dim = np.random.default_rng(0), 30
    slope = rng.normal(size=dim) * 0.05
    found = []
    for _ in range(2_000):
        white = rng.normal(size=(9, dim)) * np.linspace(0.2, 1, dim)
        x = white[:-1] + white[1:] + np.arange(8)[:, None] * slope + 7.0
        found.append(squared_slope(x @ x.T))
    values, errors = np.array(found).T
    assert abs(values.mean() - slope @ slope) < 4 * values.std() / len(values) ** 0.5
    quiet = [squared_slope((x := rng.normal(size=(8, dim))) @ x.T) for _ in range(2_000)]
    values, errors = np.array(quiet).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15)


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
