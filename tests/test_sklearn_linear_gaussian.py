import pickle

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Oracle
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_checks import not_passed

from lvm_jax.compiling import STORE
from lvm_jax.models import factor_analysis
from lvm_jax.sklearn import FactorAnalysis, ProbabilisticPCA
from lvm_jax.sklearn.rotation import canonical, rotate

RNG = np.random.default_rng(0)
N, D, L = 400, 6, 2
LOADINGS = RNG.normal(size=(D, L)) * np.array([2.0, 1.0])
NOISE = np.array([0.3, 1.5, 0.6, 2.0, 0.9, 0.4])
MEAN = np.arange(D) - 3.0
X = RNG.normal(size=(N, L)) @ LOADINGS.T + NOISE * RNG.normal(size=(N, D)) + MEAN
BOTH = pytest.mark.parametrize("estimator", [ProbabilisticPCA, FactorAnalysis])


@BOTH
def test_check_estimator_has_no_failures(estimator, unchecked):
    assert not_passed(estimator()) == []


@pytest.mark.parametrize("num_components", [1, L, D - 1, None])
def test_ppca_is_scikit_learns_probabilistic_pca(num_components):
    ours = ProbabilisticPCA(num_components).fit(X)
    theirs = PCA(num_components or D - 1, svd_solver="full").fit(X)
    for name in ("noise_variance_", "explained_variance_", "explained_variance_ratio_", "mean_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    signs = np.sign((ours.components_ * theirs.components_).sum(1))[:, None]
    np.testing.assert_allclose(ours.components_, signs * theirs.components_, atol=1e-9)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-9)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), atol=1e-9)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-12)
    assert ours.n_components_ == len(ours.components_) == (num_components or D - 1)


def test_ppca_of_wide_data_maximises_the_likelihood():
    wide = X[:5]  # rank 4 in 6 dimensions: PCA would share the rest among the rank, not among all
    model = ProbabilisticPCA(2).fit(wide)
    values = np.linalg.eigvalsh(np.cov(wide.T))[::-1]
    assert model.noise_variance_ == pytest.approx(values[2:].sum() / 4, rel=1e-9)
    assert PCA(2).fit(wide).noise_variance_ == pytest.approx(values[2:].sum() / 3, rel=1e-9)
    assert ProbabilisticPCA().fit(wide).n_components_ == 3


@pytest.mark.parametrize("method", [None, "varimax", "quartimax"])
def test_factor_analysis_is_scikit_learns_at_convergence(method):
    options = {"tol": 1e-13, "max_iter": 20_000, "rotation": method}
    ours, theirs = FactorAnalysis(L, **options), Oracle(L, svd_method="lapack", **options)
    ours.fit(X), theirs.fit(X)
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-10)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-6)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), atol=1e-6)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=2e-6)
    # The same factors too, but for their order and signs; scikit-learn stops rotating at 1e-6.
    alike = np.abs(ours.transform(X).T @ theirs.transform(X))
    order = alike.argmax(1)
    assert sorted(order) == [0, 1]
    signed = theirs.components_[order]
    signed = signed * np.sign((signed * ours.components_).sum(1))[:, None]
    np.testing.assert_allclose(ours.components_, signed, atol=1e-5 if method is None else 2e-3)


def test_loglike_is_that_of_all_samples_after_every_step():
    model = FactorAnalysis(L, tol=1e-6).fit(X)
    assert len(model.loglike_) == model.n_iter_ > 5
    assert (np.diff(model.loglike_) > 0).all()
    assert np.diff(model.loglike_)[-1] < 1e-6 <= np.diff(model.loglike_)[:-1].min()
    assert model.loglike_[-1] == pytest.approx(N * model.score(X), rel=1e-12)
    with pytest.warns(ConvergenceWarning, match="did not converge in 3 steps; increase max_iter"):
        short = FactorAnalysis(L, tol=1e-6, max_iter=3).fit(X)
    assert short.loglike_ == model.loglike_[:3]
    with jax.enable_x64(True):
        info = factor_analysis(X, L, tolerance=1e-6 / N).info
    np.testing.assert_array_equal(N * info.trace, model.loglike_)


@BOTH
def test_log_likelihoods_posteriors_and_means_are_those_of_the_dense_joint_gaussian(estimator):
    model = estimator(L).fit(X)
    covariance = model.get_covariance()
    dense = scipy.stats.multivariate_normal(model.mean_, covariance)
    np.testing.assert_allclose(model.score_samples(X), dense.logpdf(X), rtol=1e-10)
    np.testing.assert_allclose(model.get_precision() @ covariance, np.eye(D), atol=1e-10)
    origin = model.inverse_transform(np.zeros((1, L)))
    np.testing.assert_allclose(origin[0], model.mean_, rtol=1e-12)
    loadings = (model.inverse_transform(np.eye(L)) - origin).T
    noise = np.diag(np.broadcast_to(model.noise_variance_, D))
    np.testing.assert_allclose(loadings @ loadings.T + noise, covariance, atol=1e-10)
    means = (X - MEAN) @ np.linalg.solve(covariance, loadings)
    shift = (model.mean_ - MEAN) @ np.linalg.solve(covariance, loadings)
    np.testing.assert_allclose(model.transform(X), means - shift[None], atol=1e-10)


