"""The table of the modes of a density."""

from typing import NamedTuple

import jax
import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.typing import Array, Float, Int, Latent
from lvm_jax.vi.constraints import Constraint

UNSEEN = 0.05  # the largest `Modes.unseen` of a log Z without doubt


class Modes(NamedTuple):
    """K modes of a density, in the order of their masses, and the paths that reached them."""

    location: Latent  # the mean of q at each, a pytree like the start, leaves [K, ...]
    log_mass: Float[Array, " K"]  # log Z_k: the integral of exp(log_density) in the mode, nats
    mass: Estimate  # Z_k / sum of Z, [K], with standard errors
    num_paths: Int[np.ndarray, " K"]  # paths that ended in the mode
    total_paths: int  # paths, with those that ended in no mode

    @property
    def unseen(self) -> float:
        """Good and Turing's estimate of the chance that one more path ends in a new mode."""
        return good_turing(self.num_paths, self.total_paths)

    def constrained(self, constraint: Constraint | None) -> "Modes":
        """With locations in constrained numbers."""
        if constraint is None:
            return self
        return self._replace(location=jax.vmap(lambda u: constraint.forward(u)[0])(self.location))

    @property
    def num_modes(self) -> int:
        """K."""
        return len(self.num_paths)


def good_turing(num_paths: Int[np.ndarray, " K"], total_paths: int) -> float:
    """The modes that one path alone reached over all paths (Good 1953, equation 9)."""
    return float((num_paths == 1).sum() / total_paths)
