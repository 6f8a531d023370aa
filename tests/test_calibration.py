"""Simulation-based calibration: the exact posterior passes, and what is wrong with another shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decomposition_cases import quick_programs  # noqa: F401
from model_cases import CASES
from scipy.stats import chisquare

from lvm_jax import distributions, guides
from lvm_jax.decomposition import calibrate
from lvm_jax.decomposition.calibration import rank, summarize
from lvm_jax.guides import Guide

MODEL, THETA, *_ = CASES["diagonal"]()
NUM = 2_000


def posterior(phi, x):
    """The posterior, shifted by phi[0] of its deviations and stretched by phi[1]; the prior, phi[2]."""
    exact = MODEL.posterior(THETA, x)
    unit = jnp.array([1.0, 0.0])  # along the first coordinate
    deviation = jnp.sqrt((exact.cholesky**2).sum(1))
    mean = exact.mean + phi[0] * unit * deviation
    return distributions.FullRankNormal(
        jnp.where(phi[2] > 0, THETA.prior_mean, mean),
        jnp.where(phi[2] > 0, jnp.eye(2), phi[1] * exact.cholesky),
    )


GUIDE = Guide(lambda key: jnp.array([0.0, 1.0, 0.0]), posterior)


def run(shift, stretch, seed=0, blind=0.0):
    phi = jnp.array([shift, stretch, blind])
    return jax.device_get(calibrate(jax.random.key(seed), MODEL(THETA), GUIDE(phi), NUM))


def test_the_posterior_is_calibrated():
    found = run(0.0, 1.0)
    assert found.ranks.shape == (NUM, 2)
    assert (found.ranks.min(), found.ranks.max()) == (0, 99)
    assert (found.p_value > 1e-3).all()
    assert (np.abs(found.mean - 0.5) < 5 / np.sqrt(12 * NUM)).all()
    assert (np.abs(found.spread - 1) < 5 * np.sqrt(0.8 / NUM)).all()  # kurtosis 1.8 of uniforms
    np.testing.assert_array_equal(found.counts.sum(0), [NUM, NUM])
    for place in range(2):
        counts = np.histogram(found.ranks[:, place], bins=20, range=(0, 100))[0]
        np.testing.assert_array_equal(found.counts[:, place], counts)
        oracle = chisquare(counts)
        np.testing.assert_allclose(found.chi_square[place], oracle.statistic, rtol=1e-5)
        np.testing.assert_allclose(found.p_value[place], oracle.pvalue, rtol=1e-3)


def test_p_values_are_uniform():
    values = np.array([run(0.0, 1.0, seed).p_value for seed in range(25)]).ravel()
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * values.size)


def test_what_is_wrong_shows():
    narrow, wide, low = run(0.0, 0.8), run(0.0, 1.25), run(-0.2, 1.0)
    for found in (narrow, wide):
        assert (found.p_value < 1e-4).all()
    assert (narrow.spread > 1 + 5 * np.sqrt(0.8 / NUM)).all()
    assert (wide.spread < 1 - 5 * np.sqrt(0.8 / NUM)).all()
    # The shift is of the first coordinate alone: q is low, so z* is above it.
    assert low.p_value[0] < 1e-4 < low.p_value[1]
    assert low.mean[0] > 0.5 + 5 / np.sqrt(12 * NUM)


def test_the_prior_passes_although_it_knows_nothing():
    found = run(0.0, 1.0, blind=1.0)
    assert (found.p_value > 1e-3).all()


def test_ties_are_broken_by_chance():
    """Bits: most draws equal the truth, and the exact posterior still has uniform ranks."""
    model, theta, *_ = CASES["bits"]()
    p = model(theta)
    found = calibrate(jax.random.key(2), p, guides.exact(p), 1_040, 19, num_bins=10)
    assert (found.p_value > 1e-3).all()


def test_the_summary_of_ranks_is_its_formulas():
    # Ranks 0, ..., 5 of L = 5 draws in three bins: uneven counts by hand, and even ones.
    ranks = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 5, 5])
    counts, statistic, p_value, mean, spread = summarize(jnp.asarray(ranks)[:, None], 5, 3)
    assert counts[:, 0].tolist() == [3, 4, 4]
    oracle = chisquare([3, 4, 4])
    np.testing.assert_allclose(statistic[0], oracle.statistic, rtol=1e-5)
    np.testing.assert_allclose(p_value[0], oracle.pvalue, rtol=1e-5)
    np.testing.assert_allclose(mean[0], (ranks.mean() + 0.5) / 6, rtol=1e-6)
    # Uniform ranks have the variance (L (L + 2)) / 12, here of (rank + 1/2) / (L + 1).
    np.testing.assert_allclose(spread[0], ranks.var(ddof=1) / (35 / 12), rtol=1e-5)
    even = jnp.repeat(jnp.arange(6), 50)[:, None]
    np.testing.assert_allclose(summarize(even, 5, 3)[4][0], 300 / 299, rtol=1e-5)


def test_ranks_count_the_draws_below_and_break_ties():
    truth, draws = jnp.array([0.5, 1.0]), jnp.array([[0.1, 1.0], [0.7, 1.0], [0.5, 2.0]])
    keys = jax.random.split(jax.random.key(0), 3_000)
    ranks = np.asarray(jax.vmap(lambda key: rank(key, truth, draws))(keys))
    for column, law in ((0, [0, 1 / 2, 1 / 2, 0]), (1, [1 / 3, 1 / 3, 1 / 3, 0])):
        seen = np.bincount(ranks[:, column], minlength=4) / 3_000
        assert (
            np.abs(seen - law) <= 5 * np.sqrt(np.multiply(law, 1 - np.array(law)) / 3_000)
        ).all()


def test_refusals():
    with pytest.raises(
        ValueError, match="num_draws: expected one less than a multiple of num_bins"
    ):
        calibrate(jax.random.key(0), MODEL(THETA), GUIDE(jnp.array([0.0, 1.0, 0.0])), 200, 100)
    with pytest.raises(ValueError, match="num_simulations: expected an integer >= 100, got 99"):
        calibrate(jax.random.key(0), MODEL(THETA), GUIDE(jnp.array([0.0, 1.0, 0.0])), 99)
