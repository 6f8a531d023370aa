"""Laplace's approximation against normals that it must equal, and curvature that it must refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy import stats
from sklearn.datasets import load_breast_cancer

from lvm_jax import distributions, evidence, guides, models


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_of_a_normal_posterior_it_is_the_posterior(dtype):
    # A linear-Gaussian model: every log-weight is log p(x), from any start.
    with jax.enable_x64(dtype == jnp.float64):
        model = models.linear_gaussian(2, 3)
        theta = model.init(jax.random.key(0))._replace(log_noise=jnp.log(jnp.asarray(0.5, dtype)))
        theta = jax.tree.map(lambda leaf: leaf.astype(dtype), theta)
        x = jnp.array([0.5, -1.0, 2.0], dtype)
        joint = model(theta).log_joint(x)
        q = quick_jit(lambda z: guides.laplace(joint, z))(jnp.array([3.0, -3.0], dtype))
        exact = model.posterior(theta, x)
        tight = 1e-5 if dtype == jnp.float32 else 1e-12
        assert q.found
        assert q.num_evaluations == 2 * 3  # the start and the mode: a gradient and D = 2 more each
        np.testing.assert_allclose(q.mode, exact.mean, atol=tight)
        precision = np.linalg.inv(exact.cholesky @ exact.cholesky.T)
        np.testing.assert_allclose(q.factor @ q.factor.T, precision, rtol=1e-4)
        found = quick_jit(lambda key: evidence.importance(key, joint, q, 500))(jax.random.key(1))
        np.testing.assert_allclose(found.log_evidence, model.log_evidence(theta, x), atol=tight)


def off(found, mean, precision):
    """Distances of modes from the means, in standard deviations of the posterior."""
    away = np.asarray(found, np.float64) - mean
    return np.sqrt(((away @ precision) * away).sum(-1))


@quick_jit
@partial(jax.vmap, in_axes=(0, None))
def of_loadings(x, w):
    q = guides.laplace(lambda z: -0.5 * (((x - w @ z) ** 2).sum() + z @ z), jnp.zeros_like(x))
    return q, q.found


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("size", [30.0, 3e3])
def test_of_nearly_collinear_loadings_every_mode_is_found(dtype, size):
    # Curvatures of 2 size^2 along one direction and 1.5 along the other.
    loadings, rng = np.array([[size, size], [0, 1]]), np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ loadings.T + rng.normal(size=(200, 2))
    with jax.enable_x64(dtype == jnp.float64):
        x, w = jnp.asarray(x, dtype), jnp.asarray(loadings, dtype)

        q, found = of_loadings(x, w)
    precision = loadings.T @ loadings + np.eye(2)
    mean = np.linalg.solve(precision, loadings.T @ np.asarray(x, np.float64).T).T
    assert found.all()
    assert off(q.mode, mean, precision).max() < (2e-3 if dtype == jnp.float32 else 1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_of_columns_of_very_different_units_the_mode_is_found(dtype):
    # Logistic regression on the breast-cancer data, centred but not scaled: deviations of the
    # columns are 2.6e-3 to 570, and those of the coefficients at the mode 1.3e-3 to 1.
    data = load_breast_cancer()
    x, y = data.data - data.data.mean(0), 2.0 * data.target - 1
    mode = np.zeros(x.shape[1])
    for _ in range(20):  # Newton's method in float64; each step's decrement is below the last's
        share = 1 / (1 + np.exp(y * (x @ mode)))
        precision = (x.T * (share * (1 - share))) @ x + np.eye(x.shape[1])
        mode = mode + np.linalg.solve(precision, x.T @ (y * share) - mode)
    with jax.enable_x64(dtype == jnp.float64):
        rows, signs = jnp.asarray(x, dtype), jnp.asarray(y, dtype)

        def joint(w):
            return jax.nn.log_sigmoid(signs * (rows @ w)).sum() - 0.5 * w @ w

        start = jnp.zeros(x.shape[1], dtype)
        q = quick_jit(lambda w: guides.laplace(joint, w))(start)
        assert q.found
        assert joint(q.mode) > joint(start) + 300
    tight = 1e-3 if dtype == jnp.float32 else 1e-8
    assert off(q.mode, mode, precision) < tight
    inverse = np.linalg.inv(np.linalg.cholesky(precision))
    factor = inverse @ np.asarray(q.factor, np.float64)
    np.testing.assert_allclose(factor @ factor.T, np.eye(len(mode)), atol=3 * tight)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_climb_among_hills_ends_higher_and_on_a_top(dtype):
    def joint(z):  # many modes and saddles, and a valley that bends
        hills = jnp.sin(3 * z).sum() + jnp.sin(z[0] * z[1]) - 0.05 * z @ z
        return hills - 20 * (z[1] - 0.1 * z[0] ** 2) ** 2

    with jax.enable_x64(dtype == jnp.float64):
        starts = jnp.asarray(3 * np.random.default_rng(1).normal(size=(67, 2)), dtype)

        def one(z):
            q = guides.laplace(joint, z)
            return q.found, joint(q.mode) - joint(z), q.mode

        found, gain, modes = quick_jit(jax.vmap(one))(starts)
    assert found.all()
    assert (np.asarray(gain) > 0).all()
    with jax.enable_x64(True):
        modes = jnp.asarray(np.asarray(modes, np.float64))
        slope = np.asarray(quick_jit(jax.vmap(jax.grad(joint)))(modes))
        curvature = -np.asarray(quick_jit(jax.vmap(jax.hessian(joint)))(modes))
    steps = np.linalg.solve(curvature, slope[..., None])[..., 0]
    assert (np.linalg.eigvalsh(curvature) > 0).all()
    assert np.sqrt((steps * slope).sum(1)).max() < (1e-3 if dtype == jnp.float32 else 1e-7)


def test_density_and_draws_of_a_z_of_two_parts():
    # log p(x, z) = -a^2 / 2 - b^2 / 0.5 - a b / 2 + constant, its curvature [[1, 0.5], [0.5, 4]].
    def joint(z):
        a, b = z["a"][0] - 1, z["b"] - 2
        return -(a**2) / 2 - 2 * b**2 - a * b / 2

    start = {"a": jnp.zeros(1), "b": jnp.zeros(())}
    q = quick_jit(lambda z: guides.laplace(joint, z, widen=1.5))(start)
    covariance = 2.25 * np.linalg.inv([[1, 0.5], [0.5, 4]])
    truth = stats.multivariate_normal([1, 2], covariance)
    z = {"a": jnp.array([0.3]), "b": jnp.array(2.5)}
    np.testing.assert_allclose(q.log_prob(z), truth.logpdf([0.3, 2.5]), rtol=1e-4)
    draws = quick_jit(lambda key: q.sample(seed=key, sample_shape=(50, 80)))(jax.random.key(2))
    assert draws["a"].shape == (50, 80, 1)
    assert draws["b"].shape == (50, 80)
    flat = np.stack([np.ravel(draws["a"]), np.ravel(draws["b"])])
    error = np.sqrt((covariance**2 + np.outer(*[np.diag(covariance)] * 2)) / flat.shape[1])
    assert (np.abs(np.cov(flat) - covariance) < 5 * error).all()
    assert (np.abs(flat.mean(1) - [1, 2]) < 5 * np.sqrt(np.diag(covariance) / 4_000)).all()
    one = q.sample(seed=jax.random.key(3))
    assert jax.tree.map(jnp.shape, one) == {"a": (1,), "b": ()}


@pytest.mark.parametrize(
    "joint",
    [
        lambda z: 0.0 * z.sum(),
        lambda z: z.sum(),
        lambda z: (z**2).sum(),
        lambda z: z[0] * jnp.nan,
        lambda z: z[0] ** 2 - z[1] ** 2,
        lambda z: -jnp.abs(z - 3).sum() - 0.005 * z @ z,
    ],
    ids=["flat", "rising", "a minimum", "NaN", "a saddle", "a kink"],
)
@pytest.mark.parametrize("dim", [1, 2])
def test_without_a_maximum_nothing_is_found(joint, dim):
    # At the kink the curvature is positive and the slope 1: the quadratic's maximum is elsewhere.
    q = quick_jit(lambda z: guides.laplace(lambda z: joint(jnp.append(z, 0.0)), z))(jnp.zeros(dim))
    assert not q.found


def test_refusals():
    normal = distributions.normal(jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match="widen: expected a number > 0"):
        guides.laplace(normal.log_prob, jnp.zeros(2), widen=0.0)
    with pytest.raises(TypeError, match="start: expected a z of floats"):
        guides.laplace(normal.log_prob, jnp.zeros(2, int))
