"""Mixtures of exponential families by expectation-maximisation."""

from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax.em.covariances import GAUSSIANS, Diagonal, Full, Spherical, Tied
from lvm_jax.em.discrete import Bernoulli, Poisson
from lvm_jax.em.families import Family, Settings, Sums
from lvm_jax.em.fit import Fit, Info, fit, initialize
from lvm_jax.em.gaussian import Gaussians, Moments
from lvm_jax.em.mixture import Mixture, gaussian_mixture
from lvm_jax.em.priors import NormalInverseWishart, Prior, default_prior
from lvm_jax.em.selection import Criteria, criteria, smallest_spread
from lvm_jax.em.starts import STARTS

__all__ = [
    "GAUSSIANS",
    "STARTS",
    "Bernoulli",
    "ConvergenceWarning",
    "Criteria",
    "Diagonal",
    "Family",
    "Fit",
    "Full",
    "Gaussians",
    "Info",
    "Mixture",
    "Moments",
    "NormalInverseWishart",
    "Outcome",
    "Poisson",
    "Prior",
    "Settings",
    "Spherical",
    "Sums",
    "Tied",
    "criteria",
    "default_prior",
    "fit",
    "gaussian_mixture",
    "initialize",
    "smallest_spread",
]
