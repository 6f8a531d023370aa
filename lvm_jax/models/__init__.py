"""Latent-variable models p(x, z; theta) as pure functions."""

from lvm_jax.models.base import Draw, Joint, Model
from lvm_jax.models.categorical import Discrete, bernoulli, categorical
from lvm_jax.models.deep_gaussian import (
    DeepGaussian,
    TwoLayerGaussian,
    deep_gaussian,
    log_evidence_quadrature,
    two_layer_gaussian,
)
from lvm_jax.models.deep_latent_gaussian import (
    DeepLatentGaussian,
    Layer,
    deep_latent_gaussian,
)
from lvm_jax.models.factor_analysis import FactorAnalysis, FactorInfo, factor_analysis
from lvm_jax.models.gaussian_mixture import GaussianMixture, gaussian_mixture
from lvm_jax.models.linear_gaussian import LinearGaussian, linear_gaussian
from lvm_jax.models.plate import plate
from lvm_jax.models.ppca import ppca

__all__ = [
    "DeepGaussian",
    "DeepLatentGaussian",
    "Discrete",
    "Draw",
    "FactorAnalysis",
    "FactorInfo",
    "GaussianMixture",
    "Joint",
    "Layer",
    "LinearGaussian",
    "Model",
    "TwoLayerGaussian",
    "bernoulli",
    "categorical",
    "deep_gaussian",
    "deep_latent_gaussian",
    "factor_analysis",
    "gaussian_mixture",
    "linear_gaussian",
    "log_evidence_quadrature",
    "plate",
    "ppca",
    "two_layer_gaussian",
]
