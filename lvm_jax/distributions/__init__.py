"""Distributions of z and of x: scalar families, normals, discrete ones, chains and flows.

A distribution has `sample(seed=key, sample_shape=())` and `log_prob`. Those here are NamedTuples of
arrays or distrax's Independent over a scalar family, which are safe under every transformation.
"""

from lvm_jax.distributions.base import (
    MAX_SUPPORT,
    Bernoulli,
    Categorical,
    Independent,
    Normal,
    OneHotCategorical,
    Table,
    categorical,
    cubature,
    data_support,
    digits,
    entropy,
    expectation,
    flatten,
    gaussian_parts,
    has_sample_and_log_prob,
    independent_normals,
    is_discrete,
    is_reparameterized,
    kl_divergence,
    normal,
    one_hot,
    support,
    uniform,
)
from lvm_jax.distributions.chain import Chain
from lvm_jax.distributions.flows import Flow
from lvm_jax.distributions.kinds import (
    LatentKind,
    factors,
    finite_part,
    is_flow,
    is_one_hot,
    latent_kinds,
    mean_of_draws,
    part_names,
    type_name,
)
from lvm_jax.distributions.normals import FullRankNormal, LowRankNormal
from lvm_jax.distributions.rows import Rows
from lvm_jax.distributions.successive import Successive

__all__ = [
    "MAX_SUPPORT",
    "Bernoulli",
    "Categorical",
    "Chain",
    "Flow",
    "FullRankNormal",
    "Independent",
    "LatentKind",
    "LowRankNormal",
    "Normal",
    "OneHotCategorical",
    "Rows",
    "Successive",
    "Table",
    "categorical",
    "cubature",
    "data_support",
    "digits",
    "entropy",
    "expectation",
    "factors",
    "finite_part",
    "flatten",
    "gaussian_parts",
    "has_sample_and_log_prob",
    "independent_normals",
    "is_discrete",
    "is_flow",
    "is_one_hot",
    "is_reparameterized",
    "kl_divergence",
    "latent_kinds",
    "mean_of_draws",
    "normal",
    "one_hot",
    "part_names",
    "support",
    "type_name",
    "uniform",
]
