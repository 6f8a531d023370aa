"""Variational inference on a log-density: q, log Z and posterior draws.

    found = vi.fit(key, log_density, {"mu": 0.0, "log_tau": 0.0}, family="full_rank")
    found.elbo, found.log_evidence, found.k_hat, found.reason
    draws = found.resample(key, 1_000)          # .z is a pytree of the structure of the start

For a model of many data points, see `training.fit`.
"""

from lvm_jax.vi.batch_and_match import batch_and_match
from lvm_jax.vi.constraints import CONSTRAINTS
from lvm_jax.vi.deterministic import deterministic
from lvm_jax.vi.export import to_arviz
from lvm_jax.vi.families import FAMILIES
from lvm_jax.vi.fit import METHODS, fit
from lvm_jax.vi.foreign import ForeignModel, from_numpyro
from lvm_jax.vi.foreign_pymc import from_pymc
from lvm_jax.vi.foreign_tfp import from_tfp
from lvm_jax.vi.gaussian import natural_gradient
from lvm_jax.vi.laplace import laplace
from lvm_jax.vi.linear_response import linear_response
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.modes import modes
from lvm_jax.vi.modes_table import Modes
from lvm_jax.vi.nuts import NutsStart, nuts_start
from lvm_jax.vi.pathfinder import pathfinder
from lvm_jax.vi.reference import (
    Comparison,
    ReferencePosterior,
    compare_to_reference,
    posteriordb,
)
from lvm_jax.vi.result import VariationalFit
from lvm_jax.vi.saved import Loaded, load
from lvm_jax.vi.simulation import simulation_check
from lvm_jax.vi.stochastic import adam

__all__ = [
    "CONSTRAINTS",
    "FAMILIES",
    "METHODS",
    "Comparison",
    "ForeignModel",
    "Found",
    "Loaded",
    "Method",
    "Modes",
    "NutsStart",
    "Reason",
    "ReferencePosterior",
    "Task",
    "Trace",
    "VariationalFit",
    "adam",
    "batch_and_match",
    "compare_to_reference",
    "deterministic",
    "fit",
    "from_numpyro",
    "from_pymc",
    "from_tfp",
    "laplace",
    "linear_response",
    "load",
    "modes",
    "natural_gradient",
    "nuts_start",
    "pathfinder",
    "posteriordb",
    "simulation_check",
    "to_arviz",
]
