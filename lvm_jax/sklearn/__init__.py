"""scikit-learn estimators over the models: the interfaces that users' hands know."""

from lvm_jax.sklearn.gaussian_mixture import GaussianMixture

__all__ = ["GaussianMixture"]
