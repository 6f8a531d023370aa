import json
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from em_reference import blobs

from lvm_jax import em
from lvm_jax._core import checks

KEY = jax.random.key(0)
X = blobs(60, 2, 2)


def spoiled(**entries):
    x = X.copy()
    for row, value in entries.values():
        x[row, 1] = value
    return x


BAD_DATA = {
    "inf": (spoiled(a=(5, np.inf)), ValueError, r"got 1 inf, the first at row 5, column 1"),
    "both": (
        spoiled(a=(3, -np.inf), b=(2, np.nan)),
        ValueError,
        "or NaN for missing ones, got 1 inf.*row 3, column 1",
    ),
    "opposite infinities": (spoiled(a=(3, np.inf), b=(4, -np.inf)), ValueError, "got 2 inf"),
    "empty": (np.zeros((0, 2)), ValueError, r"x: expected at least num_components = 2 rows|1 rows"),
    "no columns": (np.zeros((5, 0)), ValueError, r"at least one column, got shape \(5, 0\)"),
    "1-D": (X[:, 0], ValueError, r"x: expected shape \[N, D\], got \(60,\).*reshape\(-1, 1\)"),
    "3-D": (X[None], ValueError, r"x: expected shape \[N, D\], got \(1, 60, 2\)"),
    "object": (X.astype(object), TypeError, "x: expected real numbers, got dtype object"),
    "text": (X.astype(str), TypeError, "x: expected real numbers, got dtype <U"),
    "complex": (X + 1j, TypeError, "x: expected real numbers, got complex dtype complex128"),
    "too few": (X[:1], ValueError, "x: expected at least num_components = 2 rows, got 1"),
    "duplicates": (np.tile(X[:1], (60, 1)), ValueError, "2 distinct rows for 2 components, got 1"),
}


