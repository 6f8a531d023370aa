"""Online EM: one pass approaches the maximum-likelihood fit, whatever the batches."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as Oracle

from lvm_jax import em
from lvm_jax.em.online import UNIT_ROWS, _blend, _reweighted, _share
from lvm_jax.sklearn import GaussianMixture

N, D, K = 4_000, 2, 3
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


@pytest.mark.parametrize("size", [500, 4_000])
def test_one_pass_approaches_the_maximum_likelihood_fit(size):
    """14 parameters cost 14 / (2 N) = 1.75e-3 nats of the fit; the estimate is within twice that."""
    best = Oracle(K, covariance_type="diag", tol=1e-7, max_iter=1_000, random_state=0).fit(X)
    state = run(X, size)
    found = float(state.mixture.evaluate(X).log_likelihood) / N
    assert -1e-6 < best.score(X) - found < 3.5e-3
    last = float(state.current.evaluate(X).log_likelihood) / N
    assert last < found  # the average is better than the last step
    assert state.num_rows == state.total_weight == N


def test_the_weight_of_a_batch_does_not_depend_on_its_division():
    """The old statistics keep the same share, and t^-0.6 is the weight of a unit at time t."""
    for cut in (3.0, 5.5, 8.0):
        kept = (1 - _share(2.0, cut)) * (1 - _share(cut, 9.0))
        assert kept == pytest.approx(1 - _share(2.0, 9.0), rel=1e-12)
    assert _share(1e6, 1e6 + 1) == pytest.approx(1e6**-0.6, rel=1e-3)


@pytest.mark.parametrize("name", ["diag", "poisson", "bernoulli"])
def test_a_blend_is_the_average_of_the_statistics(x64, name):
    """(1 - g) s + g s' is the statistics of weights (1 - g) / n and g / n'."""
    x = np.abs(X[:300].round()).astype(float)
    rates = np.abs(MEANS) + 1.0
    mixture = {
        "diag": em.gaussian_mixture(np.full(K, 1 / K), MEANS, np.ones((K, D)), "diag"),
        "poisson": em.Mixture(np.log(np.full(K, 1 / K)), rates, np.zeros(D), em.Poisson()),
        "bernoulli": em.Mixture(np.log(np.full(K, 1 / K)), rates / 9, np.zeros(D), em.Bernoulli()),
    }[name]
    x = x.clip(max=1) if name == "bernoulli" else x
    weight = np.repeat([1.0, 0.0], [100, 200]), np.repeat([0.0, 1.0], [100, 200])
    one, other = (em.accumulate(mixture, x, w) for w in weight)
    blended = _blend(_reweighted(one, 1 / 100), _reweighted(other, 1 / 200), 0.25)
    direct = em.accumulate(mixture, x, 0.75 / 100 * weight[0] + 0.25 / 200 * weight[1])
    for got, want in zip(
        jax.tree.leaves(blended.summary), jax.tree.leaves(direct.summary), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(blended.log_likelihood, direct.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(blended.total_weight, 1, rtol=1e-12)


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
    with pytest.raises(ValueError, match=r"x: expected finite numbers, or NaN .*, got 1 inf"):
        em.partial_fit(state, np.full((1, D), np.inf)[:, :1])


def test_weights_are_rows():
    weight = np.tile([0.5, 2.5], 600)
    state = run(X[:1_200], 400, weight=weight)
    assert state.total_weight == 1_800
    assert state.num_rows == 1_200
    assert state.time == pytest.approx(1_800 / (UNIT_ROWS * K), rel=1e-12)


def test_the_estimator_takes_batches():
    model = GaussianMixture(K, covariance_type="diag", random_state=0)
    model.partial_fit(X[[0, 0]])
    with pytest.raises(NotFittedError):
        model.predict(X)
    for i in range(0, 3_000, 500):
        model.partial_fit(X[i : i + 500], sample_weight=np.ones(500))
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


def test_the_estimator_streams(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    start = {
        "weights_init": np.full(K, 1 / K),
        "means_init": MEANS,
        "precisions_init": np.ones((K, D)),
    }
    settings = {"covariance_type": "diag", "random_state": 0, "tol": 0.0, "max_iter": 3}
    ours, theirs = (model(K, **settings, **start) for model in (GaussianMixture, Oracle))
    with pytest.warns(UserWarning, match="did not converge"):
        found = ours.fit_predict(mapped)
    with pytest.warns(UserWarning, match="did not converge"):
        expected = theirs.fit(X.astype(float)).predict(X.astype(float))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-6)
    assert ours.means_.dtype == np.float32
    np.testing.assert_allclose(ours.bic(str(tmp_path / "x.npy")), theirs.bic(X), rtol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(mapped), theirs.predict_proba(X), atol=1e-3)
    model = GaussianMixture(K, warm_start=True, means_init=MEANS, **settings)
    bounds = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="did not converge"):
            bounds += model.fit(lambda: iter([X])).lower_bounds_
    assert len(bounds) == 6
    assert (np.diff(bounds) > 0).all()
