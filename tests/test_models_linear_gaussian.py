import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Oracle

from lvm_jax import distributions, models
from lvm_jax.compiling import STORE
from lvm_jax.distributions.normals import LogCholesky
from lvm_jax.em import ConvergenceWarning, Outcome
from lvm_jax.models import factor_analysis, linear_gaussian, ppca
from lvm_jax.models.factor_analysis import expect

RNG = np.random.default_rng(0)
N, D, L = 400, 7, 2
LOADINGS = RNG.normal(size=(D, L)) * np.array([2.0, 0.7])
NOISE = np.array([0.3, 1.5, 0.6, 2.0, 0.9, 0.4, 1.1])
MEAN = np.arange(D) - 3.0
X = RNG.normal(size=(N, L)) @ LOADINGS.T + NOISE * RNG.normal(size=(N, D)) + MEAN


@jax.jit
def score(theta, x):
    """Mean log-likelihood of the rows."""
    return jax.vmap(linear_gaussian(L, D).log_evidence, (None, 0))(theta, x).mean()


slope = jax.jit(jax.grad(score))


def with_noise(kind, dim, latent_dim, rng):
    log_noise = {
        "isotropic": jnp.array(-0.3),
        "diagonal": jnp.asarray(rng.normal(size=dim) * 0.3),
        "full": LogCholesky(
            jnp.asarray(rng.normal(size=dim) * 0.2),
            jnp.asarray(rng.normal(size=dim * (dim - 1) // 2) * 0.2),
        ),
    }[kind]
    shapes = (latent_dim,), (dim, latent_dim), (dim,)
    return models.LinearGaussian(*(jnp.asarray(rng.normal(size=s)) for s in shapes), log_noise)


def dense(theta):
    """Mean and covariance of the joint (z, x), in NumPy."""
    m, w, b, log_noise = jax.tree.map(np.asarray, theta)
    if isinstance(log_noise, LogCholesky):
        lower = np.diag(np.exp(log_noise.log_diagonal))
        lower[np.tril_indices(b.size, -1)] = log_noise.lower
        psi = lower @ lower.T
    else:
        psi = np.diag(np.broadcast_to(np.exp(2 * log_noise), b.shape))
    top = np.hstack([np.eye(m.size), w.T])
    return np.hstack([m, w @ m + b]), np.vstack([top, np.hstack([w, w @ w.T + psi])])


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_posterior_and_evidence_are_those_of_the_dense_joint_gaussian(kind, x64):
    with jax.enable_x64(x64):
        tolerance = 1e-10 if x64 else 2e-5
        dim, latent_dim = 30, 3
        rng = np.random.default_rng(1)
        theta = with_noise(kind, dim, latent_dim, rng)
        x = rng.normal(size=dim) * 2
        mean, covariance = dense(theta)
        z, seen = slice(latent_dim), slice(latent_dim, None)
        gain = np.linalg.solve(covariance[seen, seen], covariance[seen, z]).T
        model = linear_gaussian(latent_dim, dim, kind)
        x_device = jnp.asarray(x, theta.offset.dtype)
        q, evidence = jax.jit(lambda t, x: (model.posterior(t, x), model.log_evidence(t, x)))(
            theta, x_device
        )
        want = scipy.stats.multivariate_normal(mean[seen], covariance[seen, seen]).logpdf(x)
        np.testing.assert_allclose(evidence, want, rtol=tolerance)
        np.testing.assert_allclose(q.mean, mean[z] + gain @ (x - mean[seen]), atol=tolerance)
        np.testing.assert_allclose(
            q.cholesky @ q.cholesky.T,
            covariance[z, z] - gain @ covariance[seen, z],
            atol=tolerance,
        )
        np.testing.assert_array_equal(np.triu(q.cholesky, 1), 0)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_nothing_of_size_d_by_d_is_formed(kind):
    theta = with_noise(kind, 53, 3, np.random.default_rng(2))
    model, x = linear_gaussian(3, 53, kind), jnp.ones(53)
    for function in (model.log_evidence, model.posterior, jax.grad(model.log_evidence)):
        program = str(jax.make_jaxpr(function)(theta, x))
        assert "[53,3]" in program
        assert "53,53" not in program


def test_float32_keeps_its_digits_at_small_noise():
    # s = 1e-3 with loadings of order 1: x^T Sigma^-1 x is a difference of two numbers near 1e7.
    rng = np.random.default_rng(3)
    theta = with_noise("diagonal", 20, 2, rng)
    theta = theta._replace(log_noise=jnp.full(20, np.log(1e-3), jnp.float32))
    model = linear_gaussian(2, 20, "diagonal")
    noise = 1e-3 * rng.normal(size=20)
    m, w, b, _ = (np.asarray(leaf, np.float64) for leaf in theta)
    x = np.asarray(w @ [0.3, -0.8] + b + noise, np.float32)
    sigma = w @ w.T + 1e-6 * np.eye(20)
    want = scipy.stats.multivariate_normal(w @ m + b, sigma).logpdf(x.astype(np.float64))
    # x itself is known to 1e-7 of about 2 only, that is 2e-4 s: about 1e-3 of the quadratic.
    np.testing.assert_allclose(model.log_evidence(theta, jnp.asarray(x)), want, atol=0.02)


def by_svd(loadings, offset, prior_mean, log_noise, x):
    """log p(x), posterior mean and covariance, d log p / d W and d log p / d log s, in float64."""
    scale = np.exp(log_noise)
    u, s, vt = np.linalg.svd(loadings / scale, full_matrices=False)
    white = (x - offset - loadings @ prior_mean) / scale
    along = u.T @ white
    quadratic = ((white - u @ along) ** 2).sum() + (along**2 / (1 + s**2)).sum()
    log_p = -0.5 * (quadratic + np.log1p(s**2).sum() + x.size * (np.log(2 * np.pi) + 2 * log_noise))
    covariance = (vt.T / (1 + s**2)) @ vt
    mean = prior_mean + vt.T @ (s / (1 + s**2) * along)
    precise = (np.eye(x.size) - (u * (s**2 / (1 + s**2))) @ u.T) / scale**2
    pull = precise @ white * scale
    in_loadings = np.outer(pull, pull @ loadings + prior_mean) - precise @ loadings
    return log_p, mean, covariance, in_loadings, (pull @ pull - np.trace(precise)) * scale**2


@pytest.mark.parametrize("size", [30.0, 3e3, 1e4, 1e6])
def test_float32_keeps_its_digits_with_nearly_collinear_loadings(size):
    # I + W^T W has eigenvalues near 2 size^2 and 1.5: formed in float32 it loses the second.
    rng = np.random.default_rng(4)
    loadings = np.array([[size, size], [0, 1], [-0.5, 0.25]])
    theta = models.LinearGaussian(
        np.array([0.3, -0.2]), loadings, np.array([0.1, 0.4, -1.0]), np.array(-0.3)
    )
    theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), theta)
    m, w, b, log_noise = (np.asarray(leaf, np.float64) for leaf in theta)
    x = (w @ rng.normal(size=2) + b + np.exp(log_noise) * rng.normal(size=3)).astype(np.float32)
    model = linear_gaussian(2, 3)
    q, log_p, slope = jax.jit(
        lambda t, x: (model.posterior(t, x), *jax.value_and_grad(model.log_evidence)(t, x))
    )(theta, x)
    want = by_svd(w, b, m, log_noise, x.astype(np.float64))
    found = (log_p, q.mean, q.cholesky @ q.cholesky.T, slope.loadings, slope.log_noise)
    for got, truth in zip(found[:3], want[:3], strict=True):
        np.testing.assert_allclose(got, truth, rtol=0, atol=2e-6 * np.abs(truth).max())
    # d log p / d W is a sum of terms of W times slopes near 1 / size: measured 2e-9 size at 1e6.
    np.testing.assert_allclose(found[3], want[3], rtol=0, atol=2e-6 + 4e-9 * size)
    np.testing.assert_allclose(found[4], want[4], rtol=0, atol=2e-6)


