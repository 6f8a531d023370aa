"""The bdmc experiment on a tiny scale: its numbers against their definitions, and refusals."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole, run_once
from scipy.stats import multivariate_normal

from experiments.bdmc import measure
from experiments.bdmc.config import Config
from experiments.bdmc.measure import FROM_PRIOR, LINEAR
from lvm_jax import guides, models, training
from lvm_jax.estimate import Estimate

SMALL = Config(
    starts=("linear", "prior"), num_temperatures=(4,), num_chains=3, num_points=40,
    latent_dim=2, dim=64, noise=0.7, transition="random_walk", epochs=30,
)  # fmt: skip
MODEL = models.linear_gaussian(2, 64)


def theta_of(*_):
    key, _ = jax.random.split(jax.random.key(SMALL.seed))
    return MODEL.init(key)._replace(log_noise=jax.numpy.log(SMALL.noise)), ()


def build(architecture):
    return training.Separate(MODEL, guides.shared(guides.mean_field(2)))


# The decoder is the linear-Gaussian model: its log p is known, and its chains are compiled.
finished = run_once(
    "bdmc", SMALL, (measure.models, "linear_gaussian", lambda *dims: MODEL),
    (measure.vae, "build", build),
    (measure, "train_decoder", lambda *_: training.Parameters(*theta_of())),
)  # fmt: skip


@pytest.fixture(scope="module")
def marginal():
    """log p of the linear-Gaussian model, by SciPy."""
    theta = jax.device_get(theta_of()[0])
    covariance = theta.loadings @ theta.loadings.T + SMALL.noise**2 * np.eye(64)
    return multivariate_normal(theta.loadings @ theta.prior_mean + theta.offset, covariance)


def test_the_truth_is_that_of_the_simulated_points(finished, marginal):
    written, lines = check_whole(finished, "acceptance", "bounds", "gap")
    assert len(lines) == 2
    (one,), (row,) = finished.result.found[LINEAR], written["simulated"][LINEAR]
    exact = marginal.logpdf(one.bounds.x)
    np.testing.assert_allclose(one.truth, exact, rtol=1e-4)
    lower, upper = (side.log_evidence for side in one.bounds.sandwich[:2])
    np.testing.assert_allclose(row["lower"], np.mean(lower), rtol=1e-4)
    np.testing.assert_allclose(row["gap"], np.mean(upper - lower), rtol=1e-3, atol=1e-4)
    inside = (lower - np.log(40) <= exact) & (exact <= upper + np.log(40))
    assert row["covered"] == np.mean(inside)
    assert row["truth"] == pytest.approx(exact.mean(), rel=1e-4)


def test_both_estimates_of_held_out_digits_are_below_their_log_p(finished, marginal):
    """E[p-hat] = p, so p-hat exceeds 4,000 p at one of 40 digits with probability 1%."""
    (name, held), images = *finished.result.held.items(), measure.load(SMALL)[1]
    assert name == FROM_PRIOR
    exact = marginal.logpdf(images)
    assert (held.log_p < exact + np.log(4_000)).all()
    trusted = held.k_hat < 0.5
    assert trusted.sum() > 5
    apart = (held.importance - exact)[trusted] / held.importance_error[trusted]
    assert np.abs(apart).max() < 5
    np.testing.assert_array_equal(finished.result.points["log_p, from the prior"], held.log_p)


def test_the_decoder_learns_the_mean_image():
    train, _, _ = measure.load(SMALL)
    run = SimpleNamespace(stage=lambda name, compute, *args: compute(*args))
    (start,) = measure.make(dataclasses.replace(SMALL, starts=("guide",)), run, train[:256], None)
    mean = start.p.likelihood(np.zeros(2, np.float32)).mean()
    assert np.corrcoef(mean, train[:256].mean(0))[0, 1] > 0.8


def test_the_slope_is_that_of_the_longer_half(finished):
    (one,) = finished.result.found[LINEAR]
    gaps = {2: 50.0, 4: 8.0, 8: 1.0, 16: 0.125}  # T^-3 from 4 onwards
    found = [
        one._replace(num_temperatures=t, bounds=one.bounds._replace(gap=Estimate(g, 0.0)))
        for t, g in gaps.items()
    ]
    assert measure.slope(found) == pytest.approx(-3)
