"""Fit a line to points with noise (1 s).

The slope and its standard error are known.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lvm_jax.report import Options, above, at_least


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    extendable: ClassVar[tuple[str, ...]] = ("num_steps",)

    num_steps: Annotated[int, at_least(1)] = 3
    """Stages, each of which is kept."""
    sizes: tuple[Annotated[int, at_least(1)], ...] = (1, 4)
    """Sizes, rising."""
    noise: Annotated[float, above(0)] = 0.1
    """Standard deviation of the noise."""
    first: Annotated[int, at_least(0)] = 0
    """The id of the first of 50 points."""
    rule: Literal["least_squares", "median"] = "least_squares"
    """How to fit."""
    expected: float | None = None
    """A slope to expect."""
    kill_at: int = -1
    """Stage at which the process kills itself."""

    def check(self) -> None:
        """Sizes rise."""
        super().check()
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes: expected rising numbers, got {self.sizes}")
