"""Decompositions of the ELBO and of its gap to log p(x), for one data point and for a data set."""

from lvm_jax.decomposition.account import Account, Budget, Row, account
from lvm_jax.decomposition.aggregate import Surgery, log_aggregate, surgery
from lvm_jax.decomposition.calibration import Calibration, calibrate
from lvm_jax.decomposition.gaps import FamilyGaps, Gaps, gaps
from lvm_jax.decomposition.local import Ascent, Local, fit_local
from lvm_jax.decomposition.page import report
from lvm_jax.decomposition.rate_distortion import (
    Channel,
    RateDistortion,
    channel,
    rate_distortion,
)
from lvm_jax.decomposition.terms import (
    Decomposition,
    decompose,
    decompose_exactly,
    elbo_energy_entropy,
    elbo_reconstruction_kl,
)

__all__ = [
    "Account",
    "Ascent",
    "Budget",
    "Calibration",
    "Channel",
    "Decomposition",
    "FamilyGaps",
    "Gaps",
    "Local",
    "RateDistortion",
    "Row",
    "Surgery",
    "account",
    "calibrate",
    "channel",
    "decompose",
    "decompose_exactly",
    "elbo_energy_entropy",
    "elbo_reconstruction_kl",
    "fit_local",
    "gaps",
    "log_aggregate",
    "rate_distortion",
    "report",
    "surgery",
]
