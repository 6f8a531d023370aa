"""Every method of vi.fit on densities with known log Z: ELBO, log Z, k-hat, modes (4 min).

Each method fits each target with several budgets of evaluations. The ELBO is compared with log Z
and with the best ELBO of the family, the estimate of log Z and its interval with the truth, and the
masses of the modes in q with those in the target.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from lvm_jax.report import Options, at_least

TARGETS = (
    "funnel", "wells", "eight_schools", "gaussians_40", "credit", "credit_likelihood",
    "breast_cancer", "lgcp",
)  # fmt: skip
METHODS = (
    "mean_field", "full_rank", "laplace", "batch_and_match", "pathfinder", "mixture", "flow",
    "deterministic",
)  # fmt: skip


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    targets: tuple[
        Literal[
            "all", "funnel", "wells", "eight_schools", "gaussians_40", "credit",
            "credit_likelihood", "breast_cancer", "lgcp",
        ],
        ...,
    ] = ("funnel", "wells", "eight_schools")  # fmt: skip
    """Targets of `lvm_jax.problems`; credit and lgcp read files from LVM_JAX_DATA."""
    methods: tuple[
        Literal[
            "mean_field", "full_rank", "laplace", "batch_and_match", "pathfinder", "mixture", "flow",
            "deterministic",
        ],
        ...,
    ] = METHODS[:7]  # fmt: skip
    """Methods; mean_field and full_rank are natural gradients, flow is Adam, deterministic is
    mean-field with fixed draws."""
    budgets: tuple[Annotated[int, at_least(100)], ...] = (5_000, 30_000)
    """Values of max_evaluations; a fit that converges ends earlier."""
    num_draws: Annotated[int, at_least(1_000)] = 10_000
    """Draws of q for the ELBO, the first estimate of log Z, and the masses of the modes."""

    def check(self) -> None:
        """Refuse budgets that do not rise, and names twice."""
        super().check()
        self.check_rising("budgets")
        for name in ("targets", "methods"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name}: expected at least one, none twice, got {given}")
        if "all" in self.targets and len(self.targets) > 1:
            raise ValueError(f"targets: expected all alone, or names, got {self.targets}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the targets."""
        return TARGETS if self.targets == ("all",) else self.targets