@BOTH
def test_samples_have_the_models_moments(estimator):
    model = estimator(L, random_state=3).fit(X)
    draws = model.sample(20_000)
    np.testing.assert_array_equal(draws, model.sample(20_000))
    assert not np.array_equal(draws[:1], model.set_params(random_state=4).sample())
    covariance = model.get_covariance()
    variances = np.diag(covariance)
    error = np.sqrt(variances / len(draws))
    assert (np.abs(draws.mean(0) - model.mean_) < 5 * error).all()
    # var of a product of centred Gaussians: s_ii s_jj + s_ij^2.
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(draws))
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * error).all()


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_computes_in_the_dtype_it_is_given(estimator, dtype):
    model = estimator(L, random_state=0).fit(X.astype(dtype))
    z = model.transform(X.astype(dtype))
    assert np.shape(model.noise_variance_) == (() if estimator is ProbabilisticPCA else (D,))
    answers = [z, model.inverse_transform(z), model.score_samples(X.astype(dtype))]
    answers += [model.sample(2), model.get_covariance(), model.get_precision()]
    answers += [model.components_, model.mean_, model.noise_variance_]
    assert {answer.dtype for answer in answers} == {np.dtype(dtype)}
    assert isinstance(model.score(X.astype(dtype)), float)
    assert model.score(X.astype(dtype)) == pytest.approx(estimator(L).fit(X).score(X), rel=1e-5)


@BOTH
def test_pickle_clone_and_changed_attributes(estimator):
    model = estimator(L, random_state=0).fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.sample(3), model.sample(3))
    assert clone(model).get_params() == model.get_params()
    again.mean_ = model.mean_ + 1
    np.testing.assert_allclose(again.score_samples(X + 1), model.score_samples(X), rtol=1e-12)


@BOTH
def test_pipeline_pandas_output_and_grid_search(estimator):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    name = estimator.__name__.lower()
    pipe = make_pipeline(StandardScaler(), estimator(L)).set_output(transform="pandas")
    found = pipe.fit_transform(frame)
    assert list(found.columns) == list(pipe.get_feature_names_out()) == [f"{name}0", f"{name}1"]
    model = estimator(L).fit(frame)
    assert list(model.feature_names_in_) == list("abcdef")
    np.testing.assert_array_equal(model.fit_transform(frame), model.transform(frame))
    grid = GridSearchCV(estimator(), {"n_components": [1, 2]}, cv=2).fit(frame)
    assert grid.best_params_ == {"n_components": L}  # as many as made the data


def test_the_default_number_of_factors_is_ledermanns_bound():
    for dim, bound in ((2, 1), (3, 1), (4, 1), (5, 2), (6, 3), (10, 6)):
        assert FactorAnalysis()._default_components(dim - 1, dim) == bound
        free = dim * (bound + 1) - bound * (bound - 1) // 2
        assert dim == 2 or free <= dim * (dim + 1) // 2 < free + dim - bound
    assert FactorAnalysis()._default_components(2, 10) == 2  # few samples
    assert FactorAnalysis(tol=1.0).fit(X).components_.shape == (3, D)


@pytest.mark.parametrize(("method", "weight"), [("varimax", 1.0), ("quartimax", 0.0)])
def test_rotations_are_at_a_maximum_of_their_criterion(method, weight):
    loadings = np.random.default_rng(5).normal(size=(9, 4))
    rotated = rotate(loadings, method)
    np.testing.assert_allclose(rotated @ rotated.T, loadings @ loadings.T, atol=1e-12)

    def criterion(w):
        return (w**4).sum() - weight * ((w**2).sum(0) ** 2).sum() / 9

    # Stationary among rotations: W^T times the criterion's gradient is symmetric.
    slope = rotated.T @ (rotated**3 - weight * rotated * (rotated**2).mean(0)[None])
    np.testing.assert_allclose(slope, slope.T, atol=1e-6)
    assert criterion(rotated) > criterion(loadings) + 1
    for seed in range(5):  # and no other rotation near it does better
        skew = 0.05 * np.random.default_rng(seed).normal(size=(4, 4))
        turn = np.linalg.qr(np.eye(4) + skew - skew.T)[0]
        assert criterion(rotated @ turn) < criterion(rotated)
    lengths = (rotated**2).sum(0)
    assert (np.diff(lengths) <= 0).all()
    assert (rotated[np.abs(rotated).argmax(0), np.arange(4)] > 0).all()
    assert rotate(loadings[:, :1], method).shape == (9, 1)


