"""The decomposition experiment, once and small, against NumPy's and SciPy's Gaussians."""

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.stats import multivariate_normal

from experiments import elbo_decomposition as experiment
from experiments import elbo_decomposition_terms as terms


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("elbo") / "run"
    small = {"num_points": 9, "num_repeats": 500, "num_samples": (1, 8, 64), "num_steps": 200}
    return experiment.main(experiment.Config(out=out, **small))


def test_log_evidence_is_the_marginal_gaussians(result):
    bed = result.bed
    loadings = np.asarray(bed.theta.loadings)
    mean = loadings @ terms.PRIOR_MEAN + terms.OFFSET
    covariance = loadings @ loadings.T + terms.NOISE**2 * np.eye(2)
    want = multivariate_normal(mean, covariance).logpdf(terms.X)
    assert result.log_evidence == pytest.approx(want, abs=1e-10)
    deviation = np.sqrt(np.diagonal(bed.covariance))
    assert bed.covariance[0, 1] / deviation.prod() == pytest.approx(-0.8, abs=1e-8)


def test_the_identity_holds_to_rounding_while_the_elbo_moves(result):
    assert result.deviations["float64"].largest["identity"] < 1e-10
    assert result.deviations["float32"].largest["identity"] < 1e-5
    for parts in result.parts.values():
        assert np.ptp(parts.elbo) > 1  # nats
        assert (parts.kl_posterior >= -1e-12).all()
        assert parts.elbo.max() == pytest.approx(result.log_evidence, abs=0.05)


def test_terms_are_those_of_gaussians(result):
    knobs, parts = result.named["Jensen's q"]
    q, bed = terms.make_q(result.bed, knobs), result.bed
    mean, covariance = np.asarray(q.mean), np.asarray(q.cholesky @ q.cholesky.T)
    gap, inverse = mean - bed.mean, np.linalg.inv(bed.covariance)
    logdet = np.log(np.linalg.det(bed.covariance) / np.linalg.det(covariance))
    kl = 0.5 * (np.trace(inverse @ covariance) + gap @ inverse @ gap - 2 + logdet)
    assert parts.kl_posterior == pytest.approx(kl, rel=1e-4)
    assert parts.entropy == pytest.approx(multivariate_normal(mean, covariance).entropy(), rel=1e-5)
    assert parts.elbo == pytest.approx(result.log_evidence - kl, rel=1e-4)


def test_jensen_orders_the_averages(result):
    above, below = result.jensen.log_of_average, result.jensen.average_of_logs
    np.testing.assert_allclose(above[0], below[0], rtol=1e-6)  # S = 1: the same
    elbo = float(result.named["Jensen's q"][1].elbo)
    for row in below:  # always the ELBO
        assert abs(row.mean() - elbo) < 5 * row.std(ddof=1) / np.sqrt(row.size)
    means = above.mean(1)
    assert (np.diff(means) > 0).all()
    assert elbo < means[1] < means[2] < result.log_evidence + 5 * above[2].std() / np.sqrt(500)


def test_the_variance_of_a_weight_is_that_of_the_draws(result):
    _, parts = result.named["Jensen's q"]
    q = terms.make_q(result.bed, result.named["Jensen's q"][0])
    posterior = multivariate_normal(result.bed.mean, result.bed.covariance)
    own = multivariate_normal(q.mean, q.cholesky @ q.cholesky.T)
    z = own.rvs(200_000, random_state=0)
    log_ratio = posterior.logpdf(z) - own.logpdf(z)
    square = np.exp(2 * log_ratio)
    error = square.std() / np.sqrt(len(z))
    assert abs(square.mean() - 1 - result.jensen.relative_variance) < 5 * error
    assert abs(log_ratio.mean() + parts.kl_posterior) < 5 * log_ratio.std() / np.sqrt(len(z))


def test_the_same_seed_gives_the_same_numbers(result):
    key = jax.random.split(jax.random.key(0))[1]
    knobs = result.named["Jensen's q"][0]
    again = terms.draw_averages(key, result.bed, knobs, result.config)
    np.testing.assert_array_equal(again.log_of_average, result.jensen.log_of_average)


def test_the_energy_alone_loses_its_entropy(result):
    alone, both = result.ascents["energy alone"], result.ascents["energy + entropy"]
    assert alone.entropy[-1] < both.entropy[-1] - 1
    assert both.elbo[-1] == pytest.approx(result.log_evidence, abs=0.02)
    assert np.linalg.norm(alone.mean[-1] - result.bed.mean) < 0.1  # it goes to the mode


def test_the_run_directory_is_whole(result):
    figures = ("decomposition", "terms", "identity", "jensen", "energy_alone")
    found, _ = check_whole(result, *figures)
    assert found["log_evidence"] == pytest.approx(result.log_evidence)
