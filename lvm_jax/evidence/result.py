"""What an evidence method answers: an estimate of log p(x), its error and its diagnostics."""

from typing import NamedTuple

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
