"""The parts that all methods of `vi.fit` share: their task, their result and its reason."""

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.guides import Family
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Params


class Reason(Enum):
    """The reason for which a fit ended."""

    CONVERGED = "the predicted gain of a longer fit is below the tolerance"
    BUDGET = "max_evaluations was reached before the tolerance"
    NO_PROGRESS = "smaller steps do not reduce the error below the tolerance"
    DIVERGED = "the log-density is not finite for draws of q, or its integral is infinite"
    START_NOT_FINITE = "the log-density or its gradient is not finite at the start"

    def __str__(self) -> str:
        """The name, and the sentence."""
        return f"{self.name}: {self.value}"


class Trace(NamedTuple):
    """The course of a fit, one row for each block of steps."""

    evaluations: Int[np.ndarray, " T"]  # gradients of log_density so far
    elbo: Float[np.ndarray, " T"]  # nats, from the draws of the block, whose q changes
    standard_error: Float[np.ndarray, " T"]  # of elbo
    rate: Float[np.ndarray, " T"]  # of the steps
    error: Float[np.ndarray, " T"]  # estimated nats from the averaged q to the best q; NaN: unknown

    @classmethod
    def of_rows(cls, rows: list[tuple[float, ...]]) -> "Trace":
        """A trace from rows (evaluations, elbo, standard_error, rate, error)."""
        table = np.array(rows, float).reshape(-1, 5)
        return cls(table[:, 0].astype(int), *table[:, 1:].T)


class Task(NamedTuple):
    """The input of a method: a density of u, [D], and the family of q."""

    density: Any  # a Density, or one in other coordinates
    family: str | Family
    tolerance: float  # nats of ELBO below the best q of the family
    max_evaluations: int  # gradients of log_density
    draw_start: Callable[[Key[Array, ""]], Any] | None = None  # a start z from a key


class Found(NamedTuple):
    """The result of a method."""

    flat: Distribution  # q of u, [D]
    reason: Reason
    evaluations: int  # gradients of log_density; a value alone counts as one, a Hessian as D + 1
    trace: Trace
    method: str  # what ran, in words
    eta: Params | None = None  # parameters of q in a family that has some
    modes: Any | None = None  # `Modes` of a mixture


class Method(NamedTuple):
    """A method of `vi.fit`: its families by name (None: any `Family`), and the fit itself."""

    families: tuple[str, ...] | None
    run: Callable[[Key[Array, ""], Task], Found]
