"""scikit-learn's own tests of its BayesianGaussianMixture, run against ours, all in one process."""

from sklearn.mixture.tests import test_bayesian_mixture as theirs

from lvm_jax.sklearn import BayesianGaussianMixture

EXCLUDED = {
    "test_log_dirichlet_norm": "a private function of scikit-learn",
    "test_log_wishart_norm": "a private function of scikit-learn",
    "test_compare_covar_type": "calls scikit-learn's private methods",
}

theirs.BayesianGaussianMixture = BayesianGaussianMixture
names = {name for name in vars(theirs) if name.startswith("test_")}
assert set(EXCLUDED) <= names
globals().update({name: getattr(theirs, name) for name in sorted(names - set(EXCLUDED))})
