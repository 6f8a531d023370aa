"""Pilot runs of few chains: quick changes of the step size, smooth estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import annealing, distributions, evidence
from lvm_jax.annealing import tuning

NARROW = 1e-3
Q = distributions.normal(jnp.zeros(3), jnp.ones(3))


def sharp(z):
    """z ~ N(0, I_3), of which one coordinate is observed with deviation 1e-3."""
    return Q.log_prob(z) - 0.5 * ((z[0] - 0.7) / NARROW) ** 2


@pytest.mark.parametrize("adaptive", [False, True])
def test_four_chains_find_the_steps_of_a_narrow_posterior(adaptive):
    plan = annealing.plan(annealing.sigmoid(150), annealing.hmc(3), adaptive=adaptive)

    @quick_jit
    @jax.vmap
    def run(key):
        found = evidence.annealed(key, sharp, Q, 5, plan, num_scouts=0)
        return found.acceptance, found.schedule

    acceptance, schedule = run(jax.random.split(jax.random.key(0), 31))
    early, late = acceptance[:, 8:31].mean(), acceptance[:, 120:].mean()
    assert 0.5 < early < 0.9
    assert 0.5 < late < 0.8
    # The largest stable step of leapfrog is 2 deviations; the steps are in units of q's, about 1.
    deviation = (1 + schedule.temperatures[:, 1:] / NARROW**2) ** -0.5
    ratio = np.asarray(schedule.step_sizes / deviation)
    assert (np.abs(np.log(ratio[:, 8:] / 1.3)) < 0.9).mean() > 0.95


def test_step_sizes_without_a_target_do_not_change():
    move = annealing.hmc(3)._replace(target=None, step_size=0.3)
    tuned = quick_jit(lambda key: annealing.tune(
        key, sharp, Q, annealing.linear(7), move, 3, adaptive=True
    ))(jax.random.key(0))  # fmt: skip
    np.testing.assert_allclose(tuned.schedule.step_sizes, np.full(7, 0.3), rtol=1e-6)
    assert (np.diff(tuned.schedule.temperatures) > 0).all()


def reference(y, x, weight):
    """Weighted least squares with a ridge of the slope in NumPy, one at a time."""
    index, found = np.arange(len(y)), []
    for i in index:
        kernel = np.exp(-0.5 * ((index - i) / 4) ** 2)
        ridge = 0.05 * np.average((x - np.average(x, weights=kernel)) ** 2, weights=kernel)
        kernel = weight * kernel
        mean_x, mean_y = np.average(x, weights=kernel), np.average(y, weights=kernel)
        square = np.average((x - mean_x) ** 2, weights=kernel)
        slope = np.average((x - mean_x) * (y - mean_y), weights=kernel) / (square + ridge)
        found.append(mean_y + slope * (x[i] - mean_x))
    return found


def test_smoothing_is_weighted_local_regression():
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.normal(size=23)), rng.normal(size=23)
    weight = rng.uniform(size=23) * (np.arange(23) % 5 > 0)  # some have the weight 0
    with jax.enable_x64():
        found = quick_jit(tuning._smooth)(*map(jnp.asarray, (y, x, weight, x == x)))
    np.testing.assert_allclose(found, reference(y, x, weight), rtol=1e-10)


def test_smoothing_of_few_or_no_points_is_finite():
    smooth, line, ran = quick_jit(tuning._smooth), jnp.arange(51.0), jnp.ones(51, bool)
    only = jnp.zeros(51).at[2].set(1e-4)  # 12 widths of the kernel from the last
    np.testing.assert_allclose(smooth(line, line, only, ran), np.full(51, 2.0), rtol=1e-5)
    np.testing.assert_array_equal(smooth(line, line, 0 * only, ran), np.zeros(51))
    np.testing.assert_allclose(smooth(line, 0 * line, only + 1, ran)[25], 25.0, rtol=1e-5)


def test_equal_weights_leave_the_temperatures():
    """Where q is the posterior all log-weights are equal, and no place needs more temperatures."""
    tuned = quick_jit(lambda key: annealing.tune(
        key, lambda z: Q.log_prob(z) * 1.0 - 2.0, Q, annealing.sigmoid(9),
        annealing.random_walk(1), 3, adaptive=True,
    ))(jax.random.key(0))  # fmt: skip
    assert np.isfinite(tuned.schedule.temperatures).all()
    assert (np.diff(tuned.schedule.temperatures) > 0).all()
