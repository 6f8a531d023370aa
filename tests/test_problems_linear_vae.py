"""Closed forms of PPCA and the linear VAE, against NumPy and the library's own posterior."""

import numpy as np
import pytest

from lvm_jax import distributions, guides, models, problems
from lvm_jax.problems import linear_vae

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 5)) * [3.0, 2.0, 1.5, 0.5, 0.3] + 1.0
FOUND = linear_vae.spectrum(X)
TURN, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
NOISE = 0.3


def rotated():
    """The optimum at s2 = NOISE with three units, rotated."""
    theta = FOUND.stationary(3, NOISE)
    return theta._replace(loadings=theta.loadings @ TURN)


def test_wide_data_have_the_spectrum_of_their_rows():
    x = RNG.normal(size=(5, 9))
    found, covariance = linear_vae.spectrum(x), np.cov(x.T, bias=True)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(covariance)[::-1], atol=1e-12)
    assert found.vectors.shape == (9, 4)
    again = found.vectors @ np.diag(found.values[:4]) @ found.vectors.T
    np.testing.assert_allclose(again, covariance, atol=1e-12)


def test_moment_points_have_the_mean_and_the_covariance():
    points = FOUND.moment_points()
    assert points.shape == (10, 5)
    np.testing.assert_allclose(points.mean(0), X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.cov(points.T, bias=True), np.cov(X.T, bias=True), atol=1e-12)


def test_the_optimum_is_that_of_ppca_where_s2_is_learned(x64):
    best = models.ppca(X, 3)
    found = FOUND.stationary(3, linear_vae.noise_variance(best))
    for one, other in zip(found, best, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert FOUND.above(NOISE) == (np.linalg.eigvalsh(np.cov(X.T, bias=True)) > NOISE).sum()
    fewer = FOUND.stationary(3, NOISE, 1).loadings
    np.testing.assert_array_equal(fewer[:, 1:], 0)
    np.testing.assert_array_equal(fewer[:, 0], FOUND.stationary(3, NOISE).loadings[:, 0])


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_the_best_guide_is_the_posterior_or_its_best_mean_field(family, x64):
    theta = rotated()
    guide = guides.linear(getattr(guides, family)(3), 5, ("loc",))
    q = guide.posterior(linear_vae.best_guide(theta, family), X[0])
    exact = models.linear_gaussian(3, 5).posterior(theta, X[0])
    want = problems.mean_field(exact) if family == "mean_field" else exact
    for one, other in zip(*map(distributions.gaussian_parts, (q, want)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_the_gap_is_the_divergence_of_the_best_mean_field_normal():
    theta = rotated()
    covariance = np.linalg.inv(linear_vae.posterior_precision(theta))
    correlations = covariance / np.sqrt(np.outer(*[np.diagonal(covariance)] * 2))
    inverse = np.linalg.inv(correlations)  # KL(q || p) of the conditional variances: Gaussians
    law = 0.5 * (np.log(np.diagonal(inverse)).sum() + np.linalg.slogdet(correlations)[1])
    assert linear_vae.mean_field_gap(theta) == pytest.approx(law, rel=1e-9) != 0
    assert linear_vae.mean_field_gap(FOUND.stationary(3, NOISE)) == pytest.approx(0, abs=1e-12)


def test_two_rotated_units_lose_the_rotation_gap():
    theta = FOUND.stationary(2, NOISE)
    cos, sin = np.cos(np.deg2rad(30)), np.sin(np.deg2rad(30))
    turned = theta._replace(loadings=theta.loadings @ np.array([[cos, -sin], [sin, cos]]))
    law = linear_vae.rotation_gap(*FOUND.values[:2], 30.0)
    assert linear_vae.mean_field_gap(turned) == pytest.approx(law, rel=1e-9)
    assert linear_vae.rotation_gap(9.0, 4.0) == pytest.approx(0.5 * np.log(13**2 / (4 * 9 * 4)))


def test_units_have_their_activity_and_their_divergence():
    phi = linear_vae.best_guide(FOUND.stationary(4, NOISE))
    means = X @ phi.network.T + phi.offset.loc
    activity, variance = means.var(0), np.exp(2 * phi.offset.log_scale)
    values = FOUND.values[:4]
    assert (values > NOISE).tolist() == [True, True, True, False]
    np.testing.assert_allclose(linear_vae.active_variance(values, NOISE), activity, atol=1e-12)
    kl = 0.5 * (variance + activity - 1 - np.log(variance))
    np.testing.assert_allclose(linear_vae.unit_kl(values, NOISE), kl, atol=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"x: expected shape \[N, D\]"):
        linear_vae.spectrum(X[0])
    with pytest.raises(ValueError, match="family: expected"):
        linear_vae.best_guide(rotated(), "low_rank")
