"""Estimators with scikit-learn's interface: mixtures, PPCA, factor analysis, autoencoders."""

from lvm_jax._core import extras

with extras.needed("sklearn"):
    from lvm_jax.sklearn.bayesian_gaussian_mixture import BayesianGaussianMixture
    from lvm_jax.sklearn.family_mixture import MixtureOfFactorAnalyzers, StudentMixture
    from lvm_jax.sklearn.gaussian_mixture import GaussianMixture
    from lvm_jax.sklearn.gaussian_mixture_ic import GaussianMixtureIC
    from lvm_jax.sklearn.linear_gaussian import FactorAnalysis, ProbabilisticPCA
    from lvm_jax.sklearn.mixed_mixture import MixedMixture
    from lvm_jax.sklearn.variational_autoencoder import VariationalAutoencoder

__all__ = [
    "BayesianGaussianMixture",
    "FactorAnalysis",
    "GaussianMixture",
    "GaussianMixtureIC",
    "MixedMixture",
    "MixtureOfFactorAnalyzers",
    "ProbabilisticPCA",
    "StudentMixture",
    "VariationalAutoencoder",
]
