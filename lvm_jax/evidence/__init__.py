"""Estimates of log p(x) with errors: importance sampling, annealing, SMC, nested sampling."""

from lvm_jax.evidence.annealed import Annealed, annealed, evaluate_annealed
from lvm_jax.evidence.certified import Certificate, Round, certify
from lvm_jax.evidence.dataset import Summary, evaluate, summarize
from lvm_jax.evidence.debiased import average, jackknife, multilevel
from lvm_jax.evidence.importance import from_log_weights, importance
from lvm_jax.evidence.missed import Scouted
from lvm_jax.evidence.naive import naive, uniform
from lvm_jax.evidence.nested import Nested, nested
from lvm_jax.evidence.resampling import Resampled, resample
from lvm_jax.evidence.result import Check, Evidence, larger
from lvm_jax.evidence.sandwich import Bidirectional, Sandwich, bidirectional, sandwich
from lvm_jax.evidence.sequential import Sequential, sequential
from lvm_jax.evidence.simulated import Simulated, certify_on_simulated
from lvm_jax.evidence.statement import Search
from lvm_jax.evidence.sumo import Telescope, sumo
from lvm_jax.evidence.tempered import Tempered, tempered

__all__ = [
    "Annealed",
    "Bidirectional",
    "Certificate",
    "Check",
    "Evidence",
    "Nested",
    "Resampled",
    "Round",
    "Sandwich",
    "Scouted",
    "Search",
    "Sequential",
    "Simulated",
    "Summary",
    "Telescope",
    "Tempered",
    "annealed",
    "average",
    "bidirectional",
    "certify",
    "certify_on_simulated",
    "evaluate",
    "evaluate_annealed",
    "from_log_weights",
    "importance",
    "jackknife",
    "larger",
    "multilevel",
    "naive",
    "nested",
    "resample",
    "sandwich",
    "sequential",
    "summarize",
    "sumo",
    "tempered",
    "uniform",
]
