"""Averages of a linear VAE against NumPy, SciPy and the closed forms of PPCA; its ascent to them."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from lvm_jax import models
from lvm_jax.problems import linear_averages, linear_vae

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 5)) * [3.0, 2.0, 1.5, 0.5, 0.3] + 1.0
FOUND = linear_vae.spectrum(X)
TURN, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
NOISE = 0.3
BEST = FOUND.stationary(3, NOISE)
TURNED = BEST._replace(loadings=BEST.loadings @ TURN)


@pytest.mark.parametrize("family", linear_averages.FAMILIES)
def test_averages_of_the_best_q_are_scipys_and_the_closed_forms(family):
    found = linear_averages.at_optimum(TURNED, X, family)
    covariance = TURNED.loadings @ TURNED.loadings.T + NOISE * np.eye(5)
    log_p = multivariate_normal(TURNED.offset, covariance).logpdf(X).mean()
    gap = linear_vae.mean_field_gap(TURNED) if family == "mean_field" else 0.0
    assert found.log_evidence == pytest.approx(log_p, rel=1e-12)
    assert found.elbo == pytest.approx(log_p - gap, rel=1e-12)
    assert found.kl_posterior == pytest.approx(gap, abs=1e-12)
    weight = np.linalg.solve(linear_vae.posterior_precision(TURNED), TURNED.loadings.T) / NOISE
    codes = (X - TURNED.offset) @ weight.T
    np.testing.assert_allclose(found.means, np.cov(codes.T, bias=True), atol=1e-12)


def test_units_of_the_optimum_have_the_closed_forms():
    found, values = linear_averages.at_optimum(BEST, X), FOUND.values[:3]
    np.testing.assert_allclose(found.kl_units, linear_vae.unit_kl(values, NOISE), atol=1e-12)
    want = linear_vae.active_variance(values, NOISE)
    np.testing.assert_allclose(np.diagonal(found.means), want, atol=1e-12)


@pytest.mark.parametrize("family", linear_averages.FAMILIES)
def test_the_ascent_reaches_ppca_with_and_without_a_given_noise(family):
    start = BEST._replace(loadings=0.3 * RNG.normal(size=(5, 3)))
    common = (FOUND.moment_points(), family == "mean_field")
    for learned in (False, True):
        theta, _, slope = linear_averages.ascend(start, *common, learned, 4_000)
        noise = FOUND.values[3:].mean() if learned else NOISE  # Tipping and Bishop (1999)
        want = linear_averages.at_optimum(FOUND.stationary(3, noise), X, family)
        got = linear_averages.at_optimum(theta, X, family)
        assert slope < 1e-6
        np.testing.assert_allclose(got[:2], want[:2], atol=1e-9)
        assert linear_vae.noise_variance(theta) == pytest.approx(noise, rel=1e-5)


def test_averages_in_float32_are_those_of_the_pair():
    model, guide = linear_averages.model_and_guide(5, 3)
    assert linear_averages.model_and_guide(5, 3)[0] is model
    phi = linear_vae.best_guide(BEST)
    low = linear_averages.quick(model, guide, *jax.tree.map(np.float32, (BEST, phi, X)))
    high = linear_averages.in_double(model, guide, BEST, phi, X)
    for one, other in zip(low, high, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_the_order_of_units_undoes_a_permutation():
    permuted = BEST._replace(loadings=-BEST.loadings[:, [2, 0, 1]])
    assert FOUND.order(permuted).tolist() == [1, 2, 0]


def test_wrong_words_and_models_are_refused():
    with pytest.raises(ValueError, match="family: expected .*full_rank.* got 'flow'"):
        linear_averages.model_and_guide(5, 3, "flow")
    with pytest.raises(ValueError, match="covariance: expected .*per_x.* got 'own'"):
        linear_averages.model_and_guide(5, 3, "full_rank", "own")
    with pytest.raises(ValueError, match="max_steps: expected"):
        linear_averages.ascend(BEST, X, True, True, -1)
    model = models.deep_gaussian(2, 5)
    _, guide = linear_averages.model_and_guide(5, 2)
    with pytest.raises(ValueError, match="model: expected closed forms"):
        linear_averages.averages(model, guide, (), (), X)
