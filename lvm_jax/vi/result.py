"""The result of `vi.fit`: q, its estimates, and the course of the fit."""

from pathlib import Path
from typing import NamedTuple

from lvm_jax._core import checks
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import Unflattened
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Evidence, Resampled, resample
from lvm_jax.typing import Array, Distribution, Key, Scalar
from lvm_jax.vi.constraints import Constrained
from lvm_jax.vi.density import LogDensity
from lvm_jax.vi.method import Reason, Trace
from lvm_jax.vi.modes_table import Modes
from lvm_jax.vi.saved import write_fit


class VariationalFit(NamedTuple):
    """q, with estimates of its ELBO and of log Z from new draws, and the course of the fit."""

    q: Unflattened | Constrained  # of z
    elbo: Estimate  # E_q[log p(z) - log q(z)], nats
    importance: Evidence  # log Z, the log of the integral of exp(log_density), by draws of q
    log_evidence: Evidence  # log Z by draws of q if nothing contradicts them, else of `proposal`,
    # by bridge sampling or by annealing
    reason: Reason
    evaluations: int  # gradients of log_density in the fit
    evidence_evaluations: int  # its values and gradients for the ELBO and log Z, after the fit
    trace: Trace
    method: str  # the method that ran
    log_density: LogDensity
    proposal: Unflattened | Constrained  # of z: q, or better where q's own weights fail
    modes: Modes | None  # of the family mixture
    problem: str | None  # of a density that is not finite or has an infinite integral

    def __repr__(self) -> str:
        """The ELBO, log Z with k-hat and verdict, and the reason of the end."""
        return (
            f"VariationalFit(elbo={self.elbo!r}, log_evidence={self.log_evidence!r}, "
            f"reason={self.reason.name}, evaluations={self.evaluations})"
        )

    @property
    def converged(self) -> bool:
        """Whether the predicted gain of a longer fit is below the tolerance."""
        return self.reason is Reason.CONVERGED

    @property
    def k_hat(self) -> Scalar:
        """Pareto's k-hat of the weights p / q: above 0.7, distrust `importance`."""
        return self.importance.k_hat

    @property
    def ess(self) -> Scalar:
        """The effective sample size of the draws of `importance`."""
        return self.importance.ess

    def resample(self, key: Key[Array, ""], num_draws: int) -> Resampled:
        """`num_draws` posterior draws by `evidence.resample` from draws of `proposal`.

        `z` of the result has the structure of the start, leaves [num_draws, ...].
        """
        checks.key(key)
        num_draws = checks.integer(num_draws, "num_draws", 1)
        num_samples = max(int(self.importance.num_samples), num_draws)
        return _resample(key, self.proposal, self.log_density, num_samples, num_draws)

    def save(self, path: str | Path) -> Path:
        """Write q with ELBO, log Z, k-hat and reason to path/vi, for `vi.load`; returns the folder.

        q needs no model to be loaded. Names of constraints are saved, a function is not. Raises
        TypeError for a q or a structure of z that has no description.
        """
        return write_fit(path, self)


@bounded_jit(2, 3, 4, lean=True)
def _resample(
    key: Key[Array, ""],
    q: Distribution,
    log_density: LogDensity,
    num_samples: int,
    num_draws: int,
) -> Resampled:
    return resample(key, log_density, q, num_samples, num_draws)
