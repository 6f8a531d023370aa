"""Standard errors, the bootstrap and the likelihood-ratio test of mixtures."""

import warnings

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import data, em
from lvm_jax.em import fisher
from lvm_jax.em.refits import Refits
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.sklearn import GaussianMixture

KEY = jax.random.key(0)
FAITHFUL = np.asarray(data.old_faithful().x, np.float64)
SURE = {"tolerance": 1e-11, "max_steps": 2000, "regularization": 0.0, "acceleration": "squarem"}
RNG = np.random.default_rng(0)
WEIGHT = RNG.integers(1, 4, len(FAITHFUL)).astype(float)


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        found = em.fit(KEY, FAITHFUL, 2, sample_weight=WEIGHT, **SURE)
    return found._replace(mixture=jax.tree.map(np.asarray, found.mixture))


def natural(mixture):
    """w_1, means and lower triangles of two Gaussians in the plane as a vector."""
    scale = mixture.components.scale
    covariances = (scale @ np.swapaxes(scale, 1, 2))[:, (0, 1, 1), (0, 0, 1)]
    parts = (np.exp(mixture.log_weights[:1]), np.ravel(mixture.means), covariances.ravel())
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def log_prob(theta, x):
    pi, means = np.array([theta[0], 1 - theta[0]]), theta[1:5].reshape(2, 2)
    a, b, c = theta[5:].reshape(2, 3).T
    matrices = np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -1)
    joint = [
        np.log(pi[k]) + stats.multivariate_normal(means[k], matrices[k]).logpdf(x) for k in range(2)
    ]
    return logsumexp(joint, axis=0)


def numerical(theta, x, weight):
    """Outer products of scores and the negative Hessian, by central differences."""
    steps = 1e-4 * np.diag(np.abs(theta))
    scores = [(log_prob(theta + h, x) - log_prob(theta - h, x)) / (2 * h.sum()) for h in steps]
    outer = np.array(scores) * weight @ np.array(scores).T

    def second(g, h):
        corners = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        total = sum(s * t * (weight @ log_prob(theta + s * g + t * h, x)) for s, t in corners)
        return -total / (4 * g.sum() * h.sum())

    return outer, np.array([[second(g, h) for h in steps] for g in steps])


def test_covariance_matrices_are_those_of_numerical_derivatives(fit):
    outer, hessian = numerical(natural(fit.mixture), FAITHFUL, WEIGHT)
    inverse = np.linalg.inv(hessian)
    expected = {
        "scores": np.linalg.inv(outer), "hessian": inverse, "sandwich": inverse @ outer @ inverse,
    }  # fmt: skip
    for kind, covariance in expected.items():
        found = em.standard_errors(fit, FAITHFUL, WEIGHT, kind=kind, with_covariance=True)
        assert found.names[:3] == ("weights[0]", "weights[1]", "means[0, 0]")
        assert found.names[-1] == "covariances[1, 1, 1]"
        own = np.delete(np.delete(found.covariance, 1, 0), 1, 1)  # without the second weight
        scale = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(own / scale / scale[:, None], covariance / scale / scale[:, None],
                                   atol=2e-4)  # fmt: skip
        np.testing.assert_allclose(found.means.ravel(), scale[1:5], rtol=1e-4)
        np.testing.assert_allclose(found.weights, scale[[0, 0]], rtol=1e-4)
        assert found.distance < 1e-3
        assert found.problems == ()


def test_chunks_files_and_float32_have_the_same_errors(fit, monkeypatch, tmp_path):
    whole = em.standard_errors(fit, FAITHFUL, WEIGHT, kind="scores")
    narrow = jax.tree.map(lambda leaf: leaf.astype(np.float32), fit.mixture)
    found = em.standard_errors(narrow, FAITHFUL, WEIGHT, kind="scores")
    np.testing.assert_allclose(found.means, whole.means, rtol=1e-4)
    monkeypatch.setattr(fisher, "CHUNK_FLOATS", 64 * 43)
    np.save(tmp_path / "x.npy", FAITHFUL)
    for rows in (FAITHFUL, tmp_path / "x.npy"):
        parts = em.standard_errors(fit, rows, WEIGHT, kind="scores")
        np.testing.assert_allclose(parts.means, whole.means, rtol=1e-9)
        np.testing.assert_allclose(parts.covariances, whole.covariances, rtol=1e-9)