def test_expectation_keeps_its_digits_with_nearly_collinear_loadings():
    rng = np.random.default_rng(5)
    loadings = np.array([[3e3, 3e3], [0, 1], [-0.5, 0.25]])
    noise = np.array([1.0, 0.5, 2.0])
    rows = rng.normal(size=(5, 2)) @ loadings.T + rng.normal(size=(5, 3))
    arrays = (jnp.asarray(value, jnp.float32) for value in (rows, loadings, noise))
    found = jax.jit(expect)(*arrays)
    u, s, vt = np.linalg.svd(loadings / np.sqrt(noise)[:, None], full_matrices=False)
    white = rows.astype(np.float32) / np.sqrt(noise)
    along = white @ u
    np.testing.assert_allclose(found.covariance, (vt.T / (1 + s**2)) @ vt, atol=2e-6)
    np.testing.assert_allclose(found.means, (along * (s / (1 + s**2))) @ vt, atol=1e-5)
    quadratic = ((white - along @ u.T) ** 2).sum() + (along**2 / (1 + s**2)).sum()
    log_det = np.log(2 * np.pi * noise).sum() + np.log1p(s**2).sum()
    np.testing.assert_allclose(found.log_likelihood, -0.5 * (quadratic + log_det), rtol=1e-5)


def test_ppca_is_the_maximum_and_agrees_with_scikit_learn(x64):
    theta = ppca(X, L)
    # scikit-learn divides the covariance by N - 1; given that one, the numbers are equal.
    stretched = (X - X.mean(0)) * np.sqrt(N / (N - 1)) + X.mean(0)
    same = PCA(L).fit(X).score(X)
    np.testing.assert_allclose(score(ppca(stretched, L), X), same, rtol=1e-12)
    for leaf in jax.tree.leaves(slope(theta, jnp.asarray(X))):
        np.testing.assert_allclose(leaf, 0, atol=1e-12)
    # At the maximum the model covariance has the leading eigenpairs and the trace of the sample's.
    sample = np.cov(X.T, ddof=0)
    found = dense(theta)[1][L:, L:]
    np.testing.assert_allclose(np.trace(found), np.trace(sample))
    np.testing.assert_allclose(np.linalg.eigvalsh(found)[-L:], np.linalg.eigvalsh(sample)[-L:])
    np.testing.assert_allclose(sample @ theta.loadings, found @ theta.loadings)
    assert (theta.loadings[np.abs(theta.loadings).argmax(0), np.arange(L)] > 0).all()


