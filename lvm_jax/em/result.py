"""The result of a fit, its errors and warnings."""

from typing import NamedTuple

import numpy as np

from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax._core.warn import warn
from lvm_jax.em.mixture import Mixture


class BoundaryWarning(UserWarning):
    """Estimates are on the boundary of their range, such as a probability of 0."""


class Info(NamedTuple):
    """Results of a fit besides the mixture. Log-likelihoods are in nats per unit of weight.

    `trace` is the objective before each M-step: the mean log-likelihood, or with a prior
    `map_objective`, (log-likelihood + log-prior density) / total weight.
    """

    outcome: Outcome
    num_steps: int  # M-steps of the best restart
    log_likelihood: float  # of the returned mixture
    map_objective: float | None  # of the returned mixture; None without a prior
    trace: np.ndarray  # [num_steps], best restart
    best_restart: int
    restart_objectives: np.ndarray  # [R], the last in each trace
    restart_outcomes: np.ndarray  # [R] of Outcome
    restart_num_steps: np.ndarray  # [R]
    empty_components: tuple[int, ...]  # components that lost all their points
    exact_steps: int  # steps that used the slower, exact path; all, of full or tied with NaN
    boundary: tuple[str, ...] = ()  # estimates on the boundary, such as probabilities of 0


class MixtureFit(NamedTuple):
    """A fitted mixture and the `Info` of its fit."""

    mixture: Mixture
    info: Info


def report(result: MixtureFit) -> None:
    """Raise FloatingPointError for a failed fit; warn about what else `Info` reports.

    The warnings are of the step limit, of empty components and of estimates on the boundary.
    """
    info, number = result.info, result.mixture.log_weights.shape[0]
    if info.outcome >= Outcome.DEGENERATE:
        raise FloatingPointError(
            f"EM of {number} components: every restart failed ({info.outcome.name.lower()} after "
            f"{info.num_steps} steps): a covariance is singular or the likelihood has no bound; "
            "raise regularization, lower num_components, set a prior, or drop constant columns"
        )
    if info.outcome == Outcome.MAX_STEPS and info.num_steps > 0:
        warn(
            f"EM of {number} components did not converge in {info.num_steps} steps; raise "
            "max_steps or tolerance",
            ConvergenceWarning,
        )
    if info.boundary:
        shown = "; ".join(info.boundary[:3]) + ("; ..." if len(info.boundary) > 3 else "")
        warn(
            f"EM of {number} components: {len(info.boundary)} boundary estimates ({shown}), which "
            "are kept; Info.boundary has all",
            BoundaryWarning,
        )
    if info.empty_components:
        warn(
            f"EM of {number} components: components {info.empty_components} lost all their points "
            "and have weight 0; lower num_components or use more restarts",
        )
