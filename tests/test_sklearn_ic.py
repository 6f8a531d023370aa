"""GaussianMixtureIC: the search over K and covariance types with scikit-learn's interface."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn_checks import not_passed

from lvm_jax import plotting
from lvm_jax.sklearn import GaussianMixture, GaussianMixtureIC

RNG = np.random.default_rng(0)
# Two columns and 256 rows with padding: the programs of check_estimator.
X = np.concatenate([RNG.normal(size=(60, 2)), RNG.normal(size=(90, 2)) / 2 + [6.0, 1.0]]) * [1, 3]
OPTIONS = {"covariance_type": ["diag", "VEI"], "n_init": 1, "random_state": 0}


@pytest.fixture(scope="module")
def model():
    return GaussianMixtureIC(range(1, 4), **OPTIONS).fit(X)


def test_the_best_has_the_lowest_criterion_and_predicts(model):
    table = model.criterion_table_
    assert table["n_components"].tolist() == [1, 2, 3] * 2
    assert table["covariance_type"].tolist() == ["diag"] * 3 + ["VEI"] * 3
    assert table["n_parameters"].tolist() == [4, 9, 14, 4, 8, 12]  # VEI: 2 K + K + 1 + K - 1
    row = table[np.argmin(table["bic"])]
    assert (model.covariance_type_, model.n_components_) == (row["covariance_type"], 2)
    best = model.best_estimator_
    assert isinstance(best, GaussianMixture)
    assert best.covariance_type == model.covariance_type_
    for name in ("predict", "predict_proba", "score_samples"):
        np.testing.assert_array_equal(getattr(model, name)(X), getattr(best, name)(X))
    assert model.bic(X) == pytest.approx(row["bic"], rel=1e-9) == best.bic(X)
    assert model.criterion_value_ == row["bic"]
    np.testing.assert_allclose(model.icl(X), row["icl"], rtol=1e-9)
    assert (model.fit_predict(X) == model.predict(X)).all()
    assert model.sample(10)[0].shape == (10, 2)


def test_a_named_covariance_type_is_one_of_the_mixture(model):
    """Its arrays are those of diag or full; the precisions make the same mixture again."""
    for name, shape in (("VEI", (2, 2)), ("VEV", (2, 2, 2))):
        one = GaussianMixture(2, covariance_type=name, random_state=0).fit(X)
        assert one.covariances_.shape == shape
        given = {"weights_init": one.weights_, "means_init": one.means_}
        given["precisions_init"] = one.precisions_
        again = GaussianMixture(2, covariance_type=name, max_iter=0, **given).fit(X)
        np.testing.assert_allclose(again.score_samples(X), one.score_samples(X), rtol=1e-9)


def test_the_plot_has_a_line_for_each_type_and_rings_the_best(model):
    (ax,) = model.plot().axes
    lines = {line.get_label(): line.get_ydata() for line in ax.lines[:2]}
    best = model.criterion_table_["bic"].min()
    first = next(iter(lines))
    assert first == f"{model.covariance_type_}, K = 2: {best:,.1f}"
    assert min(lines[first]) == best
    assert ax.lines[2].get_xydata().tolist() == [[2.0, best]]
    with pytest.raises(ValueError, match="^values: expected at least one finite value"):
        plotting.selection({"VVV": {1: np.nan}})


def test_pickle_clone_and_float32(model):
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert clone(model).get_params() == model.get_params()
    best = {**OPTIONS, "covariance_type": [model.covariance_type_]}
    low = GaussianMixtureIC((2,), **best).fit(X.astype(np.float32))
    assert low.means_.dtype == np.float32
    assert low.criterion_value_ == pytest.approx(model.criterion_value_, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_components": 0}, "'n_components' parameter"),
        ({"n_components": ()}, "num_components: expected different numbers"),
        ({"n_components": (1, 151)}, "Expected n_samples >= n_components"),
        ({"covariance_type": "diag"}, "'covariance_type' parameter"),
        ({"covariance_type": ["VEX"]}, "family: expected one of full"),
        ({"criterion": "mdl"}, "'criterion' parameter"),
    ],
)
def test_bad_parameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        GaussianMixtureIC(**{"n_components": (1, 2), **OPTIONS, **options}).fit(X)


def test_check_estimator_has_no_failures(unchecked):
    # k-means++ draws other seeds from repeated rows than from weighted ones: K = 1, as elsewhere.
    small = GaussianMixtureIC((1,), covariance_type=["diag"], n_init=1)
    assert not_passed(small) == []
