"""The table of the importance-weighted autoencoder and the published one (minutes to days).

Burda, Grosse and Salakhutdinov (2016): VAE and IWAE with k draws, one and two stochastic layers,
trained by the paper's stages or a shorter schedule. Importance sampling gives log p of the test
images with two errors; the active units of z are counted.

One run directory holds all cells. A command with more stages, cells or test images extends it;
--budget 0 evaluates and reports without training.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lvm_jax.report import Options, at_least, between


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment; None means the default that fits the others."""

    extendable: ClassVar[tuple[str, ...]] = (
        "objectives", "samples", "layers", "schedules", "num_stages", "budget",
        "evaluation_points", "evaluation_samples", "curve_points",
    )  # fmt: skip

    dataset: Literal["digits", "mnist", "binarized_mnist"] = "digits"
    """digits (8x8, quick), mnist (bits drawn at every use) or binarized_mnist (fixed bits)."""
    objectives: tuple[Literal["vae", "iwae"], ...] = ("vae", "iwae")
    """vae (the ELBO, averaged over k draws) and iwae (the bound of k draws); equal at k = 1."""
    samples: tuple[Annotated[int, at_least(1)], ...] = (1, 5, 50)
    """k, draws of z for each image and step."""
    layers: tuple[Literal[1, 2], ...] = (1, 2)
    """Stochastic layers."""
    schedules: tuple[Literal["burda", "short"], ...] = ("burda",)
    """burda (the paper's stages) and short (a cosine, larger batches, less noisy gradients)."""
    num_stages: Annotated[int, between(1, 8)] | None = None
    """Stages of burda; stage i has 3^i epochs. None means 8, and 4 for the digits."""
    budget: float | None = None
    """Minutes of training of all cells; no stage begins after them."""
    short_epochs: Annotated[int, at_least(1)] = 60
    """Epochs of short."""
    width: Annotated[int, at_least(2)] = 200
    """Width of the networks between x and z_1; those between z_1 and z_2 have half of it."""
    latent_dim: Annotated[int, at_least(2)] = 50
    """Dimension of z with one layer, of z_2 with two; z_1 then has twice as many."""
    evaluation_points: Annotated[int, at_least(1)] | None = None
    """Random test images for log p after the last stage of a cell; None means all."""
    evaluation_samples: Annotated[int, at_least(1)] = 5000
    """Draws of z for log p of each image."""
    curve_points: Annotated[int, at_least(1)] = 500
    """Test images for log p after the earlier stages."""

    @property
    def stages(self) -> int:
        """Stages of burda."""
        return self.num_stages or (4 if self.dataset == "digits" else 8)

    def check(self) -> None:
        """Refuse a table without cells."""
        super().check()
        for name in ("objectives", "samples", "layers", "schedules"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one")
