"""scikit-learn's own tests of its GaussianMixture, run against ours, all in one process."""

import numpy as np
import pytest
from sklearn.mixture.tests import test_gaussian_mixture as theirs

from lvm_jax.sklearn import GaussianMixture

PRIVATE = "calls scikit-learn's private functions or attributes"
EXCLUDED = {
    "test_suffstat_sk_full": PRIVATE,
    "test_suffstat_sk_tied": PRIVATE,
    "test_suffstat_sk_diag": PRIVATE,
    "test_gaussian_suffstat_sk_spherical": PRIVATE,
    "test_compute_log_det_cholesky": PRIVATE,
    "test_gaussian_mixture_log_probabilities": PRIVATE,
    "test_gaussian_mixture_precisions_init": PRIVATE,
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": PRIVATE,
    "test_gaussian_mixture_array_api_compliance": "needs array libraries that are not installed",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": "the same",
    "test_check_weights": "a message that names the largest weight as the smallest",
    "test_regularisation": "a message: too few distinct rows are named before the fit",
    "test_gaussian_mixture_precisions_init_diag": "the order of the clusters of their k-means",
    "test_gaussian_mixture_setting_best_params": "the variance of one point, which is rounding there "
    "and 0 here, where the fit is refused",
    "test_init": "ten starts together and one alone add in another order: they differ in the last digit",
}

theirs.GaussianMixture = GaussianMixture
names = {name for name in vars(theirs) if name.startswith("test_")}
assert set(EXCLUDED) <= names
globals().update({name: getattr(theirs, name) for name in sorted(names - set(EXCLUDED))})


@pytest.fixture
def global_dtype():
    """The defaults of scikit-learn."""
    return np.float64


@pytest.fixture
def global_random_seed():
    return 42


@pytest.mark.filterwarnings("ignore:.*did not converge.*")
def test_ten_starts_are_no_worse_than_the_first():
    """test_init, to rounding."""
    for state in range(5):
        data = theirs.RandomData(np.random.RandomState(state), n_samples=50, scale=1)
        options = {"n_components": data.n_components, "max_iter": 1, "random_state": state}
        one, ten = (
            GaussianMixture(**options, n_init=number).fit(data.X["full"]).lower_bound_
            for number in (1, 10)
        )
        assert ten >= one - 1e-12
