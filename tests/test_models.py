import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from lvm_jax import em
from lvm_jax.distributions import FullRankNormal
from lvm_jax.models import gaussian_mixture, log_joint

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [3.0, -2.0], [-4.0, 0.5]])
COVARIANCES = np.array([[[1.0, 0.6], [0.6, 2.0]], [[0.5, -0.2], [-0.2, 0.3]], [[2.0, 0], [0, 0.1]]])
X = np.array([[0.3, 0.7], [2.5, -1.5], [-3.0, 0.4], [10.0, 10.0]])


@pytest.mark.parametrize("x64", [False, True])
def test_mixture_as_a_model_is_exact(x64):
    with jax.enable_x64(x64):
        dtype, rtol = (np.float64, 1e-12) if x64 else (np.float32, 2e-5)
        mixture = em.gaussian_mixture(*(a.astype(dtype) for a in (WEIGHTS, MEANS, COVARIANCES)))
        model, theta = gaussian_mixture(3, 2), mixture.as_theta()
        x = jnp.asarray(X, dtype)
        density = np.array(
            [multivariate_normal(m, s).pdf(X) for m, s in zip(MEANS, COVARIANCES, strict=True)]
        ).T
        joint = density * WEIGHTS
        evidence = jax.jit(jax.vmap(model.log_evidence, (None, 0)))(theta, x)
        np.testing.assert_allclose(evidence, np.log(joint.sum(1)), rtol=rtol)
        np.testing.assert_allclose(mixture.log_prob(x), evidence, rtol=rtol)
        probs = jax.vmap(lambda row: model.posterior(theta, row).probs)(x)
        np.testing.assert_allclose(
            probs, joint / joint.sum(1, keepdims=True), rtol=20 * rtol, atol=np.finfo(dtype).tiny
        )
        one = log_joint(model, theta, x[1])(jnp.int32(1))
        np.testing.assert_allclose(one, np.log(joint[1, 1]), rtol=rtol)


def test_full_rank_normal_has_live_parameters():
    # distrax's own multivariate normal keeps the old parameters under transformations.
    def at(mean):
        return jax.lax.stop_gradient(FullRankNormal(mean, jnp.eye(2))), FullRankNormal(
            mean, jnp.eye(2)
        )

    x, mean = jnp.array([1.0, 2.0]), jnp.array([0.5, -0.5])
    frozen = jax.grad(lambda m: at(m)[0].log_prob(x))(mean)
    live = jax.grad(lambda m: at(m)[1].log_prob(x))(mean)
    np.testing.assert_array_equal(frozen, np.zeros(2))
    np.testing.assert_allclose(live, x - mean, rtol=1e-6)


def test_samples_have_the_covariance():
    normal = FullRankNormal(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [0.8, 0.5]]))
    draws = normal.sample(seed=jax.random.key(0), sample_shape=(40_000,))
    covariance = np.asarray(normal.cholesky @ normal.cholesky.T)
    # The standard error of an empirical covariance is at most sqrt(2) sigma_i sigma_j / sqrt(n).
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=5 * np.sqrt(2 / 40_000))
