"""What an evidence method returns: an estimate of log p(x), its error, and whether both hold."""

from enum import IntFlag
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.moments import moments
from lvm_jax.evidence import pareto
from lvm_jax.typing import Array, ArrayLike, Bool, Float, Int, Scalar

# Distrust is `not (k_hat <= limit)`, so that NaN and inf are distrusted: of the estimate above 0.7,
# of its interval above 0.5, where the weights have no variance.
TRUSTED_K_HAT, FINITE_VARIANCE = 0.7, 0.5
SKEWNESS = 2 / 3  # of the mean of the weights, above which Student's interval is too short
ACCEPTED = 0.05  # acceptance at a temperature, below which its moves are rejected too often


class Check(IntFlag):
    """Reasons not to trust an interval, as bits of `failed`."""

    NONFINITE = 1
    PARETO = 2
    ESS = 4
    SPREAD = 8
    ACCEPTANCE = 16
    CONTRADICTED = 32
    BUDGET = 64
    VARIANCE = 128


WORDS = {
    Check.NONFINITE: "log-weights are NaN or +inf",
    Check.PARETO: "Pareto k-hat is above 0.7 or not known: the tail of the weights is heavy",
    Check.VARIANCE: "Pareto k-hat is above 0.5: the weights may have no variance",
    Check.ESS: "the effective sample size is too small",
    Check.SPREAD: "the log-weights of the chains spread too much: more temperatures are needed",
    Check.ACCEPTANCE: "moves are rejected at some temperature: step sizes do not fit",
    Check.CONTRADICTED: "a scout found mass that the draws miss",
    Check.BUDGET: "the budget was too small to search for mass that the draws miss",
}


