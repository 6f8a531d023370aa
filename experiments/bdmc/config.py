"""Bidirectional Monte Carlo: two bounds of log p(x) that close as annealed chains grow (3 min).

Data simulated from a model come with an exact posterior draw. Chains from q give a lower bound of
log p(x), reverse chains from the posterior an upper bound. The models are a linear-Gaussian one
whose log p(x) is known, and a decoder trained on the digits, with chains from the prior and from
its guide. The same chains then estimate log p(x) of held-out digits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    starts: tuple[Literal["linear", "prior", "guide"], ...] = ("linear", "prior", "guide")
    """Models and starts: linear-Gaussian from its prior; decoder from its prior or its guide."""
    num_temperatures: tuple[Annotated[int, at_least(1)], ...] = (4, 16, 64, 256)
    """Numbers of temperatures T, increasing."""
    num_chains: Annotated[int, at_least(1)] = 8
    """Chains in each direction for every point."""
    num_points: Annotated[int, at_least(2)] = 64
    """Simulated points of each model, and held-out digits."""
    latent_dim: Annotated[int, at_least(1)] = 10
    """Dimensions of z, in both models."""
    dim: Annotated[int, at_least(1)] = 30
    """Dimensions of x in the linear-Gaussian model."""
    noise: Annotated[float, above(0)] = 0.4
    """Standard deviation of the noise in the linear-Gaussian model."""
    transition: Literal["hmc", "mala", "random_walk"] = "hmc"
    """Moves of the chains."""
    num_leapfrogs: Annotated[int, at_least(1)] = 5
    """Steps of each HMC move."""
    decoder: Path | None = None
    """A run directory of the `vae` experiment; None trains a small VAE on the digits."""
    epochs: Annotated[int, at_least(1)] = 60
    """Training epochs of the small VAE."""

    def check(self) -> None:
        """Refuse numbers of temperatures that do not rise, and repeated starts."""
        super().check()
        self.check_rising("num_temperatures")
        if not self.starts or len(set(self.starts)) < len(self.starts):
            raise ValueError(f"starts: expected at least one, none twice, got {self.starts}")
