"""Annealed importance sampling: paths of densities, schedules of temperatures, Markov transitions.

    log f_beta(z) = (1 - beta) log q(z) + beta log p(x, z),    0 <= beta <= 1,    of ONE data point

A `plan` has the temperatures and transitions for `evidence.annealed`, `sequential` and `sandwich`.
`unadjusted_log_weights` uses differentiable dynamics instead, for bounds to train with.
"""

from lvm_jax.annealing.chains import AnnealedChain, Trail, anneal, reverse, trail
from lvm_jax.annealing.cost import affordable_temperatures, chain_cost, pilot_cost
from lvm_jax.annealing.discrete import flip, gibbs
from lvm_jax.annealing.path import Path, linear, sigmoid
from lvm_jax.annealing.plan import Plan, fixed, plan
from lvm_jax.annealing.transitions import Transition, hmc, mala, random_walk
from lvm_jax.annealing.tuning import Schedule, Tuned, schedule, spread, tune
from lvm_jax.annealing.unadjusted import unadjusted_log_weights

__all__ = [
    "AnnealedChain",
    "Path",
    "Plan",
    "Schedule",
    "Trail",
    "Transition",
    "Tuned",
    "affordable_temperatures",
    "anneal",
    "chain_cost",
    "fixed",
    "flip",
    "gibbs",
    "hmc",
    "linear",
    "mala",
    "pilot_cost",
    "plan",
    "random_walk",
    "reverse",
    "schedule",
    "sigmoid",
    "spread",
    "trail",
    "tune",
    "unadjusted_log_weights",
]