def test_unrotated_factors_have_a_diagonal_posterior_covariance():
    w, noise = RNG.normal(size=(5, 3)), RNG.uniform(0.5, 2, size=5)
    turned = canonical(w, noise)
    inner = turned.T @ (turned / noise[:, None])
    np.testing.assert_allclose(inner, np.diag(np.diagonal(inner)), atol=1e-12)
    assert (np.diff(np.diagonal(inner)) < 0).all()
    np.testing.assert_allclose(turned @ turned.T, w @ w.T, atol=1e-12)


@BOTH
@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"n_components": 0}, X, "'n_components' parameter"),
        ({"n_components": D}, X, f"n_components: expected 1 to {D - 1} .* got {D}"),
        ({"n_components": 3}, X[:4], "expected 1 to 2 .* at least 2 than the 4 samples.* got 3"),
        ({"random_state": "one"}, X, "'random_state' parameter"),
        ({}, X[:2], "2 sample"),
        ({}, X[:, :1], "1 feature"),
        ({}, np.where(X > 3, np.nan, X), "contains NaN"),
        ({"n_components": 1}, np.outer(np.arange(9.0), np.ones(3)), "span more than n_components"),
    ],
)
def test_bad_input_is_refused_before_anything_compiles(estimator, options, data, message):
    before = len(STORE)
    with pytest.raises(ValueError, match=message):
        estimator(**options).fit(data)
    assert len(STORE) == before


@BOTH
def test_numbers_of_rows_share_programs_and_change_no_number(estimator):
    model = estimator(L, random_state=3).fit(X)
    sizes = (65, 97, 127)  # of one bucket
    found = [(model.transform(rows), model.score_samples(rows)) for rows in (X[:65], X[:127])]
    model.sample(65)
    before = len(STORE)
    z, log_p = model.transform(X[:97]), model.score_samples(X[:97])
    drawn = [model.sample(size) for size in sizes]
    assert len(STORE) == before
    for many, one in zip(found[1], (z, log_p), strict=True):
        np.testing.assert_allclose(many[:97], one, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(model.sample(9), drawn[2][:9])  # of different buckets


@BOTH
def test_bad_arguments_of_a_fitted_model_are_refused(estimator):
    model = estimator(L).fit(X)
    with pytest.raises(ValueError, match="X: expected 2 columns, one for each component, got 3"):
        model.inverse_transform(np.zeros((4, 3)))
    for count in (0, 1.5, True):
        with pytest.raises(ValueError, match="n_samples: expected an integer >= 1"):
            model.sample(count)
    with pytest.raises(ValueError, match="X has 5 features"):
        model.transform(X[:, 1:])


def test_a_likelihood_without_a_maximum_is_refused_by_factor_analysis():
    constant = np.column_stack([X, np.full(N, 2.5)])
    with pytest.raises(ValueError, match=r"constant columns \[6\]; drop them"):
        FactorAnalysis(L).fit(constant)
    z = RNG.normal(size=(50, 1))
    heywood = np.hstack([z, z, z + RNG.normal(size=(50, 1)), RNG.normal(size=(50, 1))])
    with pytest.raises(ValueError, match=r"column [01] falls to zero \(a Heywood.*float64 data"):
        FactorAnalysis(1, tol=0.0).fit(heywood.astype(np.float32))
    with pytest.raises(ValueError, match="'rotation' parameter"):
        FactorAnalysis(rotation="oblimin").fit(X)


def test_directions_of_equal_variance_do_no_harm():
    model = ProbabilisticPCA(1).fit(np.vstack([np.eye(3), -np.eye(3)]))  # covariance 2/5 I
    np.testing.assert_allclose(model.get_covariance(), 0.4 * np.eye(3), atol=1e-12)
    assert np.isfinite(model.transform(np.eye(3))).all()


def test_the_precision_keeps_its_digits_in_float32():
    # Loadings that are nearly collinear: I + W^T W has a condition of 1e7.
    model = FactorAnalysis(2).fit(X.astype(np.float32))
    loadings = np.random.default_rng(9).normal(size=(D, 2))
    loadings[:2] = [[3e3, 3e3], [0, 1]]
    model.components_ = loadings.T.astype(np.float32)
    w, noise = model.components_.T.astype(float), model.noise_variance_.astype(float)
    truth = np.linalg.inv(w @ w.T + np.diag(noise))
    np.testing.assert_allclose(model.get_precision(), truth, rtol=0, atol=1e-6 * truth.max())
