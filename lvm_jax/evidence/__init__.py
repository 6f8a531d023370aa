"""Estimates of log p(x) with an error: naive Monte Carlo, importance sampling, SUMO."""

from lvm_jax.evidence.dataset import Summary, evaluate, summarize
from lvm_jax.evidence.importance import importance
from lvm_jax.evidence.naive import naive, uniform
from lvm_jax.evidence.result import Evidence
from lvm_jax.evidence.sumo import Telescope, sumo

__all__ = [
    "Evidence",
    "Summary",
    "Telescope",
    "evaluate",
    "importance",
    "naive",
    "summarize",
    "sumo",
    "uniform",
]
