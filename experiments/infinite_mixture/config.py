"""An infinite mixture of Gaussians trained by the ELBO, and a finite one fitted by EM (2 min).

x | z is Gaussian, and its mean and variances are functions of a continuous z: one layer, or a
network with a hidden layer. Both models are trained with an amortised guide on curved data in the
plane. Each is compared with a K-component mixture of about as many parameters: densities, samples,
held-out log p(x) with errors.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least, inside

RECORDS = 30  # points of the learning curve


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    data: str = "pinwheel"
    """pinwheel, moons, banana, three_clusters, old_faithful, or a .csv, .tsv, .npy or .parquet file."""
    columns: tuple[str, ...] | None = None
    """The two columns to use, by name."""
    num_points: Annotated[int, at_least(30)] = 3000
    """Points of pinwheel, moons or banana."""
    held_out: Annotated[float, inside(0, 1)] = 1 / 3
    """Share of held-out points."""
    hidden: Annotated[int, at_least(0)] = 16
    """Width of the second model's hidden layer; 0 trains the one-layer model only."""
    mean_activation: Literal["identity", "tanh", "sin"] = "identity"
    """h of the one-layer model; tanh and sin are bounded by one standard deviation of the data."""
    bound: Literal["elbo", "iwae"] = "elbo"
    """Training objective."""
    num_samples: Annotated[int, at_least(1)] | None = None
    """Draws of z per data point and step; None means 1 for elbo and 8 for iwae."""
    guide: Literal["network", "linear"] = "network"
    """Parameters of q(z | x): a network with two layers of width 32, or linear in x."""
    num_steps: Annotated[int, at_least(1)] = 6000
    """Steps of Adam, a multiple of 30 (the points of the learning curve)."""
    batch_size: Annotated[int, at_least(1)] = 256
    """Points in each step."""
    learning_rate: Annotated[float, above(0)] = 0.01
    """Initial learning rate, with a cosine decay to 0."""
    num_starts: Annotated[int, at_least(1)] = 4
    """Random starts, trained together; the one with the highest final bound is kept."""
    num_restarts: Annotated[int, at_least(1)] = 10
    """Restarts of EM."""
    num_nodes: Annotated[int, at_least(20)] = 200
    """Nodes of the quadrature over z, along each axis."""
    evidence_samples: Annotated[int, at_least(30)] = 1000
    """Draws of z per held-out point in importance sampling."""

    @property
    def num_draws(self) -> int:
        """`num_samples`, or its default for the bound."""
        return self.num_samples or (1 if self.bound == "elbo" else 8)

    def check(self) -> None:
        """Refuse a number of steps that is not a multiple of the points of the learning curve."""
        super().check()
        if self.num_steps % RECORDS:
            raise ValueError(f"num_steps: expected a multiple of {RECORDS}, got {self.num_steps}")
