"""Variational inference on a log-density: q, log Z and posterior draws.

    found = vi.fit(key, log_density, {"mu": 0.0, "log_tau": 0.0}, family="full_rank")
    found.elbo, found.log_evidence, found.k_hat, found.reason
    draws = found.resample(key, 1_000)          # .z is a pytree of the structure of the start

For a model of many data points, see `training.fit`.
"""

from lvm_jax.vi.batch_and_match import batch_and_match
from lvm_jax.vi.constraints import CONSTRAINTS
from lvm_jax.vi.families import FAMILIES
from lvm_jax.vi.fit import METHODS, fit
from lvm_jax.vi.gaussian import natural_gradient
from lvm_jax.vi.laplace import laplace
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.modes import modes
from lvm_jax.vi.modes_table import Modes
from lvm_jax.vi.pathfinder import pathfinder
from lvm_jax.vi.result import VariationalFit
from lvm_jax.vi.saved import Loaded, load
from lvm_jax.vi.stochastic import adam

__all__ = [
    "CONSTRAINTS",
    "FAMILIES",
    "METHODS",
    "Found",
    "Loaded",
    "Method",
    "Modes",
    "Reason",
    "Task",
    "Trace",
    "VariationalFit",
    "adam",
    "batch_and_match",
    "fit",
    "laplace",
    "load",
    "modes",
    "natural_gradient",
    "pathfinder",
]