def test_ppca_of_wide_data_is_that_of_the_covariance(x64):
    wide = X[:5]  # N = 5 < D = 7
    theta = ppca(wide, L)
    values = np.linalg.eigvalsh(np.cov(wide.T, ddof=0))[::-1]
    np.testing.assert_allclose(np.exp(2 * theta.log_noise), values[L:].sum() / (D - L))
    gram = theta.loadings.T @ theta.loadings
    want = np.diag(values[:L] - values[L:].sum() / (D - L))
    np.testing.assert_allclose(gram, want, atol=1e-12)
    for leaf in jax.tree.leaves(slope(theta, jnp.asarray(wide))):
        np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_factor_analysis_agrees_with_scikit_learn(x64):
    theta, info = factor_analysis(X, L, tolerance=1e-13, max_steps=5_000)
    oracle = Oracle(L, tol=1e-10, max_iter=5_000, svd_method="lapack").fit(X).score(X)
    assert info.outcome == Outcome.CONVERGED
    np.testing.assert_allclose(info.log_likelihood, oracle, rtol=1e-6)
    np.testing.assert_allclose(info.log_likelihood, score(theta, X), rtol=1e-12)
    # It beats its start, and what it fits is generated by these numbers.
    assert info.log_likelihood > float(score(ppca(X, L), X)) + 0.1
    np.testing.assert_allclose(np.exp(theta.log_noise), NOISE, rtol=0.15)
    for leaf in jax.tree.leaves(slope(theta, jnp.asarray(X))):
        np.testing.assert_allclose(leaf, 0, atol=1e-5)


def test_units_do_not_matter(x64):
    units = 10.0 ** np.arange(-3, 4)
    plain, scaled = factor_analysis(X, L), factor_analysis(X * units, L)
    assert scaled.info.num_steps == plain.info.num_steps
    difference = plain.info.log_likelihood - scaled.info.log_likelihood
    np.testing.assert_allclose(difference, np.log(units).sum(), atol=1e-9)
    np.testing.assert_allclose(scaled.theta.loadings, plain.theta.loadings * units[:, None])


@pytest.mark.parametrize(("x64", "slack"), [(False, 2e-6), (True, 1e-13)])
def test_the_likelihood_never_falls_and_one_program_serves_all_tolerances(x64, slack):
    with jax.enable_x64(x64):
        data = X.astype(np.float64 if x64 else np.float32)
        sizes, values = set(), []
        for steps in range(40):
            _, info = factor_analysis(
                data, L, max_steps=steps, tolerance=steps * 1e-20, throw=False
            )
            values.append(info.log_likelihood)
            sizes.add(len(STORE))
        assert len(sizes) == 1
        assert (np.diff(values) >= -slack * abs(values[0])).all()
        assert values[5] - values[0] > 0.1


