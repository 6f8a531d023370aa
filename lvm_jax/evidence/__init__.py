"""Estimates of log p(x) with an error: from naive Monte Carlo to annealed chains."""

from lvm_jax.evidence.annealed import Annealed, annealed, evaluate_annealed
from lvm_jax.evidence.dataset import Summary, evaluate, summarize
from lvm_jax.evidence.importance import from_log_weights, importance
from lvm_jax.evidence.naive import naive, uniform
from lvm_jax.evidence.result import Evidence
from lvm_jax.evidence.sumo import Telescope, sumo

__all__ = [
    "Annealed",
    "Evidence",
    "Summary",
    "Telescope",
    "annealed",
    "evaluate",
    "evaluate_annealed",
    "from_log_weights",
    "importance",
    "naive",
    "summarize",
    "sumo",
    "uniform",
]
