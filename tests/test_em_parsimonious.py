"""The covariance models of mclust: M-steps against numerical optima, and published likelihoods."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import missing_reference
import numpy as np
import pytest
from covariance_models import NAMES, covariances, objective, optimum, rank, sizes
from em_reference import blobs, e_step, numbers
from sklearn.datasets import load_iris

from lvm_jax import data, em
from lvm_jax.data.store import VARIABLE
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.orientations import rounds

N, D, K = 120, 3, 3
KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
X = blobs(N, D, K) @ RNG.normal(size=(D, D))
WEIGHT = RNG.integers(1, 4, N).astype(float)
HOLES = np.where(RNG.random((N, D)) < 0.2, np.nan, X)
HOLES[np.isnan(HOLES).all(1), 0] = 1.0
NEW = [name for name in NAMES if name not in ("VII", "VVI", "EEE", "VVV")]
ITERATED = ("VEI", "VEE", "EVE", "VVE", "VEV")


def start(name):
    """A mixture that satisfies the constraints of a model."""
    theta = 0.3 * np.random.default_rng(2).normal(size=sum(sizes(name, K, D)))
    sigma = 2 * covariances(name, theta, K, D)
    family = em.COVARIANCE_FAMILIES[name]
    scale = np.sqrt(np.diagonal(sigma, 0, 1, 2)) if name[2] == "I" else np.linalg.cholesky(sigma)
    centre = X.mean(0)
    components = Gaussians(jnp.asarray(X[:K] - centre), jnp.asarray(scale))
    return em.Mixture(jnp.log(jnp.array([0.5, 0.3, 0.2])), components, jnp.asarray(centre), family)


def steps(name, x, num, **options):
    options = {"regularization": 0.0, "sample_weight": WEIGHT} | options
    return em.fit(
        KEY, x, K, name, start=start(name), max_steps=num, tolerance=0.0, throw=False, **options
    )


def moments(x, mixture):
    """Counts, means and S_k of the M-step that follows a mixture, and the log-likelihood."""
    if np.isnan(x).any():
        resp, log_p, filled, unknown = missing_reference.e_step(x, *numbers(mixture))
    else:
        resp, log_p = e_step(x, *numbers(mixture))
        filled, unknown = x[:, None], np.zeros((len(x), K, D, D))
    resp = resp * WEIGHT[:, None]
    counts = resp.sum(0)
    means = np.einsum("nk,nkd->kd", resp, np.broadcast_to(filled, (len(x), K, D)))
    means /= counts[:, None]
    d = filled - means[None]
    scatter = np.einsum("nk,nki,nkj->kij", resp, d, d) + np.einsum("nk,nkij->kij", resp, unknown)
    return counts, means, scatter / counts[:, None, None], WEIGHT @ log_p / WEIGHT.sum()


@pytest.mark.parametrize("name", NEW)
def test_a_step_is_the_optimum_of_its_objective(x64, name):
    """And no step of 40 lowers the likelihood."""
    fit = steps(name, X, 1)
    counts, means, spread, value = moments(X, start(name))
    np.testing.assert_allclose(fit.info.trace, [value], rtol=1e-12)
    weights, got, sigma = numbers(fit.mixture)
    np.testing.assert_allclose(weights, counts / counts.sum(), rtol=1e-12)
    np.testing.assert_allclose(got, means, rtol=1e-10)
    best = optimum(name, spread, counts, np.random.default_rng(3))
    above = objective(sigma, spread, counts) - best
    assert above < 1e-6 if name in ITERATED else abs(above) < 1e-6
    trace = steps(name, X, 40).info.trace
    assert np.diff(trace).min() >= -1e-11
    assert trace[-1] - trace[0] > 0.1


@pytest.mark.parametrize("name", ["EVI", "VVE"])
def test_missing_entries_are_latent_too(x64, name):
    fit = steps(name, HOLES, 1)
    counts, means, spread, value = moments(HOLES, start(name))
    np.testing.assert_allclose(fit.info.trace, [value], rtol=1e-12)
    _, got, sigma = numbers(fit.mixture)
    np.testing.assert_allclose(got, means, rtol=1e-10)
    best = optimum(name, spread, counts, np.random.default_rng(3))
    assert objective(sigma, spread, counts) < best + 1e-6
    assert fit.mixture.family == em.COVARIANCE_FAMILIES[name]
    assert np.diff(steps(name, HOLES, 40).info.trace).min() >= -1e-11


@pytest.mark.parametrize(("number", "dim"), [(3, 3), (2, 4), (1, 2), (2, 1)])
def test_the_number_of_parameters_is_the_rank_of_the_parametrisation(number, dim):
    rng = np.random.default_rng(4)
    for name in NAMES:
        family = em.COVARIANCE_FAMILIES[name]
        expected = number * dim + rank(name, number, dim, rng)
        assert family.num_component_parameters(number, dim) == expected, name


def test_a_model_that_contains_another_has_no_higher_optimum():
    """Order of the objectives at the same S_k: letters in the order I, E, V."""
    rng = np.random.default_rng(5)
    factor = rng.normal(size=(2, 2, 3))
    spread, counts = factor @ np.swapaxes(factor, 1, 2), np.array([20.0, 30.0])
    found = {name: optimum(name, spread, counts, rng) for name in NAMES}
    for a in NAMES:
        for b in NAMES:
            if all("IEV".index(i) <= "IEV".index(j) for i, j in zip(a, b, strict=True)):
                assert found[b] <= found[a] + 1e-7, (a, b)


def test_old_faithful_has_the_likelihood_of_mclust(x64):
    """Scrucca et al. (2016), a printed summary of mclust; test_em_errors.py has that of VVV."""
    x = data.old_faithful().x
    fit = em.fit(KEY, x, 3, "EEE", tolerance=1e-7, max_steps=500)
    assert fit.info.log_likelihood * len(x) > -1126.326 - 0.01


def test_iris_has_the_likelihood_of_mclust(x64):
    x = load_iris().data
    fit = em.fit(KEY, x, 2, "VEV", regularization=0.0, tolerance=1e-7, max_steps=500)
    total = fit.info.log_likelihood * len(x)
    assert abs(total + 215.7259) < 1e-3
    bic = fit.mixture.num_parameters * np.log(len(x)) - 2 * total
    assert abs(bic - 561.7285) < 1e-2  # mclust's has the other sign


def test_diabetes_has_the_likelihood_of_mclust(x64):
    """Reaven and Miller (1979); every second start of k-means ends at this optimum."""
    path = Path(os.environ.get(VARIABLE, "."), "diabetes.csv")
    if not path.is_file():
        pytest.skip(f"${VARIABLE} has no diabetes.csv")
    x = data.load_table(path, ["glucose", "insulin", "sspg"]).x
    fit = em.fit(KEY, x, 3, "VVV", num_restarts=5, tolerance=1e-7, max_steps=500)
    assert fit.info.log_likelihood * len(x) > -2295.118 - 0.01


def test_float32_has_the_likelihood_of_float64(x64):
    """Of two clusters of deviations 0.01 to 0.002 at -100 and 100, with exchanged axes."""
    rng, wide = np.random.default_rng(6), np.array([0.01, 0.005, 0.002])
    x = np.concatenate([rng.normal(-100, wide, (60, D)), rng.normal(100, wide[::-1], (60, D))])
    rows, found = x.astype(np.float32), []
    for kept in (rows, rows.astype(float)):
        options = {"regularization": 1e-9, "max_steps": 3, "sample_weight": np.ones(N)}
        found.append(em.fit(KEY, kept, 2, "VVE", throw=False, **options).info.log_likelihood)
    assert abs(found[0] - found[1]) < 1e-4
    assert found[1] > 8  # of one Gaussian: -10


def test_equal_variances_and_a_correlation_are_a_saddle_that_is_left(x64):
    """The start, axes of the data, is a stationary point of the M-step."""
    factor = np.linalg.cholesky(np.full((D, D), 0.8) + 0.2 * np.eye(D))
    x = np.random.default_rng(7).normal(size=(N, D)) @ factor.T
    x = (x - x.mean(0)) / x.std(0)
    options = {"regularization": 0.0, "max_steps": 2, "sample_weight": np.ones(N)}
    one = em.fit(KEY, x, 1, "VVE", throw=False, **options)
    np.testing.assert_allclose(one.mixture.covariances[0], np.cov(x.T, bias=True), atol=1e-8)


def test_statistics_of_batches_make_the_same_step(x64):
    mixture = start("VVE")
    parts = [
        em.accumulate(mixture, x, w) for x, w in ((X[:50], WEIGHT[:50]), (X[50:], WEIGHT[50:]))
    ]
    step = em.maximize(sum(parts), mixture, regularization=0.0)
    for got, want in zip(numbers(step), numbers(steps("VVE", X, 1).mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_component_without_points_satisfies_the_constraints(x64):
    """At 10^7, where no row is."""
    given = start("EEV")
    away = given.components.deviations.at[0].set(1e7)
    given = em.Mixture(
        given.log_weights, given.components._replace(deviations=away), given.origin, given.family
    )
    with pytest.warns(UserWarning, match=r"components \(0,\) lost all their points"):
        fit = em.fit(
            KEY, X, K, "EEV", start=given, max_steps=3, tolerance=1.0, sample_weight=WEIGHT
        )
    values = np.linalg.eigvalsh(np.asarray(fit.mixture.covariances))
    np.testing.assert_allclose(values, np.broadcast_to(values[0], values.shape), rtol=1e-10)


def test_every_pair_of_axes_meets_once():
    for dim in range(1, 9):
        pairs = []
        for row in rounds(dim):
            np.testing.assert_array_equal(row[row], np.arange(dim))
            pairs += [(i, int(j)) for i, j in enumerate(row) if i < j]
        assert len(pairs) == len(set(pairs)) == dim * (dim - 1) // 2


def test_refusals_by_name():
    with pytest.raises(ValueError, match=r"^family: expected one of full, .*VVV, got 'VEX'"):
        em.fit(KEY, X, 2, "VEX")
    with pytest.raises(ValueError, match=r"^acceleration: expected None for VEV covariances"):
        em.fit(KEY, X, 2, "VEV", acceleration="squarem")
    prior = em.default_prior(X, 2)
    with pytest.raises(ValueError, match=r"^prior.components: expected None for EVI covariances"):
        em.fit(KEY, X, 2, "EVI", prior=prior)
