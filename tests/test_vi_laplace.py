"""The method "laplace" on a density whose mode and curvature are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import problems, vi
from lvm_jax.vi.density import check_density
from lvm_jax.vi.start import NUM_DRAWS, ascend_path

SHAPE, RATE = 3.0, 0.5  # of the gamma distribution of exp(a)
CURVATURE = np.array([[SHAPE + 4, -4], [-4, 4]])  # at the mode, a = b = log(SHAPE / RATE)


def log_gamma(z):
    """exp(a) is gamma, b | a ~ N(a, 1/4)."""
    return SHAPE * z["a"] - RATE * jnp.exp(z["a"]) - 2 * (z["b"] - z["a"]) ** 2


def run(family, log_density=log_gamma, start=None, max_evaluations=1_000):
    density, _ = check_density(log_density, {"a": -1.0, "b": 4.0} if start is None else start)
    task = vi.Task(density, family, 0.01, max_evaluations)
    return density, vi.laplace().run(jax.random.key(0), task)


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_it_is_the_normal_of_the_curvature_at_the_mode(family):
    density, found = run(family)
    assert found.reason is vi.Reason.CONVERGED
    z = density.around(found.flat).sample(seed=jax.random.key(1), sample_shape=(20_000,))
    draws = np.stack([z["a"], z["b"]])
    np.testing.assert_allclose(draws.mean(1), np.log(SHAPE / RATE), atol=0.03)
    expected = np.linalg.inv(CURVATURE if family == "full_rank" else np.diag(np.diag(CURVATURE)))
    np.testing.assert_allclose(np.cov(draws), expected, atol=0.02)
    log_q = density.around(found.flat).log_prob({"a": jnp.log(6.0), "b": jnp.log(6.0)})
    assert log_q == pytest.approx(-0.5 * np.linalg.slogdet(2 * np.pi * expected)[1], abs=1e-3)


def test_a_hessian_counts_as_three_evaluations_in_two_dimensions():
    """L-BFGS ends near the mode, where Newton's method takes one to three steps."""
    density, found = run("full_rank")
    path = ascend_path(density, np.zeros(2), 500)
    newton = found.evaluations - path.evaluations - NUM_DRAWS
    assert newton in (3, 6, 9)


def test_a_density_without_a_maximum_ends_with_a_finite_normal():
    """Eight schools is unbounded where tau decreases to 0 and theta = mu."""
    target = problems.eight_schools()
    _, found = run("full_rank", target.log_density, jnp.zeros(10), 5_000)
    assert found.reason is vi.Reason.NO_PROGRESS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.flat))
    assert found.evaluations <= 5_000


def test_a_small_budget_is_a_reason():
    _, found = run("full_rank", max_evaluations=4)
    assert found.reason is vi.Reason.BUDGET
