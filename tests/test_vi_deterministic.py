"""The ELBO of fixed draws against closed forms, and linear response on a Gaussian density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from lvm_jax import vi
from lvm_jax.distributions import FullRankNormal
from lvm_jax.vi import fixed_draws, natural
from lvm_jax.vi.density import check_density
from lvm_jax.vi.natural import Gaussian

RNG = np.random.default_rng(0)
DIM = 3
PRECISION = np.array([[2.0, 1.2, 0.0], [1.2, 1.5, -0.4], [0.0, -0.4, 1.0]])
MEAN = np.array([1.0, -2.0, 0.5])
LOG_Z = 0.5 * (DIM * np.log(2 * np.pi) - np.linalg.slogdet(PRECISION)[1])
GAP = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])  # mean-field


def gaussian(z):
    away = z - jnp.asarray(MEAN, z.dtype)
    return -0.5 * away @ (jnp.asarray(PRECISION, z.dtype) @ away)


def run(log_density, dim, family, tolerance=0.01, max_evaluations=50_000):
    density = check_density(log_density, jnp.zeros(dim))[0]
    task = vi.Task(density, family, tolerance, max_evaluations)
    return vi.deterministic().run(jax.random.key(0), task)


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_any_draws_give_the_exact_elbo_of_a_gaussian(family):
    """Two pairs, at an x that is not the maximum: the closed form of N(m, S) in three dimensions."""
    diagonal = family == "mean_field"
    root = np.linalg.cholesky(PRECISION)
    chart = Gaussian(jnp.asarray([0.5, 0.0, 1.0]), jnp.asarray(root, jnp.float32))
    size = fixed_draws.num_parameters(DIM, diagonal)
    x = jnp.asarray(RNG.normal(size=size) / 2, jnp.float32)
    noise = jnp.asarray(RNG.normal(size=(2, DIM)), jnp.float32)
    density = check_density(gaussian, jnp.zeros(DIM))[0]
    value, _ = fixed_draws.value_and_gradient(x, noise, density, chart, diagonal)
    normal = fixed_draws.normal_of(x, chart, diagonal)
    curvature = np.asarray(natural.average_of(normal).precision)
    covariance = np.linalg.inv(np.diag(np.diag(curvature)) if diagonal else curvature)
    away = np.asarray(normal.mean) - MEAN
    expected = -0.5 * (away @ PRECISION @ away + np.trace(PRECISION @ covariance))
    expected += 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert value == pytest.approx(expected, abs=1e-3)


def test_the_hessian_at_the_maximum_is_minus_the_identity():
    chart = Gaussian(jnp.asarray(MEAN, jnp.float32), jnp.linalg.cholesky(jnp.asarray(PRECISION)))
    chart = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), chart)
    density = check_density(gaussian, jnp.zeros(DIM))[0]
    noise = jnp.asarray(RNG.normal(size=(2, DIM)), jnp.float32)
    for diagonal in (False, True):
        x = jnp.asarray(fixed_draws.origin(chart, diagonal))
        given = x, jnp.ones_like(x), noise, density, chart, diagonal
        np.testing.assert_allclose(fixed_draws.hessian_times(*given), -1, atol=2e-3)


@pytest.mark.parametrize(("family", "elbo"), [("full_rank", LOG_Z), ("mean_field", LOG_Z - GAP)])
def test_a_gaussian_takes_one_round(family, elbo):
    found = run(gaussian, DIM, family)
    assert found.reason is vi.Reason.CONVERGED
    assert len(found.trace.elbo) == 1
    assert found.trace.elbo[0] == pytest.approx(elbo, abs=1e-3)
    mean = found.flat.mean if family == "full_rank" else found.flat.distribution.loc
    np.testing.assert_allclose(mean, MEAN, atol=5e-3)


def log_gamma(z):
    """exp(z) is gamma(1.5): E_q of N(m, s^2) is 1.5 m - exp(m + s^2 / 2), in closed form."""
    return 1.5 * z[0] - jnp.exp(z[0])


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_the_number_of_draws_grows_until_the_error_is_below_the_tolerance(family):
    def loss(eta):
        return -(1.5 * eta[0] - np.exp(eta[0] + np.exp(2 * eta[1]) / 2) + eta[1])

    best = 0.5 * np.log(2 * np.pi * np.e) - minimize(loss, np.zeros(2)).fun
    found = run(log_gamma, 1, family, tolerance=4e-3)
    assert found.reason is vi.Reason.CONVERGED
    assert len(found.trace.elbo) > 1
    if family == "full_rank":
        mean, scale = found.flat.mean[0], found.flat.cholesky[0, 0]
    else:
        mean, scale = found.flat.distribution.loc[0], found.flat.distribution.scale[0]
    elbo = 1.5 * mean - np.exp(mean + scale**2 / 2) + np.log(scale) + 0.5 * np.log(2 * np.pi * np.e)
    assert best - 4e-3 < elbo <= best + 1e-4


def test_too_small_a_budget_is_a_reason():
    found = run(log_gamma, 1, "mean_field", tolerance=1e-6, max_evaluations=2_000)
    assert found.reason is vi.Reason.BUDGET
    assert found.evaluations <= 2_000


def test_linear_response_is_the_covariance_of_a_gaussian():
    """Of a pytree, in the order of its leaves; mean-field variances are 1 / diag(precision)."""

    def log_density(z):
        return gaussian(jnp.concatenate([z["b"], z["a"][None]]))

    density = check_density(log_density, {"a": 0.0, "b": jnp.zeros(2)})[0]
    task = vi.Task(density, "mean_field", 1e-3, 10_000)
    q = density.around(vi.deterministic().run(jax.random.key(0), task).flat)
    order = [2, 0, 1]
    found = vi.linear_response(jax.random.key(1), log_density, q, 1_000)
    expected = np.linalg.inv(PRECISION)[np.ix_(order, order)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(q.flat.distribution.scale**-2, np.diag(PRECISION)[order], rtol=0.01)


def test_linear_response_refuses_another_family():
    q = check_density(gaussian, jnp.zeros(3))[0].around(FullRankNormal(jnp.zeros(3), jnp.eye(3)))
    with pytest.raises(
        TypeError, match="q: expected the q of a fit with family='mean_field' and without"
    ):
        vi.linear_response(jax.random.key(1), gaussian, q)
