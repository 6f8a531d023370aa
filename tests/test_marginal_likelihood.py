"""The marginal-likelihood experiment, once, small, from end to end; and its truths recomputed."""

import itertools
import math

import numpy as np
import pytest
from experiment_cycle import check_whole, run_once
from scipy import integrate, stats

from experiments.marginal_likelihood import measure
from experiments.marginal_likelihood.config import Config

SMALL = Config(dims=(2, 8), num_variables=(4,), num_samples=(30, 300), num_repeats=60)
FIGURES = ("errors", "concentration", "needed", "honesty", "diagnostics", "samples")
finished = run_once("marginal_likelihood", SMALL)


def test_the_run_is_whole(finished):
    found, lines = check_whole(finished, *FIGURES)
    assert len(lines) == (2 * 4 + 1 * 3) * 2  # sizes x methods, x two S
    assert {line["method"] for line in lines} == set(measure.METHODS["gaussian"])
    assert [one["size"] for one in found["gaussian"]] == [2, 8]


def test_the_gaussian_truth_is_the_density_of_x(result):
    config = result.config
    for one in result.found["gaussian"]:
        w = np.eye(one.size) + config.coupling * np.eye(one.size, k=1)
        covariance = w @ w.T + config.noise**2 * np.eye(one.size)
        exact = stats.multivariate_normal(np.zeros(one.size), covariance).logpdf(one.x)
        assert one.log_evidence == pytest.approx(exact, rel=1e-10)


def test_the_discrete_truth_and_second_moment_are_sums_over_every_z(result):
    one, config = result.found["discrete"][0], result.config
    logits = 0.5 * np.random.default_rng([0, 5]).standard_normal((64, 3))[:4]
    log_prior = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    w = np.eye(4) + config.coupling * np.eye(4, k=1)
    values = np.array(list(itertools.product(range(3), repeat=4)))
    prior = log_prior[np.arange(4), values].sum(1)
    likelihood = stats.norm.logpdf(one.x, (values - 1.0) @ w.T, config.noise).sum(1)
    log_evidence = np.logaddexp.reduce(prior + likelihood)
    assert one.log_evidence == pytest.approx(log_evidence, rel=1e-10)
    posterior = np.exp(prior + likelihood - log_evidence)
    for name, log_q in ((measure.PRIOR, prior), (measure.UNIFORM, np.full(81, -4 * np.log(3)))):
        exact = np.log((posterior**2 / np.exp(log_q)).sum())
        assert one.log_second_moment[name] == pytest.approx(exact, rel=1e-10)


def test_the_second_moment_of_one_dimension_is_its_integral():
    config = Config()
    case = measure.gaussian(1, config)
    mean, sd = float(case.posterior.mean[0]), float(case.posterior.cholesky[0, 0])
    post = stats.norm(mean, sd).pdf
    densities = {
        measure.PRIOR: stats.norm(0, 1).pdf,
        measure.UNIFORM: lambda z: 1 / (2 * config.box),
        measure.GOOD: stats.norm(mean + config.shift * sd, config.widen * sd).pdf,
    }
    for name, q in densities.items():
        ends = (-config.box, config.box)
        value, _ = integrate.quad(lambda z, q=q: post(z) ** 2 / q(z), *ends, epsabs=1e-12)
        assert case.log_second_moment[name] == pytest.approx(math.log(value), abs=1e-8)
    assert case.log_second_moment[measure.MEAN_FIELD] == pytest.approx(0, abs=1e-12)  # posterior


@pytest.mark.parametrize(("kind", "index"), [("gaussian", 0), ("discrete", 0)])
def test_the_error_follows_the_exact_variance_where_a_method_works(result, kind, index):
    one, followed = result.found[kind][index], 0
    for name in (measure.PRIOR, measure.UNIFORM, measure.GOOD):
        cell = one.methods[name][-1]
        predicted = math.sqrt(math.expm1(one.log_second_moment[name]) / cell.num_samples)
        if predicted < 0.2:  # the logarithm is then linear, to a tenth of the spread
            followed += 1
            # A standard deviation of 60 numbers is known to 1/sqrt(120): four of them.
            assert cell.sd_error == pytest.approx(predicted, rel=4 / 120**0.5 + 0.1), name
            assert abs(cell.mean_error) < 4 * predicted / 60**0.5 + predicted**2
            assert cell.coverage > 0.8  # binomial: 0.954 less 5 of 0.027
    assert followed >= 1


def test_a_failed_method_is_far_too_low_and_reports_at_most_one_nat(result):
    # D = 8, S = 300: the uniform needs about 10^8 draws for 0.1 nat, q fewer than 100.
    one = result.found["gaussian"][1]
    assert measure.log10_needed(one.log_second_moment["uniform"]) > 7
    assert measure.log10_needed(one.log_second_moment["q"]) < 2
    failed, good = one.methods["uniform"][-1], one.methods["q"][-1]
    assert failed.quantiles[2] < -5
    assert 0.9 < failed.reported_error <= 1
    assert failed.coverage < 0.1
    assert failed.ess < 1.5
    assert good.share_within > 0.9
    assert good.coverage > 0.8


def test_shares_of_the_largest_weights():
    log_w = np.log([[1.0, 4.0, 3.0, 2.0]])
    np.testing.assert_allclose(measure.top_shares(log_w), [0.4, 0.7, 0.9, 1.0])
