"""The aggregate posterior against quadrature, closed forms and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decomposition_cases import quick_programs  # noqa: F401
from model_cases import CASES
from scipy.special import logsumexp
from scipy.stats import norm

from lvm_jax import distributions, guides
from lvm_jax.decomposition import log_aggregate, surgery
from lvm_jax.decomposition.aggregate import _per_dimension, _prior_moments
from lvm_jax.models import linear_gaussian
from lvm_jax.models.linear_gaussian import LinearGaussian
from lvm_jax.training.objective import kl_per_dimension

NUM = 40
X = np.random.default_rng(0).normal(size=(NUM, 1)).astype(np.float32) * 1.5 + 0.4
MODEL = linear_gaussian(1, 1)
THETA = LinearGaussian(jnp.array([0.3]), jnp.array([[1.1]]), jnp.array([-0.2]), jnp.array(-0.5))
GUIDE = guides.linear(guides.mean_field(1), 1, ["loc"])
PHI = guides.Amortized(
    guides.families.MeanField(jnp.array([1.1]), jnp.array([-0.8])), jnp.array([[0.7]])
)
SCALE = np.exp(-0.8)
ARGUMENTS = MODEL(THETA), GUIDE(PHI), X


@pytest.fixture(scope="module")
def truth():
    """I(n; z), KL(q(z) || p(z)) and the moments of q(z), by a trapezoidal rule."""
    locs = 1.1 + 0.7 * X[:, 0].astype(float)
    z = np.linspace(-9, 9, 4_001)
    each = norm.logpdf(z[:, None], locs[None], SCALE)
    q = logsumexp(each, axis=1) - np.log(NUM)
    integral = lambda values: np.trapezoid(np.exp(q) * values, z)  # noqa: E731
    entropy = 0.5 * np.log(2 * np.pi * np.e * SCALE**2)
    mutual = -integral(q) - entropy
    marginal = integral(q - norm.logpdf(z, 0.3, 1))
    mean = integral(z)
    return mutual, marginal, mean, integral((z - mean) ** 2)


def test_surgery_is_the_integral(truth):
    mutual, marginal, mean, variance = truth
    found = jax.device_get(surgery(jax.random.key(0), *ARGUMENTS, 200))
    wants = {
        "mutual_information": mutual, "marginal_kl": marginal, "kl": mutual + marginal,
        "mean": mean, "variance": variance,
    }  # fmt: skip
    for name, want in wants.items():
        value, error = np.ravel(getattr(found, name))
        assert abs(value - want) < 5 * error, name
        assert error < 0.02 * want, name  # a factor of 1.1 would be seen
    assert found.log_num_points == np.log(NUM)
    kl = found.mutual_information.value + found.marginal_kl.value
    np.testing.assert_allclose(found.kl.value, kl, rtol=1e-5)
    # One dimension: its KL is all of it, by the closed form, and exact.
    np.testing.assert_allclose(found.per_dimension.value, [mutual + marginal], rtol=1e-5)
    np.testing.assert_array_equal(found.per_dimension.standard_error, [0.0])
    np.testing.assert_array_equal(found.prior_mean.value, THETA.prior_mean)
    np.testing.assert_array_equal(found.prior_variance.value, [1.0])


def test_errors_are_those_of_repeats_and_of_the_choice_of_points(truth):
    def estimates(num_points, num_samples):
        run = lambda key: surgery(key, *ARGUMENTS, num_samples, num_points=num_points)  # noqa: E731
        return jax.device_get([run(jax.random.key(seed)) for seed in range(60)])

    for num_points, num_samples in ((None, 200), (10, 5)):
        found = estimates(num_points, num_samples)
        for name, want in (("mutual_information", truth[0]), ("kl", truth[0] + truth[1])):
            values = np.array([getattr(one, name).value for one in found])
            errors = np.array([getattr(one, name).standard_error for one in found])
            stated = np.sqrt((errors**2).mean())
            assert abs(values.mean() - want) < 5 * stated / np.sqrt(60), name
            assert abs(values.std(ddof=1) / stated - 1) < 5 / np.sqrt(120), name


def test_the_index_is_capped_by_the_number_of_points():
    """q(z | x_n) so narrow that z determines n: the mutual information is log N."""
    narrow = PHI._replace(offset=PHI.offset._replace(log_scale=jnp.array([-12.0])))
    found = surgery(jax.random.key(1), MODEL(THETA), GUIDE(narrow), X, 200)
    np.testing.assert_allclose(found.mutual_information.value, np.log(NUM), atol=2e-3)
    blind = PHI._replace(network=jnp.zeros((1, 1)))
    found = surgery(jax.random.key(1), MODEL(THETA), GUIDE(blind), X, 200)
    np.testing.assert_allclose(found.mutual_information.value, 0, atol=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    z = jnp.linspace(-3, 3, 7)[:, None]
    want = logsumexp(norm.logpdf(z, 1.1 + 0.7 * X.T, SCALE), axis=1) - np.log(NUM)
    for block in (7, 7 * 11, 10_000):  # one point at a time, a last block of 7 of 11, all at once
        monkeypatch.setattr("lvm_jax.decomposition.aggregate.BLOCK", block)
        found = log_aggregate(GUIDE(PHI), X, z)
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_bits_by_counting():
    """Three bits: everything by the sum over the eight z, and the KL of each bit."""
    model, theta, x, z, *_ = CASES["bits"]()
    guide = guides.linear(guides.bernoulli(3), 2)
    phi = guides.Amortized(
        guides.families.Logits(jnp.array([0.3, -0.8, 0.1])),
        jnp.array([[0.9, -0.4], [0.2, 0.7], [-0.6, 0.3]]),
    )
    logits = np.asarray(phi.offset.logits[None] + x @ phi.network.T, float)  # [2, 3]
    prior = np.asarray(theta.logits, float)
    bits = np.asarray(z, float)
    log_q = bits @ logits.T - np.logaddexp(0, logits).sum(1)  # [8, 2]
    log_p = bits @ prior - np.logaddexp(0, prior).sum()
    mixed = logsumexp(log_q, axis=1) - np.log(2)
    mutual = (np.exp(log_q) * (log_q - mixed[:, None])).sum(0).mean()
    marginal = (np.exp(mixed) * (mixed - log_p)).sum()
    p, p0 = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-prior))
    each = (p * np.log(p / p0) + (1 - p) * np.log((1 - p) / (1 - p0))).mean(0)
    found = surgery(jax.random.key(3), model(theta), guide(phi), x, 20_000)
    for measured, want in (
        (found.mutual_information, mutual), (found.marginal_kl, marginal),
        (found.per_dimension, each), (found.mean, p.mean(0)),
    ):  # fmt: skip
        assert (np.abs(measured.value - want) < 5 * measured.standard_error).all()
        assert (measured.standard_error < 0.02 * np.abs(want) + 1e-3).all()
    np.testing.assert_allclose(found.prior_mean.value, p0, atol=5 * 0.5 / 100)


def test_a_full_covariance_has_a_kl_of_each_marginal():
    model, theta, x, *_ = CASES["diagonal"]()
    q, prior = model.posterior(theta, x[0]), model.prior(theta)
    marginals = distributions.normal(q.mean, jnp.sqrt((q.cholesky**2).sum(1)))
    want = kl_per_dimension(marginals, prior)
    for row in _per_dimension(q, prior, None):
        np.testing.assert_allclose(row, want, rtol=1e-5)


def test_moments_of_the_prior():
    full = distributions.FullRankNormal(
        jnp.array([0.4, -1.0]), jnp.array([[0.5, 0.0], [-0.7, 1.3]])
    )
    mean, variance = _prior_moments(jax.random.key(0), full)
    np.testing.assert_array_equal(mean.value, full.mean)
    np.testing.assert_allclose(variance.value, [0.25, 0.49 + 1.69], rtol=1e-5)
    assert not np.any([mean.standard_error, variance.standard_error])
    # Bits have no Gaussian's closed form: 10,000 draws.
    p = 1 / (1 + np.exp([1.0, -0.3]))
    drawn = _prior_moments(jax.random.key(0), distributions.Bernoulli(jnp.array([-1.0, 0.3])))
    for found, truth in zip(drawn, (p, p * (1 - p)), strict=True):
        assert (np.abs(found.value - truth) < 5 * found.standard_error).all()
    np.testing.assert_allclose(drawn[0].standard_error, np.sqrt(p * (1 - p)) / 100, rtol=0.05)


def test_no_marginals_of_a_flow():
    flow = jax.eval_shape(guides.flow_family("iaf", 2, 1, (3,)).init, jax.random.key(0))
    prior = distributions.normal(jnp.zeros(2), jnp.ones(2))
    assert _per_dimension(flow, prior, jnp.zeros((3, 2))) is None


def test_refusals():
    for options, message in (
        ({"num_samples": 1}, "num_samples: expected an integer >= 2"),
        ({"num_points": NUM + 1}, "num_points: expected at most the 40 points of x, got 41"),
        ({"num_points": 1}, "num_points: expected at least 2 of many points"),
    ):
        with pytest.raises(ValueError, match=message):
            surgery(jax.random.key(0), *ARGUMENTS, **options)


def test_padded_rows_do_not_count():
    from lvm_jax.decomposition.aggregate import of_points

    values = np.random.default_rng(5).normal(size=(7, 3, 2)).astype(np.float32)
    odd = np.concatenate([values, np.full((4, 3, 2), np.nan, np.float32)])
    for total in (7, 12):
        plain, padded = of_points(values, total), of_points(odd, total, chosen=7)
        np.testing.assert_allclose(padded.value, values.mean((0, 1)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(padded.standard_error, plain.standard_error, rtol=1e-6)
        means, share = values.mean(1), 7 / total
        within = share * values.var(1, ddof=1).mean(0) / (7 * 3)
        error = np.sqrt((1 - share) * means.var(0, ddof=1) / 7 + within)
        np.testing.assert_allclose(plain.standard_error, error, rtol=1e-5)
