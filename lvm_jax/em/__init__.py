"""Mixtures of exponential families by expectation-maximisation."""

from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax.em.accumulation import Statistics, accumulate, maximize
from lvm_jax.em.categorical import Categorical
from lvm_jax.em.counts import Multinomial, NegativeBinomial
from lvm_jax.em.covariances import GAUSSIANS, Diagonal, Full, Spherical, Tied
from lvm_jax.em.discrete import Bernoulli, Poisson
from lvm_jax.em.families import ExponentialFamily, Settings, Sums
from lvm_jax.em.fit import fit, initialize
from lvm_jax.em.gaussian import BlockMoments, Gaussians
from lvm_jax.em.information import Criteria, criteria, smallest_spread
from lvm_jax.em.mixture import Mixture, gaussian_mixture
from lvm_jax.em.online import Online, online, partial_fit
from lvm_jax.em.parsimonious import COVARIANCE_FAMILIES
from lvm_jax.em.positive import Exponential, Gamma
from lvm_jax.em.priors import ConjugatePrior, NormalInverseWishart, default_prior
from lvm_jax.em.product import Product
from lvm_jax.em.result import BoundaryWarning, Info, MixtureFit
from lvm_jax.em.scoring import stream
from lvm_jax.em.search import Candidate
from lvm_jax.em.selection import Selection, select
from lvm_jax.em.starts import STARTS
from lvm_jax.em.tables import parquet
from lvm_jax.em.von_mises_fisher import VonMisesFisher

__all__ = [
    "COVARIANCE_FAMILIES",
    "GAUSSIANS",
    "STARTS",
    "Bernoulli",
    "BlockMoments",
    "BoundaryWarning",
    "Candidate",
    "Categorical",
    "ConjugatePrior",
    "ConvergenceWarning",
    "Criteria",
    "Diagonal",
    "Exponential",
    "ExponentialFamily",
    "Full",
    "Gamma",
    "Gaussians",
    "Info",
    "Mixture",
    "MixtureFit",
    "Multinomial",
    "NegativeBinomial",
    "NormalInverseWishart",
    "Online",
    "Outcome",
    "Poisson",
    "Product",
    "Selection",
    "Settings",
    "Spherical",
    "Statistics",
    "Sums",
    "Tied",
    "VonMisesFisher",
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
]
