"""The marginal-likelihood experiment, once, small, from end to end; and its truths recomputed."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_cycle import check_whole, read
from scipy import integrate, stats

from experiments import marginal_likelihood
from experiments import marginal_likelihood_beds as beds
from experiments import marginal_likelihood_figures as drawn
from experiments import marginal_likelihood_measure as measurement
from lvm_jax import evidence
from lvm_jax.weights import log_weights

SMALL = {"dims": (2, 8), "num_variables": (4,), "num_samples": (30, 300), "num_repeats": 60}
FIGURES = ("errors", "concentration", "needed", "honesty", "diagnostics", "samples")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("marginal") / "run"
    return marginal_likelihood.main(marginal_likelihood.Config(out=out, **SMALL))


def test_the_run_directory_is_whole(result):
    assert read(result, "config.json")["dims"] == [2, 8]
    found, lines = check_whole(result, *FIGURES)
    assert len(lines) == (2 * 4 + 1 * 3) * 2  # sizes x methods, x two S
    assert {line["method"] for line in lines} == {
        "prior", "uniform", "q", "mean-field q"
    }  # fmt: skip
    assert [bed["size"] for bed in found["gaussian"]] == [2, 8]


def test_the_gaussian_truth_is_the_density_of_x(result):
    config = result.config
    for bed in result.beds["gaussian"]:
        w = np.eye(bed.size) + config.coupling * np.eye(bed.size, k=1)
        covariance = w @ w.T + config.noise**2 * np.eye(bed.size)
        exact = stats.multivariate_normal(np.zeros(bed.size), covariance).logpdf(bed.x)
        assert bed.log_evidence == pytest.approx(exact, rel=1e-10)


def test_the_discrete_truth_is_a_sum_over_every_z(result):
    bed, config = result.beds["discrete"][0], result.config
    logits = np.asarray(bed.methods["prior"].distribution.logits, np.float64)
    w = np.eye(4) + config.coupling * np.eye(4, k=1)
    terms = []
    for z in itertools.product(range(3), repeat=4):
        mean = w @ (np.array(z) - 1.0)
        x_given_z = stats.norm.logpdf(bed.x, mean, config.noise).sum()
        terms.append(logits[np.arange(4), z].sum() + x_given_z)
    assert len(terms) == 81
    # The logits were rounded to float32.
    assert bed.log_evidence == pytest.approx(np.logaddexp.reduce(terms), abs=1e-5)


def test_the_second_moment_of_one_dimension_is_its_integral(result):
    config = result.config
    bed = beds.gaussian(1, config)
    mean, sd = float(bed.posterior.mean[0]), float(bed.posterior.cholesky[0, 0])
    post = stats.norm(mean, sd).pdf
    densities = {
        "prior": stats.norm(0, 1).pdf,
        "uniform": lambda z: 1 / (2 * config.box),
        "q": stats.norm(mean + config.shift * sd, config.widen * sd).pdf,
    }
    for name, q in densities.items():
        ends = (-config.box, config.box)
        value, _ = integrate.quad(lambda z, q=q: post(z) ** 2 / q(z), *ends, epsabs=1e-12)
        assert bed.log_second_moment[name] == pytest.approx(math.log(value), abs=1e-8)
    assert bed.log_second_moment["mean-field q"] == pytest.approx(0, abs=1e-12)  # the posterior


def test_a_mean_field_q_has_no_variance_where_it_is_too_narrow():
    def moment(correlation):
        cholesky = np.linalg.cholesky(np.array([[1.0, correlation], [correlation, 1.0]]))
        posterior = beds.FullRankNormal(np.zeros(2), cholesky)
        return beds.gaussian_second_moment(posterior, beds.mean_field(posterior))

    # 2 V^-1 - diag(V^-1) is positive definite while the correlation is below 1/2.
    assert moment(0.49) < math.inf
    assert moment(0.51) == math.inf
    # At correlation r: 1/sqrt((1 - r^2) |2 V^-1 - C^-1| / |V^-1| ...), by quadrature at r = 0.3.
    v = np.array([[1.0, 0.3], [0.3, 1.0]])
    post = stats.multivariate_normal(np.zeros(2), v)
    q = stats.multivariate_normal(np.zeros(2), np.eye(2) * (1 - 0.3**2))
    axis = np.linspace(-9, 9, 601)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    value = np.exp(2 * post.logpdf(grid) - q.logpdf(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert moment(0.3) == pytest.approx(math.log(value), abs=1e-6)


@pytest.mark.parametrize(("kind", "index"), [("gaussian", 0), ("discrete", 0)])
def test_the_error_follows_the_exact_variance_where_a_method_works(result, kind, index):
    bed, cells = result.beds[kind][index], result.cells[kind][index]
    for name in ("prior", "uniform", "q"):
        cell = cells[name][-1]
        predicted = math.sqrt(math.expm1(bed.log_second_moment[name]) / cell.num_samples)
        if predicted < 0.2:  # the logarithm is then linear, to a tenth of the spread
            # A standard deviation of 60 numbers is known to 1/sqrt(120): four of them.
            assert cell.sd_error == pytest.approx(predicted, rel=4 / 120**0.5 + 0.1), name
            assert abs(cell.mean_error) < 4 * predicted / 60**0.5 + predicted**2
            assert cell.coverage > 0.8  # binomial: 0.954 less 5 of 0.027


def test_a_failed_method_is_far_too_low_and_reports_at_most_one_nat(result):
    # D = 8, S = 300: the uniform needs about 10^8 draws for 0.1 nat, q fewer than 100.
    bed, cells = result.beds["gaussian"][1], result.cells["gaussian"][1]
    assert drawn.log10_needed(bed.log_second_moment["uniform"]) > 7
    assert drawn.log10_needed(bed.log_second_moment["q"]) < 2
    failed, good = cells["uniform"][-1], cells["q"][-1]
    assert failed.quantiles[2] < -5
    assert 0.9 < failed.reported_error <= 1
    assert failed.coverage < 0.1
    assert failed.ess < 1.5
    assert good.share_within > 0.9
    assert good.coverage > 0.8


def test_the_estimates_are_those_of_the_evidence_functions(result):
    bed, key = result.beds["gaussian"][0], jax.random.key(3)
    fold = jax.random.fold_in(key, 0)  # what evidence.importance draws its first chunk with
    q, space, prior = (bed.methods[name] for name in ("q", "uniform", "prior"))
    likelihood = lambda z: bed.log_joint(z) - prior.log_prob(z)  # noqa: E731
    size = result.config.num_samples[-1]
    pairs = (
        (lambda k: evidence.importance(k, bed.log_joint, q, size), q),
        (lambda k: evidence.uniform(k, bed.log_joint, space, size), space),
        (lambda k: evidence.naive(k, likelihood, prior, size), prior),
    )
    for call, source in pairs:
        known = jax.jit(call)(key)
        draws = jax.jit(lambda k, q=source: log_weights(k, bed.log_joint, q, size))(fold)
        own = measurement.estimate(draws[None])
        for name in ("log_evidence", "standard_error", "ess", "k_hat"):
            expected = float(getattr(known, name))
            assert float(getattr(own, name)[0]) == pytest.approx(expected, rel=2e-4, abs=2e-4)


def test_shares_of_the_largest_weights():
    log_w = jnp.log(jnp.array([[1.0, 4.0, 3.0, 2.0]]))
    np.testing.assert_allclose(measurement.top_shares(np.asarray(log_w)), [0.4, 0.7, 0.9, 1.0])
