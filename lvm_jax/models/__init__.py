"""Models p(x, z; theta) as pure functions."""

from lvm_jax.models.base import Model, log_joint
from lvm_jax.models.gaussian_mixture import GaussianMixture, gaussian_mixture

__all__ = ["GaussianMixture", "Model", "gaussian_mixture", "log_joint"]
