"""MixedMixture: tables of text, counts and numbers."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn_checks import not_passed

from lvm_jax.sklearn import MixedMixture
from lvm_jax.sklearn.mixed_columns import FAMILIES, describe

N, K = 300, 3
RNG = np.random.default_rng(0)
Z = RNG.integers(K, size=N)
FRAME = pd.DataFrame(
    {
        "colour": np.array(["red", "green", "blue"])[(Z + RNG.integers(2, size=N)) % 3],
        "count": RNG.poisson(1 + 4 * Z),
        "size": 1000 * (RNG.normal(size=N) + 2 * Z),
        "flag": RNG.random(N) < 0.2 + 0.3 * Z,
    }
)
FRAME.loc[3, "colour"] = None
FRAME.loc[5, "size"] = np.nan
COLUMNS = {"categorical": ["colour", "flag"], "poisson": ["count"], "gaussian": ["size"]}
OPTIONS = {"columns": COLUMNS, "n_init": 4, "random_state": 0}


@pytest.fixture(scope="module")
def model():
    return MixedMixture(K, **OPTIONS).fit(FRAME)


def log_prob(model, frame):
    """log p(x) from the attributes."""
    colours, flags = model.probabilities_["colour"], model.probabilities_["flag"]
    scale = np.asarray(model.mixture_.components[2].scale)[:, 0]
    rows = []
    for colour, count, size, flag in frame.itertuples(index=False):
        value = np.log(model.weights_) + stats.poisson.logpmf(count, model.means_[:, 1])
        value = value + np.log(flags[:, int(flag)])
        if colour is not None and colour == colour:
            value = value + np.log(colours[:, list(model.levels_["colour"]).index(colour)])
        if not np.isnan(size):
            value = value + stats.norm.logpdf(size, model.means_[:, 2], scale)
        rows.append(value)
    return logsumexp(rows, axis=1)


def test_scores_are_those_of_the_attributes(model):
    np.testing.assert_allclose(model.score_samples(FRAME), log_prob(model, FRAME), rtol=1e-9)
    assert model.converged_
    total, number = N * model.score(FRAME), 2 + 3 * (2 + 1 + 1 + 2)
    assert model.bic(FRAME) == pytest.approx(number * np.log(N) - 2 * total, rel=1e-12)
    assert model.aic(FRAME) == pytest.approx(2 * number - 2 * total, rel=1e-12)
    assert list(model.levels_["colour"]) == ["blue", "green", "red"]
    assert list(model.feature_names_in_) == ["colour", "count", "size", "flag"]
    proba = model.predict_proba(FRAME)
    np.testing.assert_array_equal(proba.argmax(1), model.predict(FRAME))
    names = model.predict(FRAME)
    share = max((names == np.array(order)[Z]).mean() for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2],
                                                                   [1, 2, 0], [2, 0, 1], [2, 1, 0]))  # fmt: skip
    assert share > 0.9


def test_samples_and_imputations_have_the_levels_of_the_data(model):
    draws, z = model.sample(2_000)
    assert set(draws[:, 0]) == {"red", "green", "blue"}
    assert set(draws[:, 3]) == {True, False}
    assert (np.diff(z) >= 0).all()
    flags = draws[:, 3].astype(float)
    assert abs(flags.mean() - FRAME["flag"].mean()) < 5 * 0.5 * (N**-0.5 + 2_000**-0.5)
    filled = model.impute(FRAME)
    assert filled[3, 0] in ("red", "green", "blue")
    assert filled[5, 2] == pytest.approx(model.predict_proba(FRAME)[5] @ model.means_[:, 2])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(FRAME), model.score_samples(FRAME))
    assert clone(model).get_params() == model.get_params()


def test_weights_equal_repetition_and_lists_equal_dicts(model):
    weight = np.where(np.arange(N) < 20, 2.0, 1.0)
    repeated = pd.concat([FRAME, FRAME[:20]])
    names = ["categorical", "poisson", "gaussian", "categorical"]
    weighted = MixedMixture(K, **OPTIONS | {"tol": 1e-9}).fit(FRAME, sample_weight=weight)
    twice = MixedMixture(K, **OPTIONS | {"tol": 1e-9, "columns": names}).fit(repeated)
    assert twice.score(repeated) == pytest.approx(weighted.lower_bound_, rel=1e-6)


def test_known_components_order_the_others():
    labels = np.where(np.arange(N) % 5 == 0, 2 - Z, -1)
    model = MixedMixture(K, **OPTIONS).fit(FRAME, labels=labels)
    assert (np.diff(model.means_[:, 2]) < 0).all()
    assert (model.predict(FRAME) == 2 - Z).mean() > 0.9


def test_stepmix_has_the_same_maximum():
    """StepMix 3.0.0, 10 starts, abs_tol 1e-10: -2012.951061507 nats with 26 parameters."""
    rng, n = np.random.default_rng(7), 400
    z = rng.integers(3, size=n)
    x = np.c_[
        rng.normal(size=n) + 2 * z,
        rng.normal(size=n) * (1 + z),
        rng.integers(2, size=n) + z,
        rng.random(n) < 0.2 + 0.3 * z,
    ]
    x[rng.random(x.shape) < 0.1] = np.nan
    names = ["gaussian", "gaussian", "categorical", "categorical"]
    options = {"columns": names, "tol": 1e-12, "max_iter": 5000, "reg_covar": 0}
    model = MixedMixture(3, n_init=10, random_state=0, **options).fit(x)
    assert n * model.score(x) == pytest.approx(-2012.951061507, abs=1e-5)
    assert model.bic(x) == pytest.approx(4181.680201239, abs=1e-5)


def test_check_estimator_has_no_failures(unchecked):
    assert not_passed(MixedMixture(n_init=1)) == []


def test_other_levels_are_refused(model):
    other = FRAME.copy()
    other.loc[7, "colour"] = "pink"
    with pytest.raises(ValueError, match="X: the column 'colour' has the level 'pink' in row 7"):
        model.predict(other)
    text = FRAME.astype({"count": object})
    text.loc[2, "count"] = "many"
    with pytest.raises(ValueError, match=r"'count', got 'many' in row 2; a column of levels"):
        model.predict(text)


COLUMN_ERRORS = {
    "lost": ({"poisson": ["count"]}, r"got none for \['colour', 'size', 'flag'\]"),
    "two": (COLUMNS | {"gamma": ["size"]}, "expected one family for 'size', got two"),
    "unknown": (COLUMNS | {"gamma": ["weight"]}, "expected columns of X, .*, got 'weight'"),
    "name": (["fool"] * 4, "columns: expected a family of bernoulli, .* got 'fool'"),
    "length": (["poisson"] * 3, "columns: expected a family for each of 4 columns, got 3"),
    "support": ({"categorical": ["colour", "flag"], "gamma": ["count", "size"]}, "numbers > 0"),
    "text": (["gaussian"] * 4, "expected numbers in the column 'colour', got '.*' in row 0"),
}


@pytest.mark.parametrize(("columns", "message"), COLUMN_ERRORS.values(), ids=COLUMN_ERRORS)
def test_columns_are_checked(columns, message):
    with pytest.raises(ValueError, match=message):
        MixedMixture(2, columns=columns).fit(FRAME)


def test_every_family_has_a_name():
    x = np.array([[1.0, 5.0]] * 20)
    for name, family in FAMILIES.items():
        columns = describe([name] * 2, x, x, [0, 1])
        (block,) = columns.product(columns.encode(x)).blocks
        if isinstance(family, type):  # its sizes are those of the data
            assert isinstance(block.family, family)
        else:
            assert block.family == family
    assert describe(["negative_binomial"] * 2, x, x, [0, 1]).product(x).blocks[0][0].largest == 16
