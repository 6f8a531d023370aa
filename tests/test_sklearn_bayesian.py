import numpy as np
import pytest
from em_reference import blobs
from scipy.special import betaln, gammaln, multigammaln
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as Oracle
from sklearn_checks import not_passed

from lvm_jax.sklearn import BayesianGaussianMixture

N, D, K = 200, 2, 4
X = blobs(N, D, 3, seed=1)
STATE = (
    "weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", "covariances_",
    "precisions_cholesky_", "weights_",
)  # fmt: skip
CASES = {
    "full": "dirichlet_process", "tied": "dirichlet_distribution",
    "diag": "dirichlet_process", "spherical": "dirichlet_distribution",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge.*")


def options_of(kind):
    return {
        "n_components": K, "covariance_type": kind, "random_state": 0, "reg_covar": 1e-3,
        "weight_concentration_prior_type": CASES[kind], "weight_concentration_prior": 0.3,
        "mean_precision_prior": 0.5, "degrees_of_freedom_prior": 3.5,
    }  # fmt: skip


def from_the_start_of(start, **options):
    """Ours, with the posterior of another estimator."""
    ours = BayesianGaussianMixture(warm_start=True, **options)
    for name in STATE:
        setattr(ours, name, getattr(start, name))
    ours.converged_, ours.lower_bound_ = False, -np.inf
    return ours


def dropped(theirs):
    """The terms of the bound that scikit-learn leaves out."""
    kind, prior = theirs.covariance_type, np.asarray(theirs.covariance_prior_)
    scale = prior if kind in ("full", "tied") else prior * np.eye(D)
    nu, alpha = theirs.degrees_of_freedom_prior_, theirs.weight_concentration_prior_
    wishart = nu / 2 * np.linalg.slogdet(scale)[1] - nu * D / 2 * np.log(2)
    # Their Wishart norm is without the factor pi^(D (D - 1) / 4) of the multivariate gamma.
    wishart += D * (D - 1) / 4 * np.log(np.pi) - multigammaln(nu / 2, D)
    total = K * (wishart + D / 2 * np.log(theirs.mean_precision_prior_))
    total -= N * D / 2 * np.log(2 * np.pi)
    if theirs.weight_concentration_prior_type == "dirichlet_process":
        return total - K * betaln(1, alpha)
    return total + gammaln(K * alpha) - K * gammaln(alpha)


@pytest.mark.parametrize("kind", CASES)
def test_same_start_same_posterior_as_scikit_learn(kind):
    options = options_of(kind)
    theirs = Oracle(**options).fit(X)
    ours = from_the_start_of(Oracle(**options, max_iter=0).fit(X), **options).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    for name in (*STATE, "precisions_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-9)
    bounds = np.ravel(theirs.lower_bounds_)
    np.testing.assert_allclose(ours.lower_bounds_, bounds + dropped(theirs), rtol=1e-10)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_float32_is_kept_and_the_best_of_several_starts():
    options = {**options_of("full"), "n_init": 3, "max_iter": 20}
    ours = BayesianGaussianMixture(**options).fit(X.astype(np.float32))
    assert {getattr(ours, name).dtype for name in STATE[1:]} == {np.dtype(np.float32)}
    sample, labels = ours.sample(500)
    assert sample.dtype == np.float32
    counts = np.bincount(labels, minlength=K)
    expected = 500 * ours.weights_
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - ours.weights_)) + 1).all()


def test_missing_entries_are_imputed():
    holes = X.copy()
    holes[::5, 1] = np.nan
    ours = BayesianGaussianMixture(**options_of("diag"), max_iter=20).fit(holes)
    np.testing.assert_allclose(ours.mean_prior_, np.nanmean(holes, 0))
    np.testing.assert_allclose(ours.covariance_prior_, np.nanvar(holes, 0, ddof=1))
    filled = ours.impute(holes)
    want = ours.predict_proba(holes) @ ours.means_[:, 1]
    np.testing.assert_allclose(filled[::5, 1], want[::5], rtol=1e-9)


def test_the_step_limit_warns():
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        BayesianGaussianMixture(**options_of("full"), max_iter=1).fit(X)


BAD = {
    "mean": ({"mean_prior": np.zeros(3)}, "'means' should have the shape of"),
    "degrees": ({"degrees_of_freedom_prior": 1.0}, "should be greater than 1, but got 1.000"),
    "shape": ({"covariance_prior": np.ones(2)}, "'full covariance_prior' should have the shape"),
    "definite": ({"covariance_prior": -np.eye(2)}, "'full precision' should be symmetric, pos"),
    "rows": ({"n_components": N + 1}, "Expected n_samples >= n_components"),
    "strength": ({"mean_precision_prior": 0.0}, "'mean_precision_prior' parameter"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        clone(BayesianGaussianMixture()).set_params(**options).fit(X)


def test_check_estimator_has_no_failures(unchecked):
    assert not_passed(BayesianGaussianMixture()) == []
