"""The marginal-likelihood experiment, once and small."""

import json

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from experiments import marginal_likelihood as experiment
from experiments.marginal_likelihood_report import summary

SMALL = {
    "dims": (1, 12), "variables": (2,), "growing": (400,), "closely": 2,
    "num_samples": 400, "num_repeats": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("marginal") / "run"
    return experiment.main(experiment.Config(out=out, **SMALL))


def test_all_three_average_to_the_truth_where_z_is_small(result):
    for found in (result.continuous[1], result.discrete[2]):
        for name, estimates in found.items():  # E[p-hat / p] = 1 for every method
            ratio = np.exp(estimates.error)
            error = ratio.std(ddof=1) / np.sqrt(len(ratio))
            assert abs(ratio.mean() - 1) < 5 * error < 0.3, name


def test_the_first_two_fail_as_z_grows_and_the_third_does_not(result):
    scores = {name: summary(found) for name, found in result.continuous[12].items()}
    assert scores["uniform"]["median_error"] < scores["prior"]["median_error"] < -5
    assert scores["prior"]["coverage"] < 0.2  # its own standard error is blind
    assert abs(scores["importance"]["median_error"]) < 0.05
    # 40 estimates, 95.4% expected: below 75% has a probability of 1e-6
    assert scores["importance"]["coverage"] > 0.75
    assert scores["importance"]["median_ess"] > 100 > 5 > scores["prior"]["median_ess"]


def test_the_truth_is_that_of_the_marginal_gaussian():
    bed = experiment.continuous_bed(3, experiment.Config())
    # W is a rotation: x ~ N(0, (1 + 0.3^2) I), and log p(x) = log p(x, z) - log p(z | x)
    z = np.zeros(3)
    joint = float(bed.log_joint(z))
    moved = bed.q._replace(cholesky=bed.q.cholesky / 1.2)
    shifted = moved._replace(mean=moved.mean - 0.2 * moved.cholesky.sum(1))
    assert joint - float(shifted.log_prob(z)) == pytest.approx(bed.log_evidence, abs=1e-4)
    covariance = np.asarray(shifted.cholesky @ shifted.cholesky.T)
    np.testing.assert_allclose(covariance, np.eye(3) / (1 + 1 / 0.09), atol=1e-6)
    prior = multivariate_normal(z, np.eye(3)).logpdf(z)
    assert joint - float(bed.log_likelihood(z)) == pytest.approx(prior, abs=1e-5)


def test_weights_are_shares_and_concentrate_where_the_method_fails(result):
    for share in result.shares.values():
        assert share.sum() == pytest.approx(1, abs=1e-5)
        assert (np.diff(share) <= 0).all()
    half = {name: np.searchsorted(np.cumsum(s), 0.5) for name, s in result.shares.items()}
    assert half["uniform"] < half["prior"] < half["importance"]


def test_summary_is_what_it_says():
    error = np.array([-0.5, -0.05, 0.05, 0.3])
    estimates = experiment.Estimates(error, np.full(4, 0.1), np.arange(4.0), np.full(4, 0.2))
    found = summary(estimates)
    assert (found["median_error"], found["share_close"], found["coverage"]) == (0.0, 0.5, 0.5)
    assert found["rms_error"] == pytest.approx(np.sqrt((0.25 + 0.0025 * 2 + 0.09) / 4))


def test_the_run_directory_is_whole(result):
    found = json.loads((result.path / "results.json").read_text())
    assert set(found["continuous"]["12"]) == set(experiment.METHODS)
    for name in ("dimension", "honesty", "samples", "weights"):
        assert (result.path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (result.path / "report.html").read_text().count("data:image/png;base64,") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (0,)}, "dims: expected numbers from 1 to 200"),
        ({"variables": (11,)}, "variables: expected numbers from 1 to 10"),
        ({"num_samples": 3}, "num_samples: expected an integer >= 25, got 3"),
        ({"widen": 0.0}, "widen: expected a number > 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.main(experiment.Config(out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()
