"""Mixtures of exponential families by expectation-maximisation."""

from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax.em.accumulation import Statistics, accumulate, maximize
from lvm_jax.em.covariances import GAUSSIANS, Diagonal, Full, Spherical, Tied
from lvm_jax.em.discrete import Bernoulli, Poisson
from lvm_jax.em.families import ExponentialFamily, Settings, Sums
from lvm_jax.em.fit import fit, initialize
from lvm_jax.em.gaussian import BlockMoments, Gaussians
from lvm_jax.em.mixture import Mixture, gaussian_mixture
from lvm_jax.em.online import Online, online, partial_fit
from lvm_jax.em.priors import ConjugatePrior, NormalInverseWishart, default_prior
from lvm_jax.em.result import Info, MixtureFit
from lvm_jax.em.scoring import stream
from lvm_jax.em.selection import Criteria, Selection, criteria, select, smallest_spread
from lvm_jax.em.starts import STARTS
from lvm_jax.em.tables import parquet
from lvm_jax.em.variational import VariationalFit, VariationalInfo, variational
from lvm_jax.em.variational_mixture import VariationalMixture

__all__ = [
    "GAUSSIANS",
    "STARTS",
    "Bernoulli",
    "BlockMoments",
    "ConjugatePrior",
    "ConvergenceWarning",
    "Criteria",
    "Diagonal",
    "ExponentialFamily",
    "Full",
    "Gaussians",
    "Info",
    "Mixture",
    "MixtureFit",
    "NormalInverseWishart",
    "Online",
    "Outcome",
    "Poisson",
    "Selection",
    "Settings",
    "Spherical",
    "Statistics",
    "Sums",
    "Tied",
    "VariationalFit",
    "VariationalInfo",
    "VariationalMixture",
    "accumulate",
    "criteria",
    "default_prior",
    "fit",
    "gaussian_mixture",
    "initialize",
    "maximize",
    "online",
    "parquet",
    "partial_fit",
    "select",
    "smallest_spread",
    "stream",
    "variational",
]
