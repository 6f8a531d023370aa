"""The bdmc experiment on a tiny scale: its numbers against what they stand for, and refusals."""

import json

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.stats import multivariate_normal

from experiments import bdmc, bdmc_beds

MAKE = bdmc_beds.make


def made(config):
    """The models of the experiment, with the linear-Gaussian one in place of a decoder's prior start.

    That start is the guide's without a guide, and that model's programs are compiled already.
    """
    linear, prior, guide = MAKE(config)
    assert (prior.model, prior.theta, prior.guide) == (guide.model, guide.theta, None)
    np.testing.assert_array_equal(prior.images, guide.images)
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return [linear, linear._replace(name=prior.name, images=rows), guide]


@pytest.fixture(scope="module")
def run(tmp_path_factory, compile_quickly):
    folder = tmp_path_factory.mktemp("bdmc") / "run"
    config = bdmc.Config(
        num_temperatures=(2, 8), num_chains=3, num_points=40, latent_dim=2, dim=3, noise=0.7,
        transition="random_walk", epochs=1, out=folder,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bdmc_beds, "make", made)
        return bdmc.main(config), json.loads((folder / "results.json").read_text())


def marginal(theta):
    """log p of the linear-Gaussian model, by SciPy."""
    theta = jax.device_get(theta)
    covariance = theta.loadings @ theta.loadings.T + np.exp(2 * theta.log_noise) * np.eye(3)
    return multivariate_normal(theta.loadings @ theta.prior_mean + theta.offset, covariance)


def test_the_truth_is_that_of_the_simulated_points(run):
    result, written = run
    bed = result.beds[0]
    found = result.found[bed.name]
    exact = marginal(bed.theta).logpdf(found[0].bounds.x)
    np.testing.assert_allclose(found[0].truth, exact, rtol=1e-4)
    np.testing.assert_array_equal(found[0].bounds.x, found[1].bounds.x)  # the same at every T
    said = written["simulated"][bed.name]
    for one, row in zip(found, said, strict=True):
        sandwich = one.bounds.sandwich
        lower, upper = sandwich.lower.log_evidence, sandwich.upper.log_evidence
        np.testing.assert_allclose(row["lower"], np.mean(lower), rtol=1e-4)
        np.testing.assert_allclose(row["gap"], np.mean(upper - lower), rtol=1e-3, atol=1e-4)
        margin = np.log(40)
        inside = (lower - margin <= exact) & (exact <= upper + margin)
        assert row["covered"] == np.mean(inside)
        assert row["truth"] == pytest.approx(exact.mean(), rel=1e-4)
    assert said[1]["gap"] < said[0]["gap"]


def test_held_out_log_p_is_that_of_the_model(run):
    """By 5,000 draws of the prior, and by chains, whose few leave a wider error."""
    bed = run[0].beds[1]
    held, exact = run[0].held[bed.name], marginal(bed.theta).logpdf(bed.images)
    trusted = held.k_hat < 0.7
    assert trusted.sum() > 20
    z = (held.importance - exact) / held.importance_error
    assert (np.abs(z[trusted]) < 5).all()
    # exp(log p) is right on average: Markov's inequality, over 40 images
    assert (held.log_p - exact < np.log(40 / 0.01)).all()


def test_what_is_written(run):
    result, written = run
    assert list(written["simulated"]) == [bed.name for bed in result.beds]
    assert written["simulated"][result.beds[2].name][0]["truth"] is None
    for name, held in result.held.items():
        assert held.log_p.shape == (40,)
        assert written["held_out"][name]["annealed"] == pytest.approx(held.log_p.mean(), rel=1e-5)
    _, lines = check_whole(result, "acceptance", "bounds", "gap")
    page = (result.path / "report.html").read_text()
    assert f"{result.found[result.beds[0].name][-1].bounds.gap:.3f}" in page
    assert len(lines) == 6
