"""Bounds on log p(x) against the number of samples S: direction, gap, rate (32 s).

Three models have a known log p(x) and distribution of the weights, so most bounds have an exact
expectation for every S. The bounds are IWAE, the jackknife, Renyi, CUBO, EUBO, the thermodynamic
bound, MIWAE, SUMO, and IWAE with one posterior draw, an upper bound. The gap of IWAE falls as 1/S,
that of the jackknife of order m as S^-(m+1); the run measures the slopes with their errors.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from lvm_jax.report import Options, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    num_weights: Annotated[int, at_least(2**10)] = 2**21
    """Log-weights drawn for each model, a power of 2; one draw of a bound uses S of them."""
    largest: Annotated[int, at_least(8)] = 256
    """The largest S, a power of 2; the others are the powers of 2 below it."""
    alphas: tuple[float, ...] = (0.5, 2.0)
    """Orders of the Renyi bounds; 0 is IWAE and 1 the ELBO."""
    fit_from: Annotated[int, at_least(2)] = 8
    """The smallest S in the fit of a slope; the largest is the last with a significant gap."""
    sumo_start: Annotated[int, at_least(1)] = 1
    """Weights of the first term of SUMO."""
    sumo_draws: Annotated[int, at_least(2)] = 20_000
    """Draws of SUMO."""

    def check(self) -> None:
        """Refuse numbers that are no powers of 2, too few weights, and invalid orders."""
        super().check()
        for name in ("num_weights", "largest"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name}: expected a power of 2, got {value}")
        if self.num_weights < 64 * self.largest:
            raise ValueError(
                f"num_weights: expected at least 64 times largest = {self.largest}, for 64 batches "
                f"of draws, got {self.num_weights}"
            )
        if any(not math.isfinite(alpha) or alpha in (0, 1) for alpha in self.alphas):
            raise ValueError(
                "alphas: expected finite numbers other than 0 and 1 (IWAE and the ELBO, which are "
                f"always measured), got {self.alphas}"
            )
