"""Laplace's approximation against normals that it must equal, and curvature that it must refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy import stats

from lvm_jax import distributions, evidence, guides, models


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_of_a_normal_posterior_it_is_the_posterior(dtype):
    # A linear-Gaussian model: every log-weight is log p(x), from any start.
    with jax.enable_x64(dtype == jnp.float64):
        model = models.linear_gaussian(2, 3)
        theta = model.init(jax.random.key(0))._replace(log_noise=jnp.log(jnp.asarray(0.5, dtype)))
        theta = jax.tree.map(lambda leaf: leaf.astype(dtype), theta)
        x = jnp.array([0.5, -1.0, 2.0], dtype)
        joint = models.log_joint(model, theta, x)
        q = quick_jit(lambda z: guides.laplace(joint, z))(jnp.array([3.0, -3.0], dtype))
        exact = model.posterior(theta, x)
        tight = 1e-3 if dtype == jnp.float32 else 1e-5  # of a gradient below 1e-5
        assert q.found
        assert q.num_evaluations > 2
        np.testing.assert_allclose(q.mode, exact.mean, atol=tight)
        precision = np.linalg.inv(exact.cholesky @ exact.cholesky.T)
        np.testing.assert_allclose(q.factor @ q.factor.T, precision, rtol=1e-4)
        found = quick_jit(lambda key: evidence.importance(key, joint, q, 500))(jax.random.key(1))
        np.testing.assert_allclose(found.log_evidence, model.log_evidence(theta, x), atol=tight)


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
    [lambda z: 0.0 * z.sum(), lambda z: z.sum(), lambda z: (z**2).sum(), lambda z: z[0] * jnp.nan],
    ids=["flat", "rising", "a minimum", "NaN"],
)
def test_without_a_maximum_nothing_is_found(joint):
    q = quick_jit(lambda z: guides.laplace(joint, z))(jnp.zeros(2))
    assert not q.found


def test_refusals():
    normal = distributions.normal(jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match="widen: expected a number > 0"):
        guides.laplace(normal.log_prob, jnp.zeros(2), widen=0.0)
    with pytest.raises(TypeError, match="start: expected a z of floats"):
        guides.laplace(normal.log_prob, jnp.zeros(2, int))