def test_float32_finds_the_same_maximum():
    theta, info = factor_analysis(X.astype(np.float32), L, tolerance=1e-6)
    with jax.enable_x64(True):
        best = factor_analysis(X, L, tolerance=1e-12, max_steps=5_000).info.log_likelihood
    assert theta.loadings.dtype == jnp.float32
    np.testing.assert_allclose(info.log_likelihood, best, rtol=2e-5)


def test_outcomes_are_values_and_then_errors_or_warnings():
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 steps"):
        fit = factor_analysis(X, L, max_steps=2)
    assert fit.info[:2] == (Outcome.MAX_STEPS, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert factor_analysis(X, L, max_steps=2, throw=False).info.outcome == Outcome.MAX_STEPS
    # One column is the sum of two factors that the others show without noise: psi -> 0.
    z = RNG.normal(size=(50, 1))
    heywood = np.hstack([z, z, z + RNG.normal(size=(50, 1)), RNG.normal(size=(50, 1))])
    fit = factor_analysis(heywood, 1, throw=False, tolerance=0.0)
    assert fit.info.outcome == Outcome.DEGENERATE
    # The parameters of the step before: no noise is below what this precision resolves.
    noise = np.exp(2 * fit.theta.log_noise) / heywood.var(0)
    assert (noise > np.finfo(np.float32).eps).all()
    score_of_all = jax.vmap(linear_gaussian(1, 4).log_evidence, (None, 0))(fit.theta, heywood)
    np.testing.assert_allclose(score_of_all.mean(), fit.info.log_likelihood, atol=0.05)
    with pytest.raises(FloatingPointError, match="Heywood"):
        factor_analysis(heywood, 1, tolerance=0.0)


@pytest.mark.parametrize("fit", [ppca, factor_analysis])
def test_bad_data_is_refused(fit):
    hole = X.copy()
    hole[3, 1] = np.nan
    with pytest.raises(ValueError, match="1 NaN and 0 inf, the first at row 3, column 1"):
        fit(hole, L)
    with pytest.raises(ValueError, match="fewer than the 7 columns of x, got 7"):
        fit(X, D)
    with pytest.raises(ValueError, match="at least 4 rows"):
        fit(X[:3], L)
    with pytest.raises(ValueError, match="expected an integer >= 1, got 0"):
        fit(X, 0)
    with pytest.raises(ValueError, match=r"expected shape \[N, D\]"):
        fit(X[0], L)
    flat = np.outer(np.arange(20.0), np.ones(D)) + np.arange(D)
    with pytest.raises(ValueError, match="span more than latent_dim"):
        fit(flat, L)
    with pytest.raises(TypeError, match="expected real numbers"):
        fit([["a", "b"]] * 10, 1)


def test_constant_columns_are_refused_by_factor_analysis_alone():
    constant = np.column_stack([X, np.full(N, 2.5)])
    with pytest.raises(ValueError, match=r"constant columns \[7\]"):
        factor_analysis(constant, L)
    total = np.var(X, axis=0).sum()  # PPCA shares its noise among all the columns
    theta = ppca(constant, L)
    found = (theta.loadings**2).sum() + (D + 1) * jnp.exp(2 * theta.log_noise)
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="did you mean 'diagonal'"):
        linear_gaussian(2, 3, "diagonl")
    with pytest.raises(ValueError, match="latent_dim: expected an integer >= 1"):
        linear_gaussian(0, 3)
    with pytest.raises(ValueError, match="tolerance: expected a finite number"):
        factor_analysis(X, L, tolerance=-1.0)


def test_more_latent_than_data_dimensions_are_allowed(x64):
    # z in 3 dimensions, x in 2: the evidence is still that of a Gaussian in 2.
    theta = with_noise("isotropic", 2, 3, np.random.default_rng(4))
    mean, covariance = dense(theta)
    want = scipy.stats.multivariate_normal(mean[3:], covariance[3:, 3:]).logpdf([0.4, -1.0])
    model = linear_gaussian(3, 2)
    x = jnp.array([0.4, -1.0])
    np.testing.assert_allclose(model.log_evidence(theta, x), want, rtol=1e-12)
    assert distributions.gaussian_parts(model.posterior(theta, x))[1].shape == (3, 3)
