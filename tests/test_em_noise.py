"""The noise component against plain NumPy."""

import jax
import numpy as np
import pytest
from em_reference import blobs, compact, log_joint, m_step, numbers
from scipy.special import logsumexp

from lvm_jax import em
from lvm_jax.em.noise import WithNoise

N, D, K = 101, 3, 3
KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
X = np.concatenate([blobs(N - 12, D, K), RNG.uniform(-9, 9, (12, D))])
WEIGHT = RNG.integers(1, 4, N).astype(float)
OPTIONS = {"regularization": 0.0, "tolerance": 0.0, "throw": False}
LOG_VOLUME = np.log(np.ptp(X, axis=0)).sum()


def start(covariance_type, dtype=np.float64, **options):
    sigma = compact(np.tile(2 * np.eye(D), (K, 1, 1)), covariance_type)
    means = X[[3, 50, 80]].astype(dtype)
    clusters = em.gaussian_mixture([0.5, 0.3, 0.2], means, sigma, covariance_type)
    return em.with_noise(clusters, X.astype(dtype), 0.1, **options), numbers(clusters)


def joint(pi, mu, sigma, log_volume=LOG_VOLUME):
    clusters = log_joint(X, pi[:K], mu, sigma)
    return np.c_[clusters, np.full(N, np.log(pi[K]) - log_volume)]


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_density_and_steps_are_those_of_the_definition(x64, covariance_type):
    mixture, (pi, mu, sigma) = start(covariance_type)
    pi = np.r_[0.9 * pi, 0.1]
    expected = logsumexp(joint(pi, mu, sigma), axis=1)
    np.testing.assert_allclose(mixture.log_prob(X), expected, rtol=1e-12)
    options = OPTIONS | {"start": mixture, "sample_weight": WEIGHT}
    fit = em.fit(KEY, X, K + 1, mixture.family, max_steps=3, **options)
    trace = []
    for _ in range(3):
        logits = joint(pi, mu, sigma)
        log_p = logsumexp(logits, axis=1)
        trace.append(WEIGHT @ log_p / WEIGHT.sum())
        resp = np.exp(logits - log_p[:, None]) * WEIGHT[:, None]
        _, mu, sigma = m_step(X, resp[:, :K], covariance_type)
        pi = resp.sum(0) / resp.sum()
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.weights, pi, rtol=1e-10)
    np.testing.assert_allclose(fit.mixture.means[:K], mu, rtol=1e-10)
    family, components = fit.mixture.family, fit.mixture.components
    assert family == WithNoise(em.GAUSSIANS[covariance_type])
    found = family.family.covariances(components.inner)[:K]
    np.testing.assert_allclose(found, sigma, rtol=1e-10)
    labels = joint(pi, mu, sigma).argmax(1)
    np.testing.assert_array_equal(fit.mixture.assign(X), labels)
    assert (labels == K).sum() >= 6
    free = {"full": K * (D + 6), "tied": K * D + 6}[covariance_type]
    assert fit.mixture.num_parameters == free + K
    if covariance_type == "tied":
        return
    fast = em.fit(KEY, X, K + 1, family, max_steps=40, acceleration="squarem", **options)
    assert np.diff(fast.info.trace).min() >= -1e-12


def test_data_that_stream_have_the_same_fit(x64):
    mixture, _ = start("full")
    options = OPTIONS | {"start": mixture, "max_steps": 5, "sample_weight": WEIGHT}
    fit = em.fit(KEY, X, K + 1, mixture.family, **options)
    streamed = em.fit(KEY, lambda: iter(np.array_split(X, 3)), K + 1, mixture.family, **options)
    np.testing.assert_allclose(streamed.info.trace, fit.info.trace, rtol=1e-11)


def test_restarts_keep_their_axis(x64):
    pair = [
        em.gaussian_mixture([0.6, 0.4], X[rows], np.tile(np.eye(D), (2, 1, 1)), origin=np.zeros(D))
        for rows in ([3, 50], [50, 80])
    ]
    weights, components = jax.tree.map(
        lambda *leaves: np.stack(leaves), *[p.parameters for p in pair]
    )
    both = em.with_noise(em.Mixture(weights, components, pair[0].origin, pair[0].family), X)
    alone = em.with_noise(pair[1], X)
    for a, b in zip(
        jax.tree.leaves(both.parameters), jax.tree.leaves(alone.parameters), strict=True
    ):
        np.testing.assert_array_equal(a[1], b)


def test_samples_of_the_noise_are_uniform_on_the_box():
    x = X.astype(np.float32)
    mixture = em.with_noise(em.gaussian_mixture([1.0], x[:1], np.eye(D)[None]), x, 0.5)
    draws, z = map(np.asarray, mixture.sample(KEY, 4_096))
    noise, low, high = draws[z == 1], x.min(0), x.max(0)
    assert ((noise > low - 1e-3) & (noise < high + 1e-3)).all()
    error = (high - low) / np.sqrt(12 * len(noise))
    assert (np.abs(noise.mean(0) - (low + high) / 2) < 5 * error).all()
    np.testing.assert_allclose(draws[z == 0].mean(0), x[0], atol=5 / np.sqrt(len(draws) / 3))


def test_a_given_volume(x64):
    mixture, (pi, mu, sigma) = start("full", volume=50.0)
    expected = logsumexp(joint(np.r_[0.9 * pi, 0.1], mu, sigma, np.log(50)), axis=1)
    np.testing.assert_allclose(mixture.log_prob(X), expected, rtol=1e-12)


def test_bad_arguments():
    mixture, _ = start("full", np.float32)
    clusters = em.gaussian_mixture([1.0], np.zeros((1, D)), np.eye(D)[None])
    bits = em.Mixture(clusters.log_weights, clusters.means + 0.5, clusters.origin, em.Bernoulli())
    with pytest.raises(TypeError, match="mixture: expected continuous .* noise, got Bernoulli"):
        em.with_noise(bits, X)
    with pytest.raises(TypeError, match="mixture: expected continuous .* noise, got WithNoise"):
        em.with_noise(mixture, X)
    with pytest.raises(ValueError, match="x: expected 3 columns, got 2"):
        em.with_noise(clusters, X[:, :2])
    with pytest.raises(
        ValueError, match=r"x: expected columns that vary, got constant columns \[0"
    ):
        em.with_noise(clusters, np.ones((5, D)))
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1, got 1"):
        em.with_noise(clusters, X, 1.0)
    with pytest.raises(ValueError, match="volume: expected a positive number, got 0"):
        em.with_noise(clusters, X, volume=0.0)
    with pytest.raises(TypeError, match="start: expected an em.Mixture of em.with_noise"):
        em.fit(KEY, X, K + 1, mixture.family)
