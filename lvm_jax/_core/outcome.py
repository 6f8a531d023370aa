"""The outcome of an iteration as a value, and the warning about its step limit."""

from enum import Enum, IntEnum


class Outcome(IntEnum):
    """The outcome of an iteration."""

    RUNNING = 0
    CONVERGED = 1  # the objective changed by less than the tolerance, or patience ran out
    MAX_STEPS = 2  # the iteration reached its step limit
    DEGENERATE = 3  # a covariance is not positive definite; parameters of the previous step
    DIVERGED = 4  # the objective is NaN or infinite; parameters of the previous step
    INTERRUPTED = 5  # the user interrupted the iteration, which can resume

    def __str__(self) -> str:
        """The name, also in an f-string."""
        return self.name

    __format__ = Enum.__format__


class ConvergenceWarning(UserWarning):
    """An iteration reached its step limit before it converged."""
