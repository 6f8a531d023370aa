"""Online EM: one pass approaches the maximum-likelihood fit, whatever the batches."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from lvm_jax import em
from lvm_jax.em.online import UNIT_ROWS, _blend, _reweighted, _share
from lvm_jax.sklearn import GaussianMixture

N, D, K = 8_000, 2, 3
RNG = np.random.default_rng(0)
MEANS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
Z = RNG.choice(K, size=N, p=[0.5, 0.3, 0.2])
X = (MEANS[Z] + RNG.normal(size=(N, D)) * [1.0, 1.5]).astype(np.float32)
KEY = jax.random.key(0)


def run(x, size, family="diag", key=KEY, weight=None):
    state = em.online(key, K, family)
    for i in range(0, len(x), size):
        part = None if weight is None else weight[i : i + size]
        state = em.partial_fit(state, x[i : i + size], part)
    return state


@pytest.mark.parametrize("size", [500, 8_000])
def test_one_pass_approaches_the_maximum_likelihood_fit(size):
    """14 parameters cost 14 / (2 N) = 8.8e-4 nats of the fit; the estimate is within twice that."""
    best = em.fit(KEY, X, K, "diag", num_restarts=4, tolerance=1e-7, max_steps=1_000).info
    state = run(X, size)
    found = float(state.mixture.evaluate(X).log_likelihood) / N
    assert -1e-6 < best.log_likelihood - found < 1.75e-3
    last = float(state.current.evaluate(X).log_likelihood) / N
    assert last < found  # the average is better than the last step
    assert state.num_rows == state.total_weight == N


def test_counts_have_a_moving_average_too():
    rates = np.array([[1.0, 9.0], [6.0, 2.0], [12.0, 12.0]])
    x = np.random.default_rng(1).poisson(rates[Z]).astype(np.float32)
    state = run(x, 1_000, em.Poisson())
    found = np.asarray(state.mixture.means)
    order = np.argsort(found[:, 0])
    np.testing.assert_allclose(found[order], rates, rtol=0.06)
    np.testing.assert_allclose(state.mixture.weights[order], [0.5, 0.3, 0.2], atol=0.02)
    np.testing.assert_allclose(state.statistics.summary.counts.sum(), 1, rtol=1e-6)


def test_the_weight_of_a_batch_does_not_depend_on_its_division():
    """The old statistics keep the same share, and t^-0.6 is the weight of a unit at time t."""
    for cut in (3.0, 5.5, 8.0):
        kept = (1 - _share(2.0, cut)) * (1 - _share(cut, 9.0))
        assert kept == pytest.approx(1 - _share(2.0, 9.0), rel=1e-12)
    assert _share(1e6, 1e6 + 1) == pytest.approx(1e6**-0.6, rel=1e-3)


def test_a_blend_is_the_average_of_the_moments(x64):
    start = em.gaussian_mixture(np.full(K, 1 / K), MEANS, np.tile(np.eye(D), (K, 1, 1)))
    x = X[:300].astype(float)
    one, other = em.accumulate(start, x[:100]), em.accumulate(start, x[100:])
    parts = [_reweighted(part, 1 / part.total_weight) for part in (one, other)]
    blended = _blend(*parts, 0.25)
    resp = (
        np.asarray(start.responsibilities(x))
        * np.repeat([0.75 / 100, 0.25 / 200], [100, 200])[:, None]
    )
    np.testing.assert_allclose(blended.summary.counts, resp.sum(0), rtol=1e-10)
    mean = resp.T @ x / resp.sum(0)[:, None]
    found = blended.summary.means + blended.summary.remainder + np.asarray(start.origin)
    np.testing.assert_allclose(found, mean, rtol=1e-10)
    scatter = np.stack(
        [((x - m) * r[:, None]).T @ (x - m) for m, r in zip(mean, resp.T, strict=True)]
    )
    np.testing.assert_allclose(blended.summary.scatter, scatter, rtol=1e-9, atol=1e-12)


def test_rows_wait_until_they_are_enough():
    state = em.partial_fit(em.online(KEY, K, "diag"), X[[0, 0]])
    assert state.mixture is None
    state = em.partial_fit(state, X[1:40])
    assert state.statistics is None
    assert state.mixture.means.shape == (K, D)
    state = em.partial_fit(pickle.loads(pickle.dumps(state)), X[40:400])
    assert state.waiting is None
    assert state.num_rows == 401
    assert state.time == pytest.approx(401 / (UNIT_ROWS * K), rel=1e-12)
    with pytest.raises(ValueError, match="x: expected 2 columns as in the mixture, got 1"):
        em.partial_fit(state, X[:, :1])
    with pytest.raises(ValueError, match="x: expected finite numbers, got 1 NaN"):
        em.partial_fit(state, np.full((1, D), np.nan)[:, :1])


def test_weights_are_repetitions():
    weight = np.tile([0.0, 2.0], 600)
    state = run(X[:1_200], 400, weight=weight)
    assert state.total_weight == 1_200
    assert state.num_rows == 1_200
    other = run(np.repeat(X[1:1_200:2], 2, axis=0), 400)
    assert state.time == pytest.approx(other.time)


def test_the_estimator_takes_batches():
    model = GaussianMixture(K, covariance_type="diag", random_state=0)
    model.partial_fit(X[[0, 0]])
    with pytest.raises(NotFittedError):
        model.predict(X)
    for i in range(0, 6_000, 1_000):
        model.partial_fit(X[i : i + 1_000], sample_weight=np.ones(1_000))
    assert model.n_iter_ == 7
    assert model.n_features_in_ == D
    assert model.means_.dtype == np.float32
    np.testing.assert_allclose(model.lower_bound_, model.score(X), atol=0.1)
    with pytest.raises(ValueError, match="X has 1 features, but GaussianMixture is expecting 2"):
        model.partial_fit(X[:, :1])
    again = pickle.loads(pickle.dumps(model)).partial_fit(X[:500])
    assert again.n_iter_ == 8
    with pytest.raises(ValueError, match="partial_fit starts from init_params"):
        GaussianMixture(K, means_init=MEANS).partial_fit(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_estimator_streams(tmp_path, dtype):
    x = X[:2_000].astype(dtype)
    np.save(tmp_path / "x.npy", x)
    settings = {
        "covariance_type": "diag",
        "random_state": 0,
        "tol": 0.0,
        "max_iter": 3,
        "n_init": 2,
    }
    whole, streamed = GaussianMixture(K, **settings), GaussianMixture(K, **settings)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.warns(UserWarning, match="did not converge"):
        labels = whole.fit_predict(x)
    with pytest.warns(UserWarning, match="did not converge"):
        found = streamed.fit_predict(mapped)
    np.testing.assert_array_equal(found, labels)
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(streamed.means_, whole.means_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(streamed.lower_bounds_, whole.lower_bounds_, rtol=1e-6)
    assert streamed.means_.dtype == dtype
    np.testing.assert_allclose(streamed.bic(str(tmp_path / "x.npy")), whole.bic(x), rtol=1e-6)
    np.testing.assert_allclose(streamed.predict_proba(mapped), whole.predict_proba(x), atol=1e-3)
    settings |= {"warm_start": True, "means_init": MEANS, "n_init": 1}
    model = GaussianMixture(K, **settings)
    with pytest.warns(UserWarning, match="did not converge"):
        first = model.fit(lambda: iter([x])).lower_bounds_
    with pytest.warns(UserWarning, match="did not converge"):
        second = model.fit(lambda: iter([x])).lower_bounds_
    assert first[-1] < second[0] < second[-1]
