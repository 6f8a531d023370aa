"""Mixtures of exponential families by expectation-maximisation."""

from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax.em.accumulation import Statistics, accumulate, maximize
from lvm_jax.em.bootstrap import Bootstrap, bootstrap
from lvm_jax.em.categorical import Categorical
from lvm_jax.em.counts import Multinomial, NegativeBinomial
from lvm_jax.em.covariances import GAUSSIANS, Diagonal, Full, Spherical, Tied
from lvm_jax.em.discrete import Bernoulli, Poisson
from lvm_jax.em.estimates import Estimates
from lvm_jax.em.factors import FactorAnalyzers, Factors
from lvm_jax.em.families import ExponentialFamily, Settings, Sums
from lvm_jax.em.fit import fit, initialize
from lvm_jax.em.gaussian import BlockMoments, Gaussians
from lvm_jax.em.information import Criteria, criteria, smallest_spread
from lvm_jax.em.mixture import Mixture, gaussian_mixture
from lvm_jax.em.noise import with_noise
from lvm_jax.em.online import Online, online, partial_fit
from lvm_jax.em.parsimonious import COVARIANCE_FAMILIES
from lvm_jax.em.positive import Exponential, Gamma
from lvm_jax.em.priors import ConjugatePrior, NormalInverseWishart, default_prior
from lvm_jax.em.product import Product
from lvm_jax.em.ratio_test import LikelihoodRatioTest, likelihood_ratio_test
from lvm_jax.em.result import BoundaryWarning, Info, MixtureFit
from lvm_jax.em.scoring import stream
from lvm_jax.em.search import Candidate
from lvm_jax.em.selection import Selection, select
from lvm_jax.em.standard_errors import StandardErrors, standard_errors
from lvm_jax.em.starts import STARTS
from lvm_jax.em.student import Student, Students
from lvm_jax.em.tables import parquet
from lvm_jax.em.variational import VariationalFit, VariationalInfo, variational
from lvm_jax.em.variational_mixture import VariationalMixture
from lvm_jax.em.von_mises_fisher import VonMisesFisher

__all__ = [
    "COVARIANCE_FAMILIES",
    "GAUSSIANS",
    "STARTS",
    "Bernoulli",
    "BlockMoments",
    "Bootstrap",
    "BoundaryWarning",
    "Candidate",
    "Categorical",
    "ConjugatePrior",
    "ConvergenceWarning",
    "Criteria",
    "Diagonal",
    "Estimates",
    "Exponential",
    "ExponentialFamily",
    "FactorAnalyzers",
    "Factors",
    "Full",
    "Gamma",
    "Gaussians",
    "Info",
    "LikelihoodRatioTest",
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
    "StandardErrors",
    "Statistics",
    "Student",
    "Students",
    "Sums",
    "Tied",
    "VariationalFit",
    "VariationalInfo",
    "VariationalMixture",
    "VonMisesFisher",
    "accumulate",
    "bootstrap",
    "criteria",
    "default_prior",
    "fit",
    "gaussian_mixture",
    "initialize",
    "likelihood_ratio_test",
    "maximize",
    "online",
    "parquet",
    "partial_fit",
    "select",
    "smallest_spread",
    "standard_errors",
    "stream",
    "variational",
    "with_noise",
]
