"""Why naive Monte Carlo for p(x) fails as z grows, and importance sampling does not (42 s).

Section 0.3 of the lecture on two models whose log p(x) is known: a linear-Gaussian one in growing
dimension, and z in {1, ..., L}^K with growing K, exact by enumeration. The estimate is the same for
z from the prior, from a uniform and from a q near the posterior: its error over repeats, the
standard error that it reports, ESS, k-hat, and the number of draws that it needs.
"""

from dataclasses import dataclass
from typing import Annotated

from lvm_jax.report import Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    dims: tuple[Annotated[int, at_least(1)], ...] = (1, 2, 4, 8, 16, 32, 64)
    """Dimensions of the Gaussian z; each is compiled on its own."""
    num_variables: tuple[Annotated[int, at_least(1)], ...] = (2, 4, 6, 8, 10, 12)
    """Numbers K of discrete variables; the truth is a sum over L^K terms."""
    num_values: Annotated[int, at_least(2)] = 3
    """Values L of each discrete variable."""
    num_samples: tuple[Annotated[int, at_least(2)], ...] = (10, 100, 1_000, 10_000)
    """Numbers S of draws in one estimate; the first S of the same draws."""
    num_repeats: Annotated[int, at_least(2)] = 100
    """Independent estimates of each kind."""
    noise: Annotated[float, above(0)] = 0.5
    """Standard deviation of x given z [prior standard deviations of z]."""
    coupling: float = 0.5
    """x_i = z_i + coupling z_(i+1) + noise; it correlates the z_i in the posterior."""
    box: Annotated[float, above(0)] = 5.0
    """Half the side of the box of the uniform draws [prior standard deviations]."""
    widen: Annotated[float, above(0.5**0.5)] = 1.2
    """q's standard deviations, as multiples of the posterior's; below 0.7071 no variance exists."""
    shift: float = 0.1
    """How far q's mean is off, along every axis [posterior standard deviations]."""

    def check(self) -> None:
        """Refuse sizes that do not rise."""
        super().check()
        self.check_rising("dims", "num_variables", "num_samples")
