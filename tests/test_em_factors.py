"""Mixtures of factor analysers against SciPy, scikit-learn, closed forms and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.decomposition import FactorAnalysis

from lvm_jax import em
from lvm_jax.em.factors import Factors
from lvm_jax.em.gaussian import Gaussians

N, D, K, Q = 101, 5, 2, 2
KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
LOADINGS = RNG.normal(size=(K, D, Q))
NOISE = RNG.uniform(0.3, 1.0, (K, D))
LABEL = np.arange(N) % K
CENTRES = np.array([[0.0] * D, [4.0] * D])
X = CENTRES[LABEL] + np.einsum("ndq,nq->nd", LOADINGS[LABEL], RNG.normal(size=(N, Q)))
X += np.sqrt(NOISE[LABEL]) * RNG.normal(size=(N, D))
WEIGHT = RNG.integers(1, 4, N).astype(float)
OPTIONS = {"regularization": 0.0, "tolerance": 0.0, "throw": False}
FAMILIES = {name: em.FactorAnalyzers(Q, name) for name in ("diagonal", "isotropic")}


def start(family, dtype=np.float64, factor=1.0, offset=0.0):
    """A mixture with generic parameters, and the same as (pi, mu, Lambda, Psi)."""
    rng = np.random.default_rng(2)
    mu = np.float32(offset + CENTRES + rng.normal(size=(K, D))).astype(dtype)
    loadings = np.float32(factor * LOADINGS + 0.3 * rng.normal(size=(K, D, Q))).astype(dtype)
    scale = np.float32(rng.uniform(0.5, 2.0, (K, D) if family.noise == "diagonal" else K))
    pi, origin, scale = np.array([0.6, 0.4], dtype), mu[0], scale.astype(dtype)
    normal = Gaussians(jnp.asarray(mu - origin), jnp.asarray(scale), jnp.zeros((K, D), dtype))
    components = Factors(normal, jnp.asarray(loadings))
    mixture = em.Mixture(jnp.log(jnp.asarray(pi)), components, jnp.asarray(origin), family)
    psi = np.broadcast_to(scale.reshape(K, -1) ** 2, (K, D))
    return mixture, (pi, mu, loadings, psi)


def numbers(mixture):
    normal, loadings = mixture.components
    psi = np.broadcast_to(np.asarray(normal.scale).reshape(K, -1) ** 2, (K, D))
    values = mixture.weights, mixture.means, loadings, psi
    return tuple(np.asarray(value, np.float64) for value in values)


def covariances(loadings, psi):
    return loadings @ loadings.transpose(0, 2, 1) + np.stack([np.diag(p) for p in psi])


def log_joint(x, pi, mu, loadings, psi):
    laws = map(stats.multivariate_normal, mu, covariances(loadings, psi))
    return np.log(pi) + np.stack([law.logpdf(x) for law in laws], 1)


def step(x, weight, state, noise):
    """One step of EM (Ghahramani and Hinton 1996, equations 5 to 8), with (z, 1) as regressors."""
    _, mu, loadings, psi = state
    logits = log_joint(x, *state)
    log_p = logsumexp(logits, axis=1)
    resp = np.exp(logits - log_p[:, None]) * weight[:, None]
    new = []
    for k in range(K):
        beta = loadings[k].T @ np.linalg.inv(covariances(loadings, psi)[k])
        z, r = (x - mu[k]) @ beta.T, resp[:, k]
        both, count = np.c_[z, np.ones(len(x))], r.sum()
        second = (both * r[:, None]).T @ both
        second[:Q, :Q] += count * (np.eye(Q) - beta @ loadings[k])
        wide = (x * r[:, None]).T @ both @ np.linalg.inv(second)
        rest = r @ x**2 - (wide * ((x * r[:, None]).T @ both)).sum(1)
        rest = rest / count if noise == "diagonal" else np.full(D, rest.mean() / count)
        new.append((wide[:, Q], wide[:, :Q], rest))
    state = resp.sum(0) / resp.sum(), *(np.stack(part) for part in zip(*new, strict=True))
    return state, weight @ log_p / weight.sum()


@pytest.mark.parametrize("noise", FAMILIES)
def test_density_and_steps_are_those_of_the_definition(x64, noise):
    mixture, state = start(FAMILIES[noise])
    expected = logsumexp(log_joint(X, *state), axis=1)
    np.testing.assert_allclose(mixture.log_prob(X), expected, rtol=1e-12)
    np.testing.assert_allclose(mixture.covariances, covariances(*state[2:]), rtol=1e-12)
    options = OPTIONS | {"start": mixture, "sample_weight": WEIGHT}
    fit = em.fit(KEY, X, K, FAMILIES[noise], max_steps=3, **options)
    trace = []
    for _ in range(3):
        state, value = step(X, WEIGHT, state, noise)
        trace.append(value)
    for got, want in zip(numbers(fit.mixture), state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-12)
    long = em.fit(KEY, X, K, FAMILIES[noise], max_steps=60, **options).info.trace
    assert np.diff(long).min() >= -1e-12
    assert long[-1] - long[0] > 0.1
    free = D + D * Q - 1 + (D if noise == "diagonal" else 1)
    assert fit.mixture.num_parameters == K * free + K - 1


def test_data_that_stream_have_the_same_fit(x64):
    family, options = FAMILIES["diagonal"], OPTIONS | {"max_steps": 10, "sample_weight": WEIGHT}
    options["start"] = start(family)[0]
    fit = em.fit(KEY, X, K, family, **options)
    streamed = em.fit(KEY, lambda: iter(np.array_split(X, 3)), K, family, **options)
    np.testing.assert_allclose(streamed.info.trace, fit.info.trace, rtol=1e-11)
    thirds = zip(np.array_split(X, 3), np.array_split(WEIGHT, 3), strict=True)
    parts = [em.accumulate(options["start"], *third) for third in thirds]
    once = em.maximize(sum(parts), options["start"], regularization=0.0)
    state, _ = step(X, WEIGHT, start(family)[1], "diagonal")
    for got, want in zip(numbers(once), state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


def test_one_component_has_the_closed_form_of_probabilistic_pca(x64):
    fit = em.fit(KEY, X, 1, FAMILIES["isotropic"], tolerance=1e-14, max_steps=5_000,
                 acceleration="squarem")  # fmt: skip
    values = np.linalg.eigvalsh(np.cov(X.T, ddof=0))[::-1]
    noise = values[Q:].mean()  # Tipping and Bishop (1999), equation 8
    log_det = np.log(values[:Q]).sum() + (D - Q) * np.log(noise)
    best = -0.5 * (D * np.log(2 * np.pi) + log_det + D)
    assert best - 1e-10 < fit.info.log_likelihood < best + 1e-12
    np.testing.assert_allclose(fit.mixture.components.normal.scale[0] ** 2, noise, rtol=1e-4)
    np.testing.assert_allclose(fit.mixture.means[0], X.mean(0), rtol=1e-12)


def fit_one(x, regularization):
    options = {"tolerance": 1e-13, "max_steps": 20_000, "regularization": regularization}
    return em.fit(KEY, x, 1, FAMILIES["diagonal"], acceleration="squarem", **options)


def test_one_component_is_sklearns_factor_analysis(x64):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(N, Q)) @ LOADINGS[0].T + 0.7 * rng.normal(size=(N, D))
    fit = fit_one(x, 0.05)
    theirs = FactorAnalysis(Q, tol=1e-13, max_iter=20_000, svd_method="lapack").fit(x)
    assert (theirs.noise_variance_ > 0.05).all()  # so that the floor changes nothing
    assert fit.info.boundary == ()
    assert fit.info.log_likelihood == pytest.approx(theirs.score(x), abs=1e-9)


def test_a_heywood_case_is_counted(x64):
    x = np.random.default_rng(3).normal(size=(N, D))
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    with pytest.warns(
        UserWarning, match=r"noise variances of components \(0,\) are at their floor"
    ):
        fit = fit_one(x, 0.01)
    scale = np.asarray(fit.mixture.components.normal.scale[0])
    number = (scale**2 < 0.0100001).sum()
    assert number >= 2
    assert fit.info.boundary == (
        f"{number} noise variances of components (0,) are at their floor, regularization = 0.01 "
        "(a Heywood case)",
    )
    assert np.diff(fit.info.trace).min() >= -1e-9


@pytest.mark.parametrize(("offset", "factor"), [(1e4, 1.0), (0.0, 1e3)])
def test_float32_keeps_the_digits_of_small_noise_and_of_far_rows(offset, factor):
    latents = np.random.default_rng(7).normal(size=(N, Q))
    z = np.einsum("ndq,nq->nd", LOADINGS[LABEL], latents)
    x = (offset + X + (factor - 1) * z).astype(np.float32)
    family, found = FAMILIES["diagonal"], []
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            mixture = start(family, dtype, factor, offset)[0]
            rows = x.astype(dtype)
            options = OPTIONS | {"sample_weight": WEIGHT, "max_steps": 10}
            fit = em.fit(KEY, rows, K, family, start=mixture, **options)
            found.append((fit.info.trace, *numbers(fit.mixture), fit.mixture.log_prob(rows)))
    single, double = found
    np.testing.assert_allclose(single[0], double[0], rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(single[1], double[1], rtol=1e-4)
    np.testing.assert_allclose(single[4], double[4], rtol=2e-3)
    np.testing.assert_allclose(single[5], double[5], rtol=0, atol=1e-2)


def test_samples_have_the_moments():
    mixture = start(FAMILIES["isotropic"], np.float32)[0]
    draws, z = map(np.asarray, mixture.sample(KEY, 20_000))
    for k in range(K):
        rows, sigma = draws[z == k], np.asarray(mixture.covariances[k])
        error = np.sqrt(np.diag(sigma) / len(rows))
        assert (np.abs(rows.mean(0) - mixture.means[k]) < 5 * error).all()
        error = np.sqrt((np.outer(np.diag(sigma), np.diag(sigma)) + sigma**2) / len(rows))
        assert (np.abs(np.cov(rows.T) - sigma) < 5 * error).all()


@pytest.mark.parametrize("noise", FAMILIES)
def test_coordinates_have_unit_fisher_information_of_complete_data(x64, noise):
    family, size = FAMILIES[noise], np.sqrt([0.3, 0.7])
    at = start(family)[0].components
    free = family.unconstrain(at, at, size)
    back = family.constrain(free, at, size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), back, at)
    moved = family.constrain(free._replace(loadings=free.loadings + 1e-3), at, size)
    scale = np.asarray(at.normal.scale).reshape(K, -1)
    step = np.broadcast_to(scale / size[:, None], (K, D))  # E[z z^T] = I
    change = np.asarray(moved.loadings - at.loadings)
    np.testing.assert_allclose(change / 1e-3, np.repeat(step[..., None], Q, 2), rtol=1e-9)


def test_summaries_merge_and_scale(x64):
    family, (mixture, _) = FAMILIES["diagonal"], start(FAMILIES["diagonal"])
    components = mixture.components
    resp = np.random.default_rng(4).uniform(size=(N, K))
    resp[:40, 1] = 0  # a component without rows in the first block

    @jax.jit
    def summary(x, resp):
        return family.summarize_expected(components, x, family.expectation(components, x), resp)

    x = X - np.asarray(mixture.origin)
    whole = summary(x, resp)
    merged = family.merge(summary(x[:40], resp[:40]), summary(x[40:], resp[40:]))
    half = family.reweight(whole, jnp.asarray(0.5))
    for got, want in ((merged, whole), (half, summary(x, resp / 2))):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "rank: expected an integer >= 1, got 0"),
        ((2.0,), TypeError, "rank: expected an integer >= 1, got 2.0"),
        ((2, "full"), ValueError, "noise: expected one of diagonal, isotropic, got 'full'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        em.FactorAnalyzers(*arguments)


def test_bad_data():
    holes, constant = X.copy(), X.copy()
    holes[4, 1], constant[:, 2] = np.nan, 1.0
    with pytest.raises(
        ValueError, match="rank: expected fewer factors than the 5 columns of x, go"
    ):
        em.fit(KEY, X, K, em.FactorAnalyzers(5))
    with pytest.raises(ValueError, match="x: expected finite numbers for FactorAnalyzers .*row 4"):
        em.fit(KEY, holes, K, em.FactorAnalyzers(2))
    with pytest.raises(
        ValueError, match=r"x: expected columns that vary, got constant columns \[2"
    ):
        em.fit(KEY, constant, K, em.FactorAnalyzers(2), regularization=0.0)
