"""What an evidence method answers: an estimate of log p(x), its error and its diagnostics."""

from typing import NamedTuple

import numpy as np

from lvm_jax import checks
from lvm_jax.typing import Array, Float, Int


class Evidence(NamedTuple):
    """log p(x) of one data point (or leaves [N] of N), in nats, as far as it can be trusted.

    The mean of the weights is unbiased for p(x), and its logarithm low by about
    standard_error^2 / 2. NaN and infinite log-weights are counted and kept: with a NaN among them
    every number is NaN; -inf is a genuine weight of zero.
    """

    log_evidence: Float[Array, "..."]  # log (1/S) sum_s w_s
    standard_error: Float[Array, "..."]  # of the logarithm: sqrt(Var(w) / S) / mean(w)
    ess: Float[Array, "..."]  # (sum w)^2 / sum w^2
    k_hat: Float[Array, "..."]  # above 0.7 distrust all of the above; see evidence.pareto
    num_samples: Int[Array, "..."]
    num_nan: Int[Array, "..."]  # log-weights that are NaN
    num_positive_infinite: Int[Array, "..."]
    num_negative_infinite: Int[Array, "..."]

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Where log p(x) lies with probability `level`: log_evidence -+ t standard_error.

        t is Student's quantile for `num_samples` - 1 degrees of freedom. It counts on weights whose
        mean is nearly normal, which is what k_hat judges; infinite where the standard error is not
        known. Computed on the host.
        """
        from scipy.stats import t

        if not 0 < checks.number(level, "level") < 1:
            raise ValueError(f"level: expected a probability in (0, 1), got {level}")
        centre, error = np.asarray(self.log_evidence), np.asarray(self.standard_error)
        freedom = np.maximum(np.asarray(self.num_samples) - 1, 1)
        half = np.where(np.isnan(error), np.inf, t.ppf(0.5 + level / 2, freedom) * error)
        return centre - half, centre + half
