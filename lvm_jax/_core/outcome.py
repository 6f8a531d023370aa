"""How an iteration ended, as a value; and the warning that the boundary makes of it."""

from enum import Enum, IntEnum


class Outcome(IntEnum):
    """How an iteration ended."""

    RUNNING = 0
    CONVERGED = 1  # the objective changed by less than the tolerance, or patience ran out
    MAX_STEPS = 2  # the step limit came first
    DEGENERATE = 3  # a covariance stopped being positive definite; parameters of the step before
    DIVERGED = 4  # the objective became NaN or infinite; parameters of the step before
    INTERRUPTED = 5  # the user stopped it; it can go on

    def __str__(self) -> str:
        """Its name, also in an f-string."""
        return self.name

    __format__ = Enum.__format__


class ConvergenceWarning(UserWarning):
    """An iteration reached its step limit before it converged."""
