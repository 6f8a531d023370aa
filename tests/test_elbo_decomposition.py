"""The decomposition experiment, once and small, against NumPy's and SciPy's Gaussians."""

import numpy as np
import pytest
from experiment_cycle import check_whole, run_once
from scipy.stats import multivariate_normal

from experiments.elbo_decomposition import measure
from experiments.elbo_decomposition.config import Config

SMALL = Config(num_points=9, num_repeats=500, num_samples=(1, 8, 64), num_steps=200)
FIGURES = ("decomposition", "terms", "identity", "jensen", "energy_alone")
finished = run_once("elbo_decomposition", SMALL)


def test_the_folder_is_whole(finished):
    found, lines = check_whole(finished, *FIGURES)
    assert found["log_evidence"] == finished.result.truth.log_evidence
    assert [line["num_samples"] for line in lines] == [1, 8, 64]


def test_log_evidence_is_the_marginal_gaussians(result):
    truth, theta = result.truth, result.truth.theta
    mean = theta.loadings @ theta.prior_mean + theta.offset
    covariance = theta.loadings @ theta.loadings.T + np.exp(2 * theta.log_noise) * np.eye(2)
    want = multivariate_normal(mean, covariance).logpdf(measure.X)
    assert truth.log_evidence == pytest.approx(want, abs=1e-10)
    assert truth.covariance[0, 1] / truth.sd.prod() == pytest.approx(-0.8, abs=1e-8)


def test_the_identity_holds_to_rounding_while_the_elbo_varies(result):
    assert result.deviations["float64"].largest["identity"] < 1e-10
    assert result.deviations["float32"].largest["identity"] < 1e-5
    for _, parts in result.paths.values():
        assert np.ptp(parts.elbo) > 1  # nats
        assert (parts.kl_posterior >= -1e-12).all()
        assert parts.elbo.max() == pytest.approx(result.truth.log_evidence, abs=0.05)


def test_terms_are_those_of_gaussians(result):
    knobs, parts = result.named["Jensen's q"]
    q, truth = measure.make_q(result.truth, knobs), result.truth
    mean, covariance = q.mean, q.cholesky @ q.cholesky.T
    gap, inverse = mean - truth.mean, np.linalg.inv(truth.covariance)
    logdet = np.log(np.linalg.det(truth.covariance) / np.linalg.det(covariance))
    kl = 0.5 * (np.trace(inverse @ covariance) + gap @ inverse @ gap - 2 + logdet)
    assert parts.kl_posterior == pytest.approx(kl, rel=1e-4)
    assert parts.entropy == pytest.approx(multivariate_normal(mean, covariance).entropy(), rel=1e-5)
    assert parts.elbo == pytest.approx(result.truth.log_evidence - kl, rel=1e-4)


def test_jensen_orders_the_averages(result):
    above, below = result.jensen.log_of_average, result.jensen.average_of_logs
    np.testing.assert_allclose(above[0], below[0], rtol=1e-6)  # S = 1: the same
    elbo = float(result.named["Jensen's q"][1].elbo)
    means = above.mean(1)
    assert (np.diff(means) > 0).all()
    assert elbo < means[1] < means[2] < result.truth.log_evidence + 5 * above[2].std() / 500**0.5


def test_the_energy_alone_loses_its_entropy(result):
    alone, both = result.ascents["energy alone"], result.ascents["energy + entropy"]
    assert alone.entropy[-1] < both.entropy[-1] - 1
    assert both.elbo[-1] == pytest.approx(result.truth.log_evidence, abs=0.02)
    assert np.linalg.norm(alone.mean[-1] - result.truth.mean) < 0.1  # it goes to the mode
