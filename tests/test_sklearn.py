import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Oracle
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_checks import not_passed

from lvm_jax.sklearn import GaussianMixture, arrays

TYPES = ("full", "tied", "diag", "spherical")
RNG = np.random.default_rng(0)
# Two columns and 256 rows with padding: the programs of check_estimator.
X = np.concatenate(
    [RNG.normal(size=(120, 2)) @ RNG.normal(size=(2, 2)) + 3 * RNG.normal(size=2) for _ in "ab"]
)
MEANS = X[[0, 200]]
PRECISIONS = {
    "full": np.tile(np.eye(2) + 0.2, (2, 1, 1)),
    "tied": np.eye(2) + 0.2,
    "diag": np.full((2, 2), 0.7),  # K = D: must not be taken for a matrix
    "spherical": np.array([0.5, 2.0]),
}
ATTRIBUTES = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "lower_bounds_",
)


def given(kind):
    return {
        "covariance_type": kind,
        "weights_init": np.array([0.6, 0.4]),
        "means_init": MEANS,
        "precisions_init": PRECISIONS[kind],
        "tol": 1e-6,
        "max_iter": 500,
    }


@pytest.mark.parametrize("kind", TYPES)
def test_same_start_same_answer_as_scikit_learn(kind):
    ours, theirs = GaussianMixture(2, **given(kind)).fit(X), Oracle(2, **given(kind)).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(
        [ours.aic(X), ours.bic(X), ours.score(X)], [theirs.aic(X), theirs.bic(X), theirs.score(X)]
    )
    factor = ours.precisions_cholesky_
    assert factor.shape == theirs.precisions_cholesky_.shape
    assert isinstance(ours.lower_bound_, float)


def test_icl_is_bic_less_twice_the_classification_term():
    model = GaussianMixture(2, **given("full")).fit(X)
    assigned = np.log(model.predict_proba(X).max(1)).sum()
    assert model.icl(X) == pytest.approx(model.bic(X) - 2 * assigned, rel=1e-12)


def test_weights_equal_repetition():
    weight = np.arange(240) % 3
    weighted = GaussianMixture(2, **given("full")).fit(X, sample_weight=weight)
    repeated = GaussianMixture(2, **given("full")).fit(np.repeat(X, weight, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_computes_in_the_dtype_it_is_given(dtype):
    model = GaussianMixture(2, random_state=0).fit(X.astype(dtype))
    assert {getattr(model, name).dtype for name in ATTRIBUTES[:4]} == {np.dtype(dtype)}
    assert model.score_samples(X.astype(dtype)).dtype == dtype


def test_changed_attributes_are_what_predicts():
    model = GaussianMixture(2, **given("full")).fit(X)
    oracle = Oracle(2, **given("full")).fit(X)
    model.means_, oracle.means_ = model.means_ + 1, oracle.means_ + 1
    np.testing.assert_allclose(model.score_samples(X), oracle.score_samples(X), rtol=1e-8)


def test_pickle_clone_warm_start_and_sample():
    model = GaussianMixture(2, random_state=0, max_iter=200).fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    assert clone(model).get_params() == model.get_params()
    draws, labels = model.sample(5000)
    assert (np.diff(labels) >= 0).all()
    centre = model.weights_ @ model.means_
    np.testing.assert_allclose(
        draws.mean(0), centre, atol=5 * draws.std(0).max() / np.sqrt(len(draws))
    )
    warm = model.set_params(warm_start=True).fit(X)
    assert warm.n_iter_ <= 2


def test_pipeline_grid_search_and_pandas():
    frame = pd.DataFrame(X, columns=["a", "b"])
    pipe = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)).fit(frame)
    assert pipe.predict(frame).shape == (240,)
    grid = GridSearchCV(
        GaussianMixture(random_state=0),
        {"n_components": [1, 2]},
        cv=KFold(3, shuffle=True, random_state=0),  # the rows are sorted by cluster
    ).fit(frame)
    assert grid.best_params_["n_components"] == 2
    assert list(grid.best_estimator_.feature_names_in_) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_init": [0.5, 0.3, 0.2]}, "'weights' should have the shape of"),
        ({"weights_init": [0.9, 0.9]}, "'weights' should be normalized"),
        ({"means_init": MEANS[:1]}, "'means' should have the shape of"),
        ({"precisions_init": -PRECISIONS["full"]}, "symmetric, positive-definite"),
        ({"covariance_type": "fool"}, "'covariance_type' parameter"),
        ({"n_components": 0}, "'n_components' parameter"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"n_components": 2, **options}).fit(X)


def test_check_estimator_has_no_failures(unchecked):
    assert not_passed(GaussianMixture()) == []


def test_precision_factors_of_a_narrow_component_keep_their_digits():
    # Deviations 1 and 1e-5: the covariance formed in float32 would lose the smaller one.
    lower = np.array([[1.0, 0, 0], [0.5, 1e-5, 0], [-0.3, 2e-5, 0.7]])
    factors = np.linalg.inv(lower).T.astype(np.float32)
    found = arrays.scale_of(np.stack([factors, -factors]), "full")
    for one in found:
        np.testing.assert_allclose(one, lower, rtol=2e-5, atol=1e-7)
