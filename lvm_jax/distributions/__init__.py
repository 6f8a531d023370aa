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
    digits,
    entropy,
    expectation,
    flatten,
    gaussian_parts,
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
from lvm_jax.distributions.factored import FactoredNormal
from lvm_jax.distributions.flows import Flow
from lvm_jax.distributions.foreign import Adapted, adapted
from lvm_jax.distributions.kinds import (
    factors,
)
from lvm_jax.distributions.labels import Categorical, OneHotCategorical
from lvm_jax.distributions.mixtures import NormalMixture
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
    "FactoredNormal",
    "Flow",
    "FullRankNormal",
    "Independent",
    "LowRankNormal",
    "Normal",
    "NormalMixture",
    "OneHotCategorical",
    "Rows",
    "Successive",
    "Table",
    "Unflattened",
    "Uniform",
    "adapted",
    "categorical",
    "cubature",
    "digits",
    "entropy",
    "expectation",
    "factors",
    "flatten",
    "gaussian_parts",
    "is_discrete",
    "is_reparameterized",
    "kl_divergence",
    "normal",
    "one_hot",
    "support",
    "uniform",
]
