"""Student-t components against SciPy and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import blobs
from scipy import optimize, stats
from scipy.special import digamma, logsumexp, polygamma

from lvm_jax import em
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.student import Students, solve_degrees

N, D, K = 101, 3, 3
KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
X = blobs(N, D, K)
X[::9] += 6 * RNG.normal(size=X[::9].shape)  # outliers
WEIGHT = RNG.integers(1, 4, N).astype(float)
OPTIONS = {"regularization": 0.0, "tolerance": 0.0, "throw": False}
FAMILIES = {
    "full": em.Student(),
    "diag, tied": em.Student("diag", degrees="tied"),
    "spherical, fixed": em.Student("spherical", degrees=4.0),
}


def start(family, x=X, size=1.0):
    """A mixture with generic parameters, and the same as (pi, mu, Sigma, nu)."""
    rng = np.random.default_rng(2)
    factor = np.linalg.cholesky(np.cov(rng.normal(size=(K, D, 9)).reshape(K * D, 9))[:D, :D])
    scale = size * np.stack([(k + 1) * factor for k in range(K)])
    if family.covariance_type == "diag":
        scale = np.diagonal(scale, axis1=1, axis2=2)
    elif family.covariance_type == "spherical":
        scale = scale[:, 0, 0]
    nu = np.array([3.0, 8.0, 30.0]) if family.degrees == "free" else np.full(K, 4.0)
    if not isinstance(family.degrees, str):
        nu = np.full(K, family.degrees)
    mu, pi = x[[3, 50, 80]], np.array([0.5, 0.3, 0.2])
    origin = mu.mean(0)
    normal = Gaussians(jnp.asarray(mu - origin), jnp.asarray(scale.astype(x.dtype)), None)
    normal = family.normal.complete(normal)
    components = Students(normal, jnp.asarray(nu.astype(x.dtype)))
    log_weights = jnp.log(jnp.asarray(pi.astype(x.dtype)))
    mixture = em.Mixture(log_weights, components, jnp.asarray(origin), family)
    return mixture, (pi, mu, np.asarray(family.scales(components), np.float64), nu)


def log_joint(x, pi, mu, sigma, nu):
    laws = [stats.multivariate_t(*each) for each in zip(mu, sigma, nu, strict=True)]
    return np.log(pi) + np.stack([law.logpdf(x) for law in laws], 1)


def reduced(sigma, kind):
    if kind == "full":
        return sigma
    diagonal = np.diagonal(sigma, axis1=1, axis2=2)
    if kind == "spherical":
        diagonal = np.repeat(diagonal.mean(1, keepdims=True), D, 1)
    return np.stack([np.diag(d) for d in diagonal])


def step(x, weight, state, family):
    """One step of PX-EM: the new state, and the mean log-likelihood before it."""
    _, mu, sigma, nu = state
    logits = log_joint(x, *state)
    log_p = logsumexp(logits, axis=1)
    resp = np.exp(logits - log_p[:, None]) * weight[:, None]
    d = x[:, None] - mu
    distance = np.einsum("nki,kij,nkj->nk", d, np.linalg.inv(sigma), d)
    u = (nu + D) / (nu + distance)
    log_u = np.log(u) + digamma((nu + D) / 2) - np.log((nu + D) / 2)
    counts, weights = resp.sum(0), (resp * u).sum(0)
    mu = (resp * u).T @ x / weights[:, None]
    d = x[:, None] - mu
    sigma = np.einsum("nk,nki,nkj->kij", resp * u, d, d) / weights[:, None, None]
    excess = np.log(weights / counts) - (resp * log_u).sum(0) / counts
    if family.degrees == "tied":
        excess = np.full(K, counts @ excess / counts.sum())
    if isinstance(family.degrees, str):
        equation = lambda v, c: np.log(v / 2) - digamma(v / 2) - c  # noqa: E731
        nu = np.array([optimize.brentq(equation, 1e-3, 1e5, (c,), 1e-13) for c in excess])
    state = counts / counts.sum(), mu, reduced(sigma, family.covariance_type), nu
    return state, weight @ log_p / weight.sum()


def numbers(mixture):
    components = mixture.components
    values = mixture.weights, mixture.means, mixture.family.scales(components), components.degrees
    return tuple(np.asarray(value, np.float64) for value in values)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_density_and_steps_are_those_of_the_definition(x64, family):
    mixture, state = start(family)
    expected = logsumexp(log_joint(X, *state), axis=1)
    np.testing.assert_allclose(mixture.log_prob(X), expected, rtol=1e-12)
    fit = em.fit(KEY, X, K, family, start=mixture, max_steps=3, sample_weight=WEIGHT, **OPTIONS)
    trace = []
    for _ in range(3):
        state, value = step(X, WEIGHT, state, family)
        trace.append(value)
    for got, want in zip(numbers(fit.mixture), state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-12)
    sizes = {"full": K * (D + 6) + K, "diag": 2 * K * D + 1, "spherical": K * (D + 1)}
    assert fit.mixture.num_parameters == sizes[family.covariance_type] + K - 1
    long = em.fit(KEY, X, K, family, start=mixture, max_steps=60, sample_weight=WEIGHT, **OPTIONS)
    assert np.diff(long.info.trace).min() >= -1e-12
    assert long.info.trace[-1] - long.info.trace[0] > 0.02


def test_data_that_stream_have_the_same_fit(x64):
    family = em.Student()
    options = OPTIONS | {"start": start(family)[0], "max_steps": 10, "sample_weight": WEIGHT}
    fit = em.fit(KEY, X, K, family, **options)
    streamed = em.fit(KEY, lambda: iter(np.array_split(X, 3)), K, family, **options)
    np.testing.assert_allclose(streamed.info.trace, fit.info.trace, rtol=1e-11)
    for got, want in zip(numbers(streamed.mixture), numbers(fit.mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8)
    halves = zip(np.array_split(X, 2), np.array_split(WEIGHT, 2), strict=True)
    parts = [em.accumulate(options["start"], *half) for half in halves]
    once = em.maximize(sum(parts), options["start"], regularization=0.0)
    whole = em.fit(KEY, X, K, family, **options | {"max_steps": 1}).mixture
    for got, want in zip(numbers(once), numbers(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_one_component_has_the_maximum_of_scipy(x64):
    x = stats.t(df=4, loc=2, scale=3).rvs(N, random_state=3)
    fit = em.fit(KEY, x[:, None], 1, em.Student(), regularization=0.0, tolerance=1e-13,
                 max_steps=5_000, acceleration="squarem")  # fmt: skip
    degrees, location, scale = stats.t.fit(x)
    best = stats.t.logpdf(x, degrees, location, scale).mean()
    assert best - 1e-9 < fit.info.log_likelihood < best + 1e-6
    np.testing.assert_allclose(fit.mixture.components.degrees, [degrees], rtol=1e-2)
    assert (np.diff(fit.info.trace) > -1e-13).all()


def test_degrees_solve_their_equation_within_the_bounds():
    nu = np.geomspace(0.5, 200, 50).astype(np.float32)
    wide = nu.astype(np.float64)
    excess = np.log(wide / 2) - digamma(wide / 2)
    solve = jax.jit(lambda c: solve_degrees(c, (0.5, 200.0)))
    np.testing.assert_allclose(solve(excess.astype(np.float32)), nu, rtol=2e-3)
    np.testing.assert_allclose(solve(np.float32([-1e-7, 0, 1e-6, 9.0])), [200, 200, 200, 0.5])
    with jax.enable_x64(True):
        np.testing.assert_allclose(solve(excess), wide, rtol=1e-10)


def test_degrees_at_their_limit_are_said(x64):
    x = np.random.default_rng(5).uniform(size=(N, 1))
    options = {"regularization": 0.0, "tolerance": 1e-9, "max_steps": 5_000}
    with pytest.warns(
        UserWarning, match=r"degrees of freedom of components \(0,\) are at their li"
    ):
        fit = em.fit(KEY, x, 1, em.Student(), acceleration="squarem", **options)
    assert fit.info.boundary == (
        "the degrees of freedom of components (0,) are at their limit 200",
    )
    assert float(fit.mixture.components.degrees[0]) == 200


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_float32_keeps_the_digits_of_tight_clusters_far_away(offset):
    x = (1e-3 * (offset + X)).astype(np.float32)
    family, found = em.Student(), []
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            rows = x.astype(dtype)
            mixture = start(family, rows, 1e-3)[0]
            options = OPTIONS | {"sample_weight": WEIGHT, "max_steps": 10}
            fit = em.fit(KEY, rows, K, family, start=mixture, **options)
            found.append((fit.info.trace, *numbers(fit.mixture), fit.mixture.log_prob(rows)))
    single, double = found
    np.testing.assert_allclose(single[0], double[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(single[1], double[1], rtol=1e-4)
    np.testing.assert_allclose(single[3], double[3], rtol=0, atol=1e-3 * np.abs(double[3]).max())
    np.testing.assert_allclose(single[4], double[4], rtol=1e-2)
    np.testing.assert_allclose(single[5], double[5], rtol=0, atol=1e-3)


def test_samples_have_the_moments():
    family = em.Student("diag", degrees=9.0)
    mixture = start(family, X.astype(np.float32))[0]
    draws, z = map(np.asarray, mixture.sample(KEY, 20_000))
    for k in range(K):
        rows, sigma = draws[z == k], np.diag(np.asarray(family.scales(mixture.components)[k]))
        variance, kurtosis = 9 / 7 * sigma, 3 + 6 / 5
        assert (np.abs(rows.mean(0) - mixture.means[k]) < 5 * np.sqrt(variance / len(rows))).all()
        error = variance * np.sqrt((kurtosis - 1) / len(rows))
        assert (np.abs(rows.var(0) - variance) < 5 * error).all()


def test_coordinates_of_the_degrees_have_unit_fisher_information(x64):
    family, size = em.Student("spherical"), np.sqrt([0.3, 0.3, 0.4])
    at = start(family)[0].components
    free = family.unconstrain(at, at, size)
    back = family.constrain(free, at, size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), back, at)
    moved = family.constrain(free._replace(degrees=free.degrees + 1e-4), at, size)
    a, b = np.asarray(at.degrees) / 2, np.asarray(moved.degrees) / 2
    information = size**2 * (polygamma(1, a) - 1 / a)  # of a = nu / 2 in Gamma(a, a)
    np.testing.assert_allclose((b - a) / 1e-4, 1 / np.sqrt(information), rtol=1e-3)


def test_half_the_weights_are_half_the_sums(x64):
    family = FAMILIES["full"]
    components = start(family)[0].components
    x, resp = jnp.asarray(X), jnp.asarray(np.random.default_rng(4).uniform(size=(N, K)))
    expected = family.expectation(components, x)
    whole, half = (family.summarize_expected(components, x, expected, r) for r in (resp, resp / 2))
    scaled = family.reweight(whole, jnp.asarray(0.5))
    for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(half), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("tied",), ValueError, "covariance_type: expected one of full, diag, spherical"),
        (("full", "own"), ValueError, "degrees: expected one of free, tied, got 'own'"),
        (("full", 0.0), ValueError, "degrees: expected a positive number, got 0"),
        (("full", None), TypeError, "degrees: expected a number >= 0, got None"),
        (("full", "free", (5.0, 2.0)), ValueError, r"bounds: expected 0 < low < high"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        em.Student(*arguments)


def test_bad_data():
    holes, constant = X.copy(), X.copy()
    holes[4, 1], constant[:, 2] = np.nan, 1.0
    with pytest.raises(
        ValueError, match="x: expected finite numbers for Student .*row 4, column 1"
    ):
        em.fit(KEY, holes, K, em.Student("diag"))
    with pytest.raises(
        ValueError, match=r"x: expected columns that vary, got constant columns \[2"
    ):
        em.fit(KEY, constant, K, em.Student(), regularization=0.0)
    with pytest.raises(TypeError, match="prior.components: .* on Gaussians"):
        em.fit(KEY, X, K, em.Student(), prior=em.default_prior(X, K))
    with pytest.raises(TypeError, match="covariances: Student components have none"):
        _ = start(em.Student(), X.astype(np.float32))[0].covariances


def test_missing_entries_have_the_step_of_the_definition(x64):
    family = em.Student()
    holes = np.where(np.random.default_rng(6).random((N, D)) < 0.25, np.nan, X)
    holes[np.isnan(holes).all(1), 0] = 1.0
    mixture, (pi, mu, sigma, nu) = start(family)
    live = ~np.isnan(holes)
    log_p, u, log_u = (np.empty((N, K)) for _ in range(3))
    filled, unknown = np.empty((N, K, D)), np.zeros((N, K, D, D))
    for n, k in np.ndindex(N, K):
        o, m = live[n], ~live[n]
        gain = sigma[k][m][:, o] @ np.linalg.inv(sigma[k][o][:, o])
        d = holes[n, o] - mu[k][o]
        distance, a = d @ np.linalg.solve(sigma[k][o][:, o], d), (nu[k] + o.sum()) / 2
        law = stats.multivariate_t(mu[k][o], sigma[k][o][:, o], nu[k])
        log_p[n, k] = np.log(pi[k]) + law.logpdf(holes[n, o])
        u[n, k] = 2 * a / (nu[k] + distance)
        log_u[n, k] = np.log(u[n, k]) + digamma(a) - np.log(a)
        filled[n, k, o], filled[n, k, m] = holes[n, o], mu[k][m] + gain @ d
        unknown[n, k][np.ix_(m, m)] = sigma[k][m][:, m] - gain @ sigma[k][o][:, m]
    np.testing.assert_allclose(mixture.log_prob(holes), logsumexp(log_p, axis=1), rtol=1e-11)
    resp = np.exp(log_p - logsumexp(log_p, axis=1)[:, None])
    expected = np.einsum("nk,nkd->nd", resp, filled)
    np.testing.assert_allclose(mixture.impute(holes), expected, rtol=1e-11)
    options = OPTIONS | {"start": mixture, "max_steps": 1}
    fit = em.fit(KEY, holes, K, family, **options)
    size = (resp * u).sum(0)
    mean = np.einsum("nk,nkd->kd", resp * u, filled) / size[:, None]
    d = filled - mean
    scatter = np.einsum("nk,nki,nkj->kij", resp * u, d, d) + np.einsum(
        "nk,nkij->kij", resp, unknown
    )
    excess = np.log(size / resp.sum(0)) - (resp * log_u).sum(0) / resp.sum(0)
    found = numbers(fit.mixture)
    np.testing.assert_allclose(found[1], mean, rtol=1e-10)
    np.testing.assert_allclose(found[2], scatter / size[:, None, None], rtol=1e-10)
    np.testing.assert_allclose(np.log(found[3] / 2) - digamma(found[3] / 2), excess, rtol=1e-9)
    assert fit.mixture.family == family
    trace = em.fit(KEY, holes, K, family, **options | {"max_steps": 40}).info.trace
    assert np.diff(trace).min() >= -1e-12
    with pytest.raises(TypeError, match="sample_missing: Student components have none"):
        mixture.sample_missing(KEY, holes)
