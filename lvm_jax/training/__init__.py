"""Training by stochastic gradients: a compiled loop, and runs that can be resumed."""

from lvm_jax._core.pairs import Pair, Parameters, Point, Separate, point
from lvm_jax.training.ascent import ascend
from lvm_jax.training.averaging import with_ema
from lvm_jax.training.checkpoint import CheckpointError
from lvm_jax.training.diagnosis import Failure
from lvm_jax.training.fit import fit
from lvm_jax.training.hierarchy import global_latents
from lvm_jax.training.log import History
from lvm_jax.training.many import Fits, fit_many
from lvm_jax.training.objective import (
    Objective,
    Parts,
    Terms,
    free_bits,
    kl_warmup,
    parts,
)
from lvm_jax.training.options import Checkpoints, Placement, Validation
from lvm_jax.training.progress import Progress
from lvm_jax.training.result import Fit
from lvm_jax.training.saved import Saved, load
from lvm_jax.training.schedules import burda_epochs, burda_stages
from lvm_jax.training.store import CheckpointWarning

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "Failure",
    "Fit",
    "Fits",
    "History",
    "Objective",
    "Pair",
    "Parameters",
    "Parts",
    "Placement",
    "Point",
    "Progress",
    "Saved",
    "Separate",
    "Terms",
    "Validation",
    "ascend",
    "burda_epochs",
    "burda_stages",
    "fit",
    "fit_many",
    "free_bits",
    "global_latents",
    "kl_warmup",
    "load",
    "parts",
    "point",
    "with_ema",
]
