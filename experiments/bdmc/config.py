"""Bidirectional Monte Carlo: two bounds of log p(x) that close as annealed chains grow (3 min).

A model that simulates its own data also gives an exact posterior draw, so chains run both ways:
from q forwards, a lower bound of log p(x), and back from the posterior, an upper one. First on a
linear-Gaussian model whose log p(x) is known, then on a decoder trained on the digits, from the
prior and from its guide; and what that certifies about held-out digits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    starts: tuple[Literal["linear", "prior", "guide"], ...] = ("linear", "prior", "guide")
    """The linear-Gaussian model from its prior, the decoder from its prior, and from its guide."""
    num_temperatures: tuple[Annotated[int, at_least(1)], ...] = (4, 16, 64, 256)
    """Lengths of the chains, T, rising."""
    num_chains: Annotated[int, at_least(1)] = 8
    """Chains in each direction for every point."""
    num_points: Annotated[int, at_least(2)] = 64
    """Points that each model simulates, and held-out digits."""
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
    """Of that small VAE."""

    def check(self) -> None:
        """Refuse lengths that do not rise, and starts that repeat."""
        super().check()
        self.check_rising("num_temperatures")
        if not self.starts or len(set(self.starts)) < len(self.starts):
            raise ValueError(f"starts: expected at least one, none twice, got {self.starts}")