def test_one_gaussian_has_closed_forms():
    number, variance, mean = len(FAITHFUL), FAITHFUL.var(0), FAITHFUL.mean(0)
    single = em.gaussian_mixture([1.0], mean[None], np.cov(FAITHFUL.T, bias=True)[None])
    found = em.standard_errors(single, FAITHFUL, kind="hessian")
    np.testing.assert_allclose(found.means[0], np.sqrt(variance / number), rtol=1e-3)
    expected = variance * np.sqrt(2 / number)
    np.testing.assert_allclose(np.diag(found.covariances[0]), expected, rtol=1e-3)
    robust = em.standard_errors(single, FAITHFUL)  # of a variance: from the fourth moment
    fourth = ((FAITHFUL - mean) ** 2).var(0)
    np.testing.assert_allclose(np.diag(robust.covariances[0]), np.sqrt(fourth / number), rtol=1e-3)
    assert robust.weights[0] == 0


def test_missing_entries_have_no_information():
    holes = np.where(RNG.uniform(size=FAITHFUL.shape) < 0.3, np.nan, FAITHFUL)
    mean, variance = np.nanmean(holes, 0), np.nanvar(holes, 0)
    single = em.gaussian_mixture([1.0], mean[None], variance[None], "diag")
    found = em.standard_errors(single, holes, kind="hessian")
    seen = (~np.isnan(holes)).sum(0)
    np.testing.assert_allclose(found.means[0], np.sqrt(variance / seen), rtol=1e-4)


def test_discrete_families_and_estimates_at_a_boundary():
    zero = (np.zeros(1, np.float32), np.zeros(2, np.float32))
    counts = RNG.poisson([9.0, 0.5], (200, 2)).astype(float)
    rates = counts.mean(0, keepdims=True)
    poisson = em.Mixture(zero[0], rates, zero[1], em.Poisson())
    found = em.standard_errors(poisson, counts, kind="hessian")
    np.testing.assert_allclose(found.components, np.sqrt(rates / 200), rtol=1e-6)
    p = np.array([[(counts[:, 0] > 9).mean(), 1e-6]], np.float32)
    bits = np.stack([counts[:, 0] > 9, np.zeros(200)], 1)
    bernoulli = em.Mixture(zero[0], p, zero[1], em.Bernoulli())
    with pytest.warns(UserWarning, match=r"at a boundary: components\[0, 1\] \(1 in all\)"):
        found = em.standard_errors(bernoulli, bits, kind="hessian", with_covariance=True)
    expected = [[np.sqrt(p[0, 0] * (1 - p[0, 0]) / 200), np.nan]]
    np.testing.assert_allclose(found.components, expected, rtol=1e-3)
    assert np.isnan(found.covariance).sum() == 3


def test_what_the_rows_do_not_determine_is_named(fit):
    components = fit.mixture.components
    moved = components._replace(scale=1.2 * components.scale)
    away = em.Mixture(fit.mixture.log_weights, moved, fit.mixture.origin, em.Full())
    with pytest.warns(UserWarning, match=r"standard errors from the maximum .* lower tolerance"):
        found = em.standard_errors(away, FAITHFUL, WEIGHT, kind="scores")
    assert found.distance > 3
    same = em.gaussian_mixture([0.5, 0.5], np.tile(FAITHFUL.mean(0), (2, 1)),
                               np.tile(np.cov(FAITHFUL.T, bias=True), (2, 1, 1)))  # fmt: skip
    twice = same.components._replace(remainder=np.zeros((2, 2), np.float32))  # as in the fit
    same = em.Mixture(same.log_weights, twice, same.origin, em.Full())
    with pytest.warns(UserWarning, match=r"not determined by these rows: weights\[0\]"):
        found = em.standard_errors(same, FAITHFUL, WEIGHT, kind="scores")
    assert np.isnan(found.weights).all()
    assert np.isnan(found.means).all()
    with np.errstate(divide="ignore"):
        log_weights = np.log([*np.exp(fit.mixture.log_weights[:1]), 0, *np.exp(
            fit.mixture.log_weights[1:])])  # fmt: skip
    twice = em.Full().select(components, np.array([0, 0, 1]))
    known = em.Mixture(log_weights, twice, fit.mixture.origin, em.Full())
    with pytest.warns(UserWarning, match=r"components \[1\] have weight 0"):
        found = em.standard_errors(known, FAITHFUL, WEIGHT)
    whole = em.standard_errors(fit, FAITHFUL, WEIGHT)
    np.testing.assert_allclose(found.means[[0, 2]], whole.means, rtol=1e-3)
    assert np.isnan(found.covariances[1]).all()