class Evidence(NamedTuple):
    """log p(x) of one data point (or leaves [N] of N), in nats, and whether it can be trusted.

    The mean of the weights is unbiased for p(x), and its logarithm low by about
    standard_error^2 / 2. NaN and infinite log-weights are counted and kept: with a NaN among them
    every number is NaN; -inf is a genuine weight of zero, and zero weights alone give -inf.
    """

    log_evidence: Float[Array, "..."]  # log (1/S) sum_s w_s
    standard_error: Float[Array, "..."]  # of the logarithm: sqrt(Var(w) / S) / mean(w)
    ess: Float[Array, "..."]  # (sum w)^2 / sum w^2; 0 where every weight is zero
    k_hat: Float[Array, "..."]  # above 0.7 distrust all of the above, above 0.5 the error
    num_samples: Int[Array, "..."]
    num_nan: Int[Array, "..."]  # log-weights that are NaN
    num_positive_infinite: Int[Array, "..."]
    num_negative_infinite: Int[Array, "..."]
    failed: Int[Array, "..."]  # bits of `Check`: the reasons not to trust the interval, 0 for none

    @property
    def likely_low(self) -> Bool[Array, "..."]:
        """True where a check failed that distrusts log_evidence itself, and not its error alone."""
        return (self.failed & ~int(Check.VARIANCE)) != 0

    @property
    def reliable(self) -> Bool[Array, "..."]:
        """True where every check passed; elsewhere `interval` is [-inf, inf]."""
        return self.failed == 0

    def verdict(self) -> str:
        """In words: reliable, or how many points are not and for which reasons; on the host."""
        return describe(self.failed)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Where log p(x) lies with probability `level`; [-inf, inf] where not `reliable`.

        Otherwise `nominal_interval`. An estimate that failed a check has no upper limit: the mass
        that its weights miss may be of any size. By Markov's inequality log_evidence -
        log(1 / (1 - level)) is a lower limit for any weights with E[w] = p(x). NaN where the
        estimate is NaN. Computed on the host.
        """
        low, high = self.nominal_interval(level)
        return opened(low, high, np.asarray(self.failed) != 0)

    def nominal_interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """log_evidence -+ t standard_error, whether the checks passed or not; on the host.

        t is Student's quantile for `num_samples` - 1 degrees of freedom: it counts on weights whose
        mean is nearly normal. [-inf, inf] where the standard error is not known (one weight) or
        every weight is zero; NaN where the estimate is NaN.
        """
        from scipy.stats import t

        level = checks.level(level)
        centre, error = np.asarray(self.log_evidence), np.asarray(self.standard_error)
        freedom = np.maximum(np.asarray(self.num_samples) - 1, 1)
        half = t.ppf(0.5 + level / 2, freedom) * np.where(np.isnan(error), np.inf, error)
        middle = np.where(np.isinf(centre), 0.0, centre)
        return opened(middle - half, middle + half, np.isinf(centre))


def opened(
    low: np.ndarray | np.floating, high: np.ndarray | np.floating, at: np.ndarray | np.bool_
) -> tuple[np.ndarray, np.ndarray]:
    """The limits, [-inf, inf] where `at` is True; those of an estimate that is NaN stay NaN."""
    at = at & ~np.isnan(low)
    return np.where(at, -np.inf, low), np.where(at, np.inf, high)


def failed_checks(
    ess: Scalar,
    k_hat: Scalar,
    num_samples: int | Int[Array, ""],
    num_odd: Scalar | Int[Array, ""],
) -> Int[Array, ""]:
    """NONFINITE, PARETO, VARIANCE and ESS of S independent weights, as bits.

    PARETO: k-hat is not at most 0.7, and the estimate itself likely too low. VARIANCE: it is above
    0.5, and the error too small. Below 25 weights, which have no tail to fit, neither is judged.
    ESS: fewer than `least_ess`.
    """
    has_tail = num_samples >= 5 * pareto.SHORTEST_TAIL
    heavy = ~(k_hat <= TRUSTED_K_HAT)
    return (
        _bit(num_odd > 0, Check.NONFINITE)
        | _bit(heavy & has_tail, Check.PARETO)
        | _bit(~heavy & (k_hat > FINITE_VARIANCE) & has_tail, Check.VARIANCE)
        | _bit(~(ess >= least_ess(num_samples)), Check.ESS)
    )


def check_chains(
    found: Evidence,
    log_w: Float[Array, " C"],
    acceptance: Float[Array, " T"],
    tuned: bool,
    size: int | Int[Array, ""] | None = None,
) -> Evidence:
    """The Evidence of C annealed chains, with SPREAD and ACCEPTANCE of them in `failed` too.

    VARIANCE is not judged: k-hat of 30 chains is noisy, 0.5 fails one in six sets whose log-weights
    spread by half a nat, and SPREAD covers the rest.
    SPREAD: the standard deviation of the finite log-weights, which unlike ESS does not need the
    largest weights to be among those drawn, exceeds that of lognormal weights of ESS `least_ess`.
    ACCEPTANCE: below 0.05 at some temperature, of moves that are tuned (a discrete z that has
    arrived may well stay where it is). `size` is C where log_w is padded with -inf.
    """
    size = log_w.shape[0] if size is None else size
    most = jnp.sqrt(jnp.log(jnp.maximum(size / least_ess(size), 1.0)))
    spread = moments(log_w, jnp.isfinite(log_w)).variance ** 0.5
    failed = _bit(~(spread <= most), Check.SPREAD)
    if tuned:
        failed |= _bit(~(acceptance.min() >= ACCEPTED), Check.ACCEPTANCE)
    return found._replace(failed=found.failed & ~int(Check.VARIANCE) | failed)


def least_ess(num_samples: int | Int[Array, ""]) -> float | Scalar:
    """1.3 S^(2/3), the smallest effective sample size of S weights with a reliable interval.

    The mean of S lognormal weights of effective sample size E has a skewness of about
    (S / E)^(3/2) / sqrt(S), which Student's interval takes for 0; it is 2/3 here.
    """
    return num_samples ** (2 / 3) * SKEWNESS ** (-2 / 3)


def least_samples(share: ArrayLike | float) -> np.ndarray | np.floating:
    """The S at which an ESS of `share` S reaches `least_ess`; inf for a share of 0."""
    with np.errstate(divide="ignore"):
        return SKEWNESS**-2 / np.asarray(share, float) ** 3


def larger(first: Evidence, second: Evidence) -> Evidence:
    """Of two estimates of each point, leaves [N], the larger with its error and its checks.

    Both are low in expectation, so that the larger comes nearer to log p. But the larger of two
    noisy numbers is high by a part of their errors: it is no lower bound in expectation. NaN in the
    first is replaced by the second.
    """
    above = first.log_evidence >= second.log_evidence
    return jax.tree.map(lambda one, two: jnp.where(above, one, two), first, second)


def union(failed: ArrayLike) -> Int[Array, ""]:
    """The reasons of every point together."""
    bits = jnp.asarray([int(check) for check in Check], jnp.int32)
    found = (jnp.asarray(failed, jnp.int32)[:, None] & bits[None]).max(0)
    return found.sum(dtype=jnp.int32)


def describe(failed: ArrayLike) -> str:
    """The reasons in `failed` in words: of one point, or of [N] with their numbers."""
    failed = np.asarray(failed).astype(int)
    if not failed.any():
        return "reliable"
    bits = {words: int((failed & check != 0).sum()) for check, words in WORDS.items()}
    found = {words: number for words, number in bits.items() if number}
    if failed.ndim == 0:
        return "not reliable: " + "; ".join(found)
    reasons = "; ".join(f"{words} ({number})" for words, number in found.items())
    return f"{int((failed != 0).sum())} of {failed.size} not reliable: {reasons}"


def _bit(holds: Bool[Array, ""], check: Check) -> Int[Array, ""]:
    return jnp.where(holds, jnp.int32(check), jnp.int32(0))
