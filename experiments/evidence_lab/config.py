"""Every estimator of log p(x) on exact models: error against cost, coverage, limits (5 min).

Methods: naive Monte Carlo, importance sampling, jackknife, SUMO, multilevel, annealed and
sequential chains, the sandwich and `certify`. Models whose log p(x) is a closed form: Gaussian z in
growing dimension, two modes of which the guide covers one, tails heavier than the guide's, and
discrete z. Errors and intervals are compared with the truth on hundreds of data sets.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least, inside

NUM_VARIABLES, NUM_VALUES = 6, 3  # of the discrete model


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    models: tuple[Literal["gaussian", "two_modes", "heavy_tails", "discrete"], ...] = (
        "gaussian", "two_modes", "heavy_tails", "discrete",
    )  # fmt: skip
    """Models; gaussian stands for one model for each of --dims."""
    dims: tuple[Annotated[int, at_least(1)], ...] = (2, 8, 32)
    """Dimensions of the Gaussian models; each compiles its own program."""
    modes_dim: Annotated[int, at_least(1)] = 4
    """Dimension of the model with two modes."""
    num_points: Annotated[int, at_least(2)] = 200
    """Data sets of each model, one point each, for errors and coverage."""
    num_certified: Annotated[int, at_least(2)] = 300
    """Data sets of each model for `certify`; the first num_points are the same."""
    budgets: tuple[Annotated[int, at_least(10)], ...] = (600, 2_000, 6_000, 20_000)
    """Evaluations of the joint density or its gradient for one estimate."""
    num_chains: Annotated[int, at_least(2)] = 32
    """Annealed chains in each direction; the budget sets the number of temperatures."""
    num_runs: Annotated[int, at_least(2)] = 8
    """Independent runs of sequential Monte Carlo in one estimate."""
    num_particles: Annotated[int, at_least(1)] = 8
    """Particles in each run."""
    num_leapfrogs: Annotated[int, at_least(1)] = 3
    """Steps of each HMC move."""
    level: Annotated[float, inside(0, 1)] = 0.95
    """Nominal level of every interval."""
    tolerance: Annotated[float, above(0)] = 0.1
    """Target half-width of `certify` [nats]."""
    certify_budget: Annotated[float, above(0)] = 100_000
    """Budget of evaluations of `certify` for one data set."""

    def check(self) -> None:
        """Refuse repeated or missing models, and too few data sets for `certify`."""
        super().check()
        self.check_rising("dims", "budgets")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models: expected some, none of them twice, got {self.models}")
        if self.num_certified < self.num_points:
            raise ValueError(
                f"num_certified: expected at least num_points = {self.num_points}, "
                f"got {self.num_certified}"
            )
