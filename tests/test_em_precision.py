"""float32 on tight clusters far from the origin, against float64 on the same rounded data."""

import jax
import numpy as np
import pytest
from em_reference import compact, numbers

from lvm_jax import em

N, D, K, SD = 301, 3, 3, 1e-3  # SD: of a cluster, as a share of the spread of the centres


def tight_clusters(offset):
    """Clusters `offset` of their standard deviations from the origin, rounded to float32."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, D))
    noise = SD * rng.normal(size=(N, D))
    return (offset * SD + centres[np.arange(N) % K] + noise).astype(np.float32)


def fit(x, covariance_type):
    sigma = compact(np.tile(0.01 * np.eye(D), (K, 1, 1)), covariance_type)
    initial = em.gaussian_mixture(np.full(K, 1 / K), x[:K], sigma, covariance_type)
    return em.fit(
        jax.random.key(0), x, K, covariance_type, initial=initial, max_steps=10,
        tolerance=0.0, regularization=0.0, throw=False,
    )  # fmt: skip


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_float32_keeps_the_digits_of_tight_clusters_far_away(covariance_type):
    for offset in (1e4, 1e6):  # at 1e6 a unit in the last place of x is 0.06 cluster deviations
        x = tight_clusters(offset)
        single = fit(x, covariance_type)
        with jax.enable_x64(True):
            double = fit(x.astype(np.float64), covariance_type)
            pi, mu, sigma = numbers(double.mixture)
        assert single.mixture.components.deviations.dtype == np.float32
        assert single.info.exact_steps == 10
        got_pi, _, got_sigma = numbers(single.mixture)
        # Means relative to the origin have the digits: 1e-3 sd is 4 units in the last place of
        # the spread of 2000 sd. Measured 2e-4; covariances 1.3e-6, likelihood 1.7e-6 nats.
        got_mu = np.asarray(single.mixture.components.deviations, np.float64)
        got_mu = got_mu + np.asarray(single.mixture.origin, np.float64)
        deviation = np.sqrt(sigma.max())
        np.testing.assert_allclose(got_mu, mu, rtol=0, atol=1e-3 * deviation)
        np.testing.assert_allclose(got_sigma, sigma, rtol=0, atol=5e-6 * sigma.max())
        np.testing.assert_allclose(got_pi, pi, rtol=1e-6)
        np.testing.assert_allclose(
            single.info.log_likelihood, double.info.log_likelihood, rtol=0, atol=1e-5
        )
        variances = np.diagonal(got_sigma, axis1=1, axis2=2)
        assert (variances > 0).all()
        # The truth: SD^2, and the rounding of x to multiples of u, which adds u^2 / 12.
        unit = np.spacing(x.max())
        truth = SD**2 + unit**2 / 12
        np.testing.assert_allclose(variances, truth, rtol=5 * np.sqrt(2 / 100))


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_density_keeps_the_digits_of_tight_clusters_far_away(covariance_type):
    x = tight_clusters(1e4)
    mixture = fit(x, covariance_type).mixture
    pi = np.asarray(mixture.log_weights, np.float64)
    mu = np.asarray(mixture.components.deviations, np.float64)
    centred = (x - np.asarray(mixture.origin)).astype(np.float64)
    sigma = np.asarray(mixture.covariances, np.float64)
    joint = []
    for k in range(K):
        delta = centred - mu[k]
        quadratic = (delta * np.linalg.solve(sigma[k], delta.T).T).sum(1)
        log_det = np.linalg.slogdet(2 * np.pi * sigma[k])[1]
        joint.append(pi[k] - 0.5 * (quadratic + log_det))
    expected = np.logaddexp.reduce(joint)
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=0, atol=1e-3)
