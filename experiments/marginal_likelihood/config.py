"""Why naive Monte Carlo for p(x) fails as z grows, and importance sampling does not (42 s).

Two models have a known log p(x): a linear-Gaussian one in growing dimension, and z in
{1, ..., L}^K with growing K, exact by enumeration. Draws of z come from the prior, from a uniform
distribution and from a q near the posterior. The run compares the error over repeats, the reported
standard error, ESS, k-hat, and the number of draws needed.
"""

from dataclasses import dataclass
from typing import Annotated

from lvm_jax.report import Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    dims: tuple[Annotated[int, at_least(1)], ...] = (1, 2, 4, 8, 16, 32, 64)
    """Dimensions of the Gaussian z; each compiles its own program."""
    num_variables: tuple[Annotated[int, at_least(1)], ...] = (2, 4, 6, 8, 10, 12)
    """Numbers K of discrete variables; the truth is a sum over L^K terms."""
    num_values: Annotated[int, at_least(2)] = 3
    """Values L of each discrete variable."""
    num_samples: tuple[Annotated[int, at_least(2)], ...] = (10, 100, 1_000, 10_000)
    """Numbers S of draws in one estimate; every S uses the first of the same draws."""
    num_repeats: Annotated[int, at_least(2)] = 100
    """Independent estimates of each kind."""
    noise: Annotated[float, above(0)] = 0.5
    """Standard deviation of x given z [prior standard deviations of z]."""
    coupling: float = 0.5
    """The coupling in x_i = z_i + coupling z_(i+1) + noise; it correlates the z_i given x."""
    box: Annotated[float, above(0)] = 5.0
    """Half the width of the box of the uniform draws [prior standard deviations]."""
    widen: Annotated[float, above(0.5**0.5)] = 1.2
    """q's sd over the posterior's; at 0.7071 and below the weights have no variance."""
    shift: float = 0.1
    """Shift of q's mean along every axis [posterior standard deviations]."""

    def check(self) -> None:
        """Refuse sizes that do not increase."""
        super().check()
        self.check_rising("dims", "num_variables", "num_samples")
