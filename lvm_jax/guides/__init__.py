"""Guides q(z | x; phi) as pure functions: a family of q, and a map from x to its parameters."""

from lvm_jax.guides.amortized import Amortized, amortized, linear, num_outputs
from lvm_jax.guides.base import Conditional, Family, Guide
from lvm_jax.guides.defensive import Defensive, defensive
from lvm_jax.guides.families import (
    bernoulli,
    categorical,
    full_rank,
    label,
    location,
    low_rank,
    mean_field,
    one_hot,
)
from lvm_jax.guides.flow import flow, flow_family
from lvm_jax.guides.hierarchical import Ladder, bottom_up, ladder
from lvm_jax.guides.laplace import Laplace, laplace
from lvm_jax.guides.plate import plate
from lvm_jax.guides.refined import (
    Refined,
    RefinedConditional,
    cubature_elbo,
    refine,
    refined,
    sampled_elbo,
)
from lvm_jax.guides.shared import exact, fixed, per_point, shared

__all__ = [
    "Amortized",
    "Conditional",
    "Defensive",
    "Family",
    "Guide",
    "Ladder",
    "Laplace",
    "Refined",
    "RefinedConditional",
    "amortized",
    "bernoulli",
    "bottom_up",
    "categorical",
    "cubature_elbo",
    "defensive",
    "exact",
    "fixed",
    "flow",
    "flow_family",
    "full_rank",
    "label",
    "ladder",
    "laplace",
    "linear",
    "location",
    "low_rank",
    "mean_field",
    "num_outputs",
    "one_hot",
    "per_point",
    "plate",
    "refine",
    "refined",
    "sampled_elbo",
    "shared",
]
