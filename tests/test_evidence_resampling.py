"""Draws of the posterior by resampling, against the posterior itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import linear_gaussian
from model_cases import quick_jit

from lvm_jax import evidence
from lvm_jax.weights import weigh

PROBLEM = linear_gaussian()


def test_means_and_covariances_are_those_of_the_posterior():
    """20 runs of 2,000 draws: the mean of means, and of second moments, within their spread."""
    joint, q = PROBLEM.log_joint(PROBLEM.theta, PROBLEM.x), PROBLEM.guide(PROBLEM.phi)
    exact = PROBLEM.posterior(PROBLEM.theta, PROBLEM.x)

    @quick_jit
    def run(key):
        found = evidence.resample(key, joint, q, 2_000, 1_500)
        return found.z.mean(0), jnp.cov(found.z.T), found.k_hat, found.ess

    means, covariances, k_hat, ess = map(
        np.asarray, jax.vmap(run)(jax.random.split(jax.random.key(0), 20))
    )
    for values, want in ((means, exact.mean), (covariances, exact.cholesky @ exact.cholesky.T)):
        error = values.std(0, ddof=1) / np.sqrt(20)
        assert (np.abs(values.mean(0) - want) < 5 * error).all()
        assert error.max() < 0.03
    assert (np.abs(means.mean(0) - np.asarray(q.mean())) > 0.05).any()  # q itself is off
    assert ((ess > 100) & (ess < 2_000)).all()
    assert (k_hat < 0.7).mean() > 0.5


def test_a_draw_of_weight_v_appears_about_v_m_times():
    joint, q, key = (
        PROBLEM.log_joint(PROBLEM.theta, PROBLEM.x),
        PROBLEM.guide(PROBLEM.phi),
        jax.random.key(1),
    )

    @quick_jit
    def run(key):
        drawn = weigh(jax.random.split(key)[0], joint, q, 53).z
        return evidence.resample(key, joint, q, 53, 211), drawn

    found, drawn = run(key)
    assert found.z.shape == (211, 2)
    weights = np.exp(np.asarray(found.log_weights, float))
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    drawn = np.asarray(drawn)
    count = np.array([(np.asarray(found.z) == z).all(1).sum() for z in drawn])
    assert count.sum() == 211
    assert (np.abs(count - 211 * weights) < 1 + 1e-3).all()
    assert count.max() >= 5 * count.min()  # the weights are far from equal


def test_bad_arguments_are_refused():
    joint, q = PROBLEM.log_joint(PROBLEM.theta, PROBLEM.x), PROBLEM.guide(PROBLEM.phi)
    for sizes, name in (((0, 3), "num_samples"), ((3, 0), "num_draws")):
        with pytest.raises(ValueError, match=f"{name}: expected an integer >= 1, got 0"):
            evidence.resample(jax.random.key(0), joint, q, *sizes)
    with pytest.raises(TypeError, match="key: expected a typed key"):
        evidence.resample(0, joint, q, 5)
