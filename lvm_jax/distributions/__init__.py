"""Distributions of z and of x: scalar families, normals, discrete families, chains and flows.

A distribution has `sample(seed=key, sample_shape=())` and `log_prob`. These distributions are
pytrees of arrays, safe under every JAX transformation. `adapted` wraps those of distrax, NumPyro
and TensorFlow Probability (TFP).
"""

from lvm_jax.distributions.affine import Affine
from lvm_jax.distributions.base import (
    MAX_SUPPORT,
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
from lvm_jax.distributions.bits import Bernoulli
from lvm_jax.distributions.chain import Chain
from lvm_jax.distributions.flows import Flow
from lvm_jax.distributions.foreign import Adapted, adapted
from lvm_jax.distributions.kinds import (
    LatentKind,
    factors,
    finite_part,
    has_parts,
    is_flow,
    is_one_hot,
    latent_kinds,
    mean_of_draws,
    type_name,
)
from lvm_jax.distributions.labels import Categorical, OneHotCategorical
from lvm_jax.distributions.normals import FullRankNormal, LowRankNormal
from lvm_jax.distributions.rows import Rows
from lvm_jax.distributions.scalar import Independent, Normal, Uniform
from lvm_jax.distributions.successive import Successive
from lvm_jax.distributions.unflattened import Unflattened

__all__ = [
    "MAX_SUPPORT",
    "Adapted",
    "Affine",
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
    "Unflattened",
    "Uniform",
    "adapted",
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
    "has_parts",
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
    "support",
    "type_name",
    "uniform",
]