@pytest.mark.parametrize("x, error, message", BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        em.fit(KEY, x, 2)


def constant_column():
    x = X.copy()
    x[:, 1] = 4.0
    return x


def test_constant_columns_without_regularization_are_an_error():
    with pytest.raises(
        ValueError, match=r"x: expected columns that vary, got constant columns \[1"
    ):
        em.fit(KEY, constant_column(), 2, regularization=0.0)


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_constant_columns_warn_where_regularization_sets_their_variance(covariance_type):
    x, reg = constant_column(), 1e-3
    if covariance_type == "spherical":  # has variance from the other column: no warning
        em.fit(KEY, x, 2, covariance_type, regularization=reg, throw=False)
        return
    with pytest.warns(UserWarning, match=r"x: columns \[1\] are constant"):
        fit = em.fit(KEY, x, 2, covariance_type, regularization=reg, throw=False)
    # float32: the column's variance is the regularization and nothing else
    np.testing.assert_allclose(fit.mixture.covariances[:, 1, 1], reg, rtol=1e-5)


BAD_OPTIONS = {
    "K = 0": ({"num_components": 0}, ValueError, "num_components: expected an integer >= 1, got 0"),
    "K < 0": ({"num_components": -3}, ValueError, "num_components: .* >= 1, got -3"),
    "K float": ({"num_components": 2.0}, TypeError, "num_components: expected an integer"),
    "K bool": ({"num_components": True}, TypeError, "num_components: expected an integer"),
    "R = 0": ({"num_restarts": 0}, ValueError, "num_restarts: expected an integer >= 1, got 0"),
    "steps": ({"max_steps": -1}, ValueError, "max_steps: expected an integer >= 0, got -1"),
    "tolerance": ({"tolerance": -1.0}, ValueError, "tolerance: .* >= 0, got -1"),
    "tolerance nan": ({"tolerance": np.nan}, ValueError, "tolerance: .*finite.* got nan"),
    "tolerance text": ({"tolerance": "small"}, TypeError, "tolerance: expected a number"),
    "regularization": ({"regularization": -1e-6}, ValueError, "regularization: .* got -1e-06"),
    "type": ({"family": "dia"}, ValueError, "family: .*did you mean 'diag'"),
    "type far": ({"family": "xyz"}, ValueError, "one of full, tied, diag, spherical, EII"),
    "no family": ({"family": em.Bernoulli}, TypeError, r"family: .*em\.Bernoulli\(\), got type"),
    "start": ({"start": "k-mean"}, ValueError, "start: .*did you mean 'kmeans'"),
    "weight length": ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight: .*\[60\], got"),
    "weight negative": (
        {"sample_weight": np.r_[np.ones(58), -2.0, -1.0]}, ValueError,
        r"sample_weight: expected non-negative weights, got -2 at index 58 \(2 in all\)",
    ),
    "weight zero": ({"sample_weight": np.zeros(60)}, ValueError, "sample_weight: .*positive sum"),
    "weight nan": (
        {"sample_weight": np.r_[np.ones(59), np.nan]}, ValueError,
        r"sample_weight: .* 1 NaN and 0 inf, the first at index \(59,\)",
    ),
    "weight leaves one row": (
        {"sample_weight": np.r_[1.0, np.zeros(59)]}, ValueError, "2 distinct rows .* got 1"
    ),
    "start array": ({"start": X}, TypeError, "start: .* em.Mixture or labels of shape .60,., got .* .60, 2"),
}  # fmt: skip


@pytest.mark.parametrize("options, error, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        em.fit(KEY, X, **{"num_components": 2, **options})


@pytest.mark.parametrize(
    "key, error, message",
    [
        (0, TypeError, "key: expected a typed key.*got int"),
        (None, TypeError, "key: expected a typed key.*got NoneType"),
        (np.zeros(2, np.uint32), TypeError, "key: expected a typed key.*got ndarray"),
        (jax.random.PRNGKey(0), TypeError, r"key: .* uint32, .*; use jax\.random\.key\(seed\)"),
        (jax.random.split(KEY), ValueError, r"key: expected one key, got .* shape \(2,\)"),
    ],
)
def test_keys_are_typed_and_single(key, error, message):
    with pytest.raises(error, match=message):
        em.fit(key, X, 2)
    assert checks.key(KEY) is KEY


def mixture(num_components, dim, covariance_type="spherical"):
    rng = np.random.default_rng(0)
    scale = {"spherical": (num_components,), "diag": (num_components, dim)}[covariance_type]
    means = rng.normal(size=(num_components, dim))
    pi = np.full(num_components, 1 / num_components)
    return em.gaussian_mixture(pi, means, np.ones(scale), covariance_type)


@pytest.mark.parametrize(
    "initial, message",
    [
        (mixture(3, 2), "start: expected 2 components in 2 dimensions, got 3 in 2"),
        (mixture(2, 3), "start: expected 2 components in 2 dimensions, got 2 in 3"),
        (mixture(2, 2, "diag"), r"start: expected Spherical\(\) components, got Diagonal\(\)"),
    ],
)
def test_initial_mixtures_must_fit_the_problem(initial, message):
    with pytest.raises(ValueError, match=message):
        em.fit(KEY, X, 2, "spherical", start=initial)


def test_families_refuse_data_outside_their_support():
    with pytest.raises(ValueError, match=r"x: expected values in \[0, 1\], got"):
        em.fit(KEY, X, 2, family=em.Bernoulli())
    with pytest.raises(ValueError, match=r"x: expected counts 0, 1, 2"):
        em.fit(KEY, np.abs(X), 2, family=em.Poisson())
    with pytest.raises(ValueError, match=r"x: expected counts 0, 1, 2"):
        em.fit(KEY, np.round(X) - 5, 2, family=em.Poisson())


def test_finite_is_not_fooled_by_a_sum_that_overflows():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checks.finite(np.full((4, 2), 3e38, np.float32), "x")


@pytest.mark.parametrize("kind", [np.asarray, jax.numpy.asarray])
def test_finite_counts_and_finds_the_first_over_all_blocks(kind, monkeypatch):
    """Blocks of 7 rows of 3 numbers; rows 12 and 17 lie in the second and the third."""
    monkeypatch.setattr(checks.arrays, "BLOCK", 23)
    x = np.zeros((19, 3), np.float32)
    assert [(start, len(rows)) for start, rows in checks.blocks(x)] == [(0, 7), (7, 7), (14, 5)]
    checks.finite(kind(x), "x")
    x[12, 2], x[17, 1], x[17, 0] = np.nan, np.inf, -np.inf
    with pytest.raises(ValueError, match="1 NaN and 2 inf, the first at row 12, column 2"):
        checks.finite(kind(x), "x")


def test_data_frames_are_read_as_numbers():
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, -2.0]})
    np.testing.assert_array_equal(checks.points(frame), [[1, 0.5], [2, 1.5], [3, -2]])
    frame["c"] = pd.array([4, None, 6], dtype="Int64")  # with a missing value
    np.testing.assert_array_equal(checks.float_array(frame, "x")[:, 2], [4, np.nan, 6])
    with pytest.raises(ValueError, match="x: .* 1 NaN and 0 inf, the first at row 1, column 2"):
        checks.points(frame)
    frame["species"] = ["setosa", "other", "setosa"]
    with pytest.raises(TypeError, match=r"x: .* in column 'species' \(1 of 4 columns are not"):
        checks.points(frame)


def test_an_outcome_prints_its_name():
    assert f"{em.Outcome.CONVERGED} {em.Outcome(2)!s}" == "CONVERGED MAX_STEPS"
    assert em.Outcome.CONVERGED == 1  # and stays a number, in arrays and in JSON
    assert json.dumps(em.Outcome.CONVERGED) == "1"


def test_distinct_rows_counts_over_blocks_and_equates_both_zeros():
    x = np.zeros((1000, 2))
    x[1::2] = -0.0
    with pytest.raises(ValueError, match="got 1"):
        checks.distinct_rows(x, 2)
    x[999] = 1.0
    checks.distinct_rows(x, 2)


@pytest.mark.parametrize("matrix", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
def test_indefinite_matrices_are_refused(matrix):
    with pytest.raises(ValueError, match=r"A: expected positive definite .* eigenvalue -"):
        checks.symmetric_positive_definite(np.array(matrix) - 1e-9 * np.eye(2), "A")
    with pytest.raises(ValueError, match=r"A: expected symmetric matrices, got .* up to 1"):
        checks.symmetric_positive_definite(np.array([[2.0, 1.0], [0.0, 2.0]]), "A")
