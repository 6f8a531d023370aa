"""What a search for modes covered, and the condition under which an interval holds."""

from typing import NamedTuple

import numpy as np

from lvm_jax._core import checks

RISK = 0.05  # chance that a basin of prior mass `basin` has no start
UNSEEN = 0.02  # most modes that one start alone reached, relative to the starts
LATE = 0.1  # most share of the evidence in such modes


class Search(NamedTuple):
    """The starts of N points, and the K modes that their ascents reached.

    For a discrete z there are no ascents: the starts are draws of the prior after one move, and
    there are no modes.
    """

    starts: np.ndarray  # [N], starts whose ascent has ended, or draws
    scouts: np.ndarray  # [N], those of them that are draws of the prior
    reached: np.ndarray  # [N, K], independent starts that ended in each mode
    masses: np.ndarray  # [N, K], the share of each mode in the evidence; 0 in an unused slot
    is_mode: np.ndarray  # [N, K] booleans: the slot is in use

    def __repr__(self) -> str:
        """The numbers of starts and modes, and the prior mass that the starts may have missed."""
        starts = f"{int(self.starts.min())} starts or more"
        modes = ""
        if self.is_mode.shape[1]:
            modes = f", {int(self.num_modes.min())} to {int(self.num_modes.max())} modes"
        basin, where = self.basin.max(), "basin" if modes else "set"
        return f"Search({starts}{modes}; a {where} of {basin:.2%} of the prior may be unvisited)"

    @property
    def num_modes(self) -> np.ndarray:
        """[N]."""
        return self.is_mode.sum(1)

    @property
    def unseen(self) -> np.ndarray:
        """[N], (modes that one start alone reached) / starts.

        It estimates the chance that one more start ends in a new mode (Good 1953).
        """
        return (self.reached == 1).sum(1) / np.maximum(self.starts, 1)

    @property
    def late(self) -> np.ndarray:
        """[N], the share of the evidence in modes that one start alone reached."""
        return np.where(self.reached == 1, self.masses, 0.0).sum(1)

    @property
    def basin(self) -> np.ndarray:
        """[N], f = 1 - 0.05^(1 / scouts): a set of prior mass above f has a scout at 95%.

        (1 - f)^scouts = 0.05 is the chance that all miss a set of mass f.
        """
        return 1 - RISK ** (1 / np.maximum(self.scouts, 1))

    def statement(self, point: int, half_width: float) -> str:
        """The condition under which the interval of a point, of this half-width, holds."""
        point = checks.integer(point, "point", 0)
        share = -np.expm1(-half_width) if np.isfinite(half_width) else np.nan
        basin, discrete = self.basin[point], self.is_mode.shape[1] == 0
        where = "set" if discrete else "basin"
        condition = (
            f"holds if unvisited {where}s carry at most {share:.2g} of the evidence "
            f"(a {where} of {basin:.2%} of the prior's mass is visited at {1 - RISK:.0%})"
        )
        if discrete:
            return f"{condition}; {self.scouts[point]} draws of the prior, without ascents"
        number = self.num_modes[point]
        masses = np.sort(self.masses[point][self.is_mode[point]])[::-1]
        words = ", ".join(f"{mass:.3g}" for mass in masses[:4]) + (", ..." if number > 4 else "")
        words = f" ({words})" if number else ""
        modes = f"{number} mode{'' if number == 1 else 's'}{words} from {self.starts[point]}"
        return f"{condition}; {modes} ascents, {self.unseen[point]:.2%} unseen"
