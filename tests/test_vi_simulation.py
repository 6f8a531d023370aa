"""Simulation-based calibration of fits of a model with a normal posterior."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import vi
from lvm_jax.distributions import FullRankNormal, normal

KEY = jax.random.key(13)
PRIOR = normal(jnp.zeros(2), jnp.ones(2))
CORRELATED = jnp.array([[1.0, 0.9], [0.9, 1.0]])


def simulate(key, z):
    return (CORRELATED @ z)[None] + 0.5 * jax.random.normal(key, (1, 2))


def log_likelihood(z, rows):
    return -0.5 * ((rows - (CORRELATED @ z)[None]) ** 2).sum() / 0.25


def fitted(family):
    def fit(key, x):
        return vi.fit(
            key, log_likelihood, jnp.zeros(2), log_prior=PRIOR.log_prob, data=x, family=family,
            max_evaluations=400, num_draws=1_000,
        )  # fmt: skip

    return fit


def test_the_exact_posterior_is_calibrated(unrefined):
    found = vi.simulation_check(KEY, PRIOR, simulate, fitted("full_rank"), 50, num_bins=5)
    assert found.ranks.shape == (50, 2)
    assert (found.p_value > 1e-3).all()
    np.testing.assert_allclose(found.mean, 0.5, atol=4 * np.sqrt(1 / 12 / 50))


def test_a_q_that_is_too_narrow_is_found():
    """The exact posterior with 0.4 of its standard deviations: the ranks are U-shaped."""
    precision = np.eye(2) + np.asarray(CORRELATED @ CORRELATED) / 0.25
    covariance = np.linalg.inv(precision)
    root = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)

    def exact(width):
        def fit(key, x):
            mean = covariance @ np.asarray(CORRELATED) @ np.asarray(x[0]) / 0.25
            return SimpleNamespace(q=FullRankNormal(jnp.asarray(mean, jnp.float32), width * root))

        return vi.simulation_check(KEY, PRIOR, simulate, fit, 100, num_bins=5)

    assert (exact(1.0).p_value > 1e-3).all()
    assert (exact(0.4).p_value < 1e-3).all()


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="^num_draws: expected one less than a multiple"):
        vi.simulation_check(KEY, PRIOR, simulate, fitted("full_rank"), 50, 98)
    with pytest.raises(ValueError, match="^num_simulations: expected an integer >= 50"):
        vi.simulation_check(KEY, PRIOR, simulate, fitted("full_rank"), 20)
