"""The bdmc experiment on a tiny scale: its numbers against what they stand for, and refusals."""

import json

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.stats import multivariate_normal

from experiments import bdmc


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bdmc") / "run"
    config = bdmc.Config(
        num_temperatures=(2, 8), num_chains=3, num_points=40, latent_dim=2, dim=3, noise=0.7,
        transition="random_walk", epochs=1, out=folder,
    )  # fmt: skip
    return bdmc.main(config), json.loads((folder / "results.json").read_text())


def test_the_truth_is_that_of_the_simulated_points(run):
    result, written = run
    bed = result.beds[0]
    found = result.found[bed.name]
    theta = jax.device_get(bed.theta)
    covariance = theta.loadings @ theta.loadings.T + np.exp(2 * theta.log_noise) * np.eye(3)
    exact = multivariate_normal(
        theta.loadings @ theta.prior_mean + theta.offset, covariance
    ).logpdf(found[0].bounds.x)
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


def test_what_is_written(run):
    result, written = run
    assert list(written["simulated"]) == [bed.name for bed in result.beds]
    assert written["simulated"][result.beds[1].name][0]["truth"] is None
    for name, held in result.held.items():
        assert held.log_p.shape == (40,)
        assert written["held_out"][name]["annealed"] == pytest.approx(held.log_p.mean(), rel=1e-5)
    _, lines = check_whole(result, "acceptance", "bounds", "gap")
    page = (result.path / "report.html").read_text()
    assert f"{result.found[result.beds[0].name][-1].bounds.gap:.3f}" in page
    assert len(lines) == 6
