"""Padded rows and components change no result, and let data of many sizes share programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import blobs, e_step, numbers
from scipy import special

from lvm_jax import compiling, em
from lvm_jax.em import kmeans, padding, starts
from lvm_jax.em.statistics import Data

N, D, K = 201, 3, 3
X = blobs(N, D, K)
WEIGHT = np.random.default_rng(1).uniform(0.1, 3.0, N)
KEY = jax.random.key(3)
SHARED = {"num_restarts": 2, "sample_weight": WEIGHT, "throw": False}  # fits share their starts


@pytest.fixture
def unpadded(monkeypatch):
    """Switch the padding of rows and of components off."""

    def off():
        monkeypatch.setattr(padding, "MAX_BYTES", 0)

    return off


# Starts do not depend on the family, and the families' padded steps are those of test_em_steps.py.
@pytest.mark.parametrize("start", em.STARTS)
def test_a_padded_fit_is_the_fit(x64, unpadded, start):
    options = {**SHARED, "start": start, "tolerance": 1e-5}
    padded = em.fit(KEY, X, K, "diag", **options)
    values = padded.mixture.log_prob(X), padded.mixture.responsibilities(X)
    labels, evaluation = padded.mixture.assign(X), padded.mixture.evaluate(X, WEIGHT)
    unpadded()
    plain = em.fit(KEY, X, K, "diag", **options)
    for got, want in zip(numbers(padded.mixture), numbers(plain.mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(padded.info.trace, plain.info.trace, rtol=1e-11)
    np.testing.assert_allclose(padded.info.log_likelihood, plain.info.log_likelihood, rtol=1e-12)
    objectives = plain.info.restart_objectives
    np.testing.assert_allclose(padded.info.restart_objectives, objectives, rtol=1e-11)
    assert padded.info.empty_components == plain.info.empty_components == ()
    resp, log_p = e_step(X, *numbers(padded.mixture))
    np.testing.assert_allclose(values[0], log_p, rtol=1e-11)
    np.testing.assert_allclose(values[1], resp, atol=1e-11)
    np.testing.assert_array_equal(labels, resp.argmax(1))
    entropy = -special.xlogy(resp, resp).sum(1)
    expected = [WEIGHT @ part for part in (log_p, entropy, np.log(resp.max(1)))]
    np.testing.assert_allclose(evaluation, expected, rtol=1e-11)
    assert values[0].shape == (N,)
    assert values[1].shape == (N, K)


def test_a_prior_is_that_of_the_components_alone(x64, unpadded):
    prior = em.default_prior(X, K)._replace(concentration=[1.5, 2.0, 4.0])
    padded = em.fit(KEY, X, K, prior=prior, **SHARED)
    unpadded()
    plain = em.fit(KEY, X, K, prior=prior, **SHARED)
    np.testing.assert_allclose(padded.info.map_objective, plain.info.map_objective, rtol=1e-12)
    np.testing.assert_allclose(padded.info.trace, plain.info.trace, rtol=1e-11)


def test_the_starts_of_counts_are_padded_alike(x64, unpadded):
    """Softened starts; test_em_fit.py has the padded steps of Bernoulli and Poisson components."""
    x, family = (X.mean(0) < X).astype(float), em.Categorical(2)
    padded = em.fit(KEY, x, K, family=family, tolerance=1e-6, **SHARED)
    unpadded()
    plain = em.fit(KEY, x, K, family=family, tolerance=1e-6, **SHARED)
    np.testing.assert_allclose(padded.mixture.means, plain.mixture.means, rtol=1e-9)
    np.testing.assert_allclose(padded.info.trace, plain.info.trace, rtol=1e-11)


def test_rows_and_components_of_a_bucket_share_their_programs(store):
    """A cross-validation and a search over K compile no more than their first fit."""

    def fit(size, number):
        fitted = em.fit(KEY, X[:size].astype(np.float32), number, "diag", throw=False)
        fitted.mixture.log_prob(X[-size:].astype(np.float32))
        fitted.mixture.assign(X.astype(np.float32)[:size])
        return len(store)

    first = fit(129, 2)
    assert {fit(size, number) for size in (140, 181, 201) for number in (1, 3, 5, 8)} == {first}
    assert fit(125, 2) > first  # 128 rows are the bucket below


def test_samples_of_many_numbers_share_a_program(store):
    mixture = em.fit(KEY, X, K, throw=False).mixture
    most, z = mixture.sample(KEY, 97)
    kept = len(store)
    for number in (65, 80, 96):
        few, labels = mixture.sample(KEY, number)
        np.testing.assert_array_equal(few, most[:number])
        np.testing.assert_array_equal(labels, z[:number])
    assert len(store) == kept


def test_an_initial_mixture_is_padded_and_cut_off_again(x64, unpadded):
    starting = {"start": "random_from_data", "num_restarts": 2, "sample_weight": WEIGHT}
    initial = em.initialize(KEY, X, K, "diag", **starting)
    assert initial.means.shape == (2, K, D)
    padded = em.fit(KEY, X, K, "diag", start=initial, max_steps=4, **SHARED)
    unpadded()
    again = em.initialize(KEY, X, K, "diag", **starting)
    np.testing.assert_allclose(again.means, initial.means, rtol=1e-12)
    plain = em.fit(KEY, X, K, "diag", start=initial, max_steps=4, **SHARED)
    np.testing.assert_allclose(padded.info.trace, plain.info.trace, rtol=1e-11)
    np.testing.assert_allclose(padded.mixture.covariances, plain.mixture.covariances, rtol=1e-9)


@pytest.mark.parametrize("choose", [kmeans.seed, starts._different_rows])
@pytest.mark.parametrize("live", [1, 5])
def test_seeds_of_padded_components_are_those_of_the_others(x64, choose, live):
    data = Data(jnp.asarray(X), jnp.asarray(WEIGHT), jnp.zeros(D))
    wide = Data(
        jnp.asarray(compiling.pad_rows(X, 320)), jnp.ones(320).at[:N].set(WEIGHT), jnp.zeros(D),
        np.int32(N),
    )  # fmt: skip
    want = jax.jit(choose, static_argnums=2)(KEY, data, live, live)
    found = jax.jit(choose, static_argnums=2)(KEY, wide, 8, np.int32(live))
    np.testing.assert_array_equal(found[:live], want)


def test_the_spread_of_the_columns_leaves_padding_out(x64):
    data = padding.data(X, None, np.zeros(D))
    assert data.x.shape[0] == 256
    np.testing.assert_allclose(starts.spread(data), X.std(0), rtol=1e-12)


@pytest.mark.parametrize(
    "size, number, restarts, padded",
    [
        *[(100, 1, 1, 8), (100, 8, 1, 8), (100, 9, 1, 16), (5_000, 6, 1, 8)],
        *[(5_000, 33, 1, 33), (5_000, 6, 5, 6)],
    ],
)
def test_components_are_padded_where_a_pass_stays_cheap(size, number, restarts, padded):
    data = padding.data(np.zeros((size, D), np.float32), None, np.zeros(D, np.float32))
    found = padding.num_components(em.GAUSSIANS["full"], data, number, restarts)
    assert found == padded


def test_large_data_are_not_copied(unpadded):
    unpadded()
    data = padding.data(X, None, np.zeros(D))
    assert data.x.shape == (N, D)
    assert data.size is None
    assert padding.num_components(em.GAUSSIANS["full"], data, 3) == 3