def test_the_errors_are_the_spread_of_fits_to_simulated_data(fit):
    rows = np.repeat(FAITHFUL, WEIGHT.astype(int), axis=0)
    spread = em.bootstrap(KEY, fit, rows, 1000, kind="parametric").standard_errors()
    found = em.standard_errors(fit, FAITHFUL, WEIGHT, kind="hessian")
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(found, name), getattr(spread, name), rtol=0.1)


def test_the_bootstrap_has_the_errors_of_the_sandwich(fit):
    found = em.bootstrap(KEY, fit, FAITHFUL, 1000, sample_weight=WEIGHT, tolerance=1e-10)
    assert (found.failed, found.unconverged, found.swapped) == (0, 0, 0)
    errors = em.standard_errors(fit, FAITHFUL, WEIGHT)
    spread = found.standard_errors()
    np.testing.assert_allclose(spread.means, errors.means, rtol=0.12)
    low, high = found.intervals(0.9)
    np.testing.assert_allclose((high.means - low.means) / spread.means, 2 * 1.645, rtol=0.12)
    drawn = em.bootstrap(KEY, fit, FAITHFUL, 1000, kind="nonparametric").standard_errors()
    np.testing.assert_allclose(drawn.weights, spread.weights * np.sqrt(WEIGHT.mean()), rtol=0.12)


def test_the_bootstrap_has_the_errors_of_mclust():
    """MclustBootstrap(Mclust(faithful, 2, "VVV"), 999, "wlbs") of mclust 6.0.0."""
    with jax.enable_x64(True):
        fit = em.fit(KEY, FAITHFUL, 2, sample_weight=np.ones(len(FAITHFUL)), **SURE)
    # The first component of mclust is the upper one.
    order = np.argsort(-np.asarray(fit.mixture.means)[:, 0])
    found = em.bootstrap(KEY, fit, FAITHFUL, 999).standard_errors()
    near = {"rtol": 0.1}  # of two times 999 draws: three standard errors
    np.testing.assert_allclose(found.weights, [0.029779] * 2, **near)
    means = [[0.0329238, 0.4785752], [0.0283628, 0.5820359]]
    np.testing.assert_allclose(found.means[order], means, **near)
    covariances = [
        [[0.0193225, 0.269975], [0.269975, 4.385219]],
        [[0.0141306, 0.166951], [0.166951, 4.118618]],
    ]
    np.testing.assert_allclose(found.covariances[order], covariances, **near)


def test_weighted_means_have_their_exact_variance():
    covariance = np.cov(FAITHFUL.T, bias=True)
    single = em.gaussian_mixture([1.0], FAITHFUL.mean(0)[None], covariance[None])
    found = em.bootstrap(KEY, single, FAITHFUL, 1000)
    exact = FAITHFUL.std(0) / np.sqrt(len(FAITHFUL) + 1)  # of a mean with Dirichlet weights
    np.testing.assert_allclose(found.standard_errors().means[0], exact, rtol=5 / np.sqrt(2000))


def test_components_that_changed_places_return_to_them(fit):
    from lvm_jax.em.bootstrap import finish

    parameters = jax.tree.map(lambda leaf: np.asarray(leaf), fit.mixture.parameters)
    other = MixtureParameters(
        parameters.log_weights[::-1], em.Full().select(parameters.components, np.array([1, 0]))
    )
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), parameters, other, other)
    good = np.array([True, True, False])
    refits = Refits(stacked, np.zeros(3), np.ones(3), np.ones(3))
    cosines = np.stack([np.eye(2), np.eye(2)[::-1], np.eye(2)])
    with jax.enable_x64(True):
        found = finish(fit.mixture, (refits, cosines), good, 1.0, np.asarray(fit.mixture.origin))
    assert (found.failed, found.swapped) == (1, 1)
    np.testing.assert_array_equal(found.estimates.means[0], found.estimates.means[1])


def test_faithful_has_more_than_one_component():
    found = em.likelihood_ratio_test(KEY, FAITHFUL, 1, num_samples=19, num_starts=1)
    assert abs(found.statistic - 319.065) < 0.01  # mclustBootstrapLRT
    assert found.p_value == 1 / 20
    assert found.interval == (0.0, stats.beta.ppf(0.975, 1, 19))


def test_mclusts_three_components_are_a_lower_maximum():
    more = em.likelihood_ratio_test(KEY, FAITHFUL, 2, num_samples=19, num_starts=4)
    # mclustBootstrapLRT: 6.13, from a local maximum at -1127.199
    assert abs(more.log_likelihoods[0] + 1130.264) < 0.001
    assert more.log_likelihoods[1] > -1127.199
    assert more.statistic == 2 * (more.log_likelihoods[1] - more.log_likelihoods[0])
    assert more.p_value == (1 + (more.samples >= more.statistic).sum()) / 20
    total = np.asarray(more.mixtures[1].log_prob(FAITHFUL)).sum()
    assert abs(total - more.log_likelihoods[1]) < 0.1


def test_the_estimator_has_the_errors_of_its_fit():
    estimator = GaussianMixture(2, tol=1e-10, max_iter=1000, random_state=0).fit(FAITHFUL)
    found = np.sort(estimator.standard_errors(FAITHFUL).means, axis=0)
    np.testing.assert_allclose(found, [[0.0284, 0.461], [0.0319, 0.597]], rtol=0.01)


def test_refits_that_fail_are_counted(fit):
    few = np.where(np.arange(len(FAITHFUL)) < 4, 1.0, 0.0)
    options = {"sample_weight": few, "regularization": 0.0}
    with pytest.raises(FloatingPointError, match="all 125 refits failed"):
        em.bootstrap(KEY, fit, FAITHFUL, 125, **options)
    assert em.bootstrap(KEY, fit, FAITHFUL, 125, throw=False, **options).failed == 125


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: em.standard_errors(f, FAITHFUL, kind="robust"), "kind: expected one of"),
        (lambda f: em.standard_errors(3, FAITHFUL), "fit: expected an em.MixtureFit or"),
        (lambda f: em.standard_errors(f, FAITHFUL[:, :1]), "x: expected 2 columns"),
        (lambda f: em.bootstrap(KEY, f, FAITHFUL, 10, kind="jackknife"), "kind: expected one of"),
        (lambda f: em.bootstrap(KEY, f, FAITHFUL, 1), "num_samples: expected"),
        (
            lambda f: em.bootstrap(KEY, f, FAITHFUL, 9, kind="parametric", sample_weight=WEIGHT),
            "sample_weight: expected None with kind='parametric'",
        ),
        (lambda f: em.bootstrap(KEY, f, FAITHFUL[:, :1], 9), "x: expected 2 columns"),
        (lambda f: em.likelihood_ratio_test(KEY, FAITHFUL, 0), "k: expected"),
        (lambda f: em.likelihood_ratio_test(KEY, FAITHFUL[:2], 2), "x: expected at least"),
    ],
)
def test_bad_input_is_named(fit, call, message):
    with pytest.raises((ValueError, TypeError), match=message), warnings.catch_warnings():
        call(fit)
