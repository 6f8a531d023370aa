"""The result of an evidence method: an estimate of log p(x), its error, and checks of both."""

from enum import IntFlag
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.display import by_field, is_concrete, with_error
from lvm_jax._core.moments import moments
from lvm_jax.evidence import pareto
from lvm_jax.typing import Array, ArrayLike, Bool, Float, Int, Scalar

# The estimate is not trusted above 0.7; its interval not above 0.5, where the weights have no
# variance. The comparison is `not (k_hat <= limit)`, so that NaN and inf fail.
TRUSTED_K_HAT, FINITE_VARIANCE = 0.7, 0.5
SKEWNESS = 2 / 3  # of the mean weight; above it Student's interval is too short
ACCEPTED = 0.05  # the smallest acceptance at a temperature
FEW_RUNS = 8  # more runs of particles do not raise the limit of their internal spread
DISAGREEMENT = 2.0  # most spread of the runs, relative to the limit of their internal spread


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
    UNSEEN = 256
    NESTED = 512
    UNBOUNDED = 1024
    TAIL = 2048
    STUCK = 4096


WORDS = {
    Check.NONFINITE: "log-weights are NaN or +inf",
    Check.PARETO: "Pareto k-hat is above 0.7 or not known: the tail of the weights is heavy",
    Check.VARIANCE: "Pareto k-hat is above 0.5: the weights may have no variance",
    Check.ESS: "the effective sample size is too small",
    Check.SPREAD: "the log-weights of the chains spread too much: more temperatures are needed",
    Check.ACCEPTANCE: "moves are rejected at some temperature: step sizes do not fit",
    Check.CONTRADICTED: "a scout or a chain found mass that the draws miss",
    Check.BUDGET: "the search for mass that the draws miss is incomplete: more budget is needed",
    Check.NESTED: "nested sampling disagrees",
    Check.TAIL: "p(z | x) has a tail that few chains reach: q is too narrow",
    Check.STUCK: "chains end where p(z | x) has no mass: more temperatures are needed",
    Check.UNBOUNDED: "log p(x | z) rises without an end: it seems to be unbounded",
    Check.UNSEEN: "modes that one start alone reached: others are likely unseen",
}


class Evidence(NamedTuple):
    """log p(x) of one data point (or leaves [N] of N), in nats, with diagnostics.

    The mean of the weights is unbiased for p(x); its logarithm is too low by about
    standard_error^2 / 2 in expectation. NaN and infinite log-weights are counted and kept: a NaN
    makes every number NaN; -inf is a weight of zero, and zero weights only give -inf.
    """

    log_evidence: Float[Array, "..."]  # log (1/S) sum_s w_s
    standard_error: Float[Array, "..."]  # of the logarithm: sqrt(Var(w) / S) / mean(w), or more
    ess: Float[Array, "..."]  # (sum w)^2 / sum w^2; 0 where every weight is zero
    k_hat: Float[Array, "..."]  # above 0.7 distrust log_evidence, above 0.5 its error
    num_samples: Int[Array, "..."]
    num_nan: Int[Array, "..."]  # log-weights that are NaN
    num_positive_infinite: Int[Array, "..."]
    num_negative_infinite: Int[Array, "..."]
    failed: Int[Array, "..."]  # bits of `Check`: the reasons not to trust the interval, 0 for none

    def __repr__(self) -> str:
        """One estimate with its error, k-hat and verdict; for N points N and the verdict."""
        if not is_concrete(self):
            return by_field(self)
        if np.ndim(self.log_evidence):
            points = " x ".join(map(str, np.shape(self.log_evidence)))
            return f"Evidence({points} points: {self.verdict()})"
        number = with_error(self.log_evidence, self.standard_error)
        return f"Evidence({number}, k-hat {float(self.k_hat):.2f}: {self.verdict()})"

    @property
    def likely_low(self) -> Bool[Array, "..."]:
        """True where a failed check concerns log_evidence itself, not only its error."""
        return (self.failed & ~int(Check.VARIANCE)) != 0

    @property
    def reliable(self) -> Bool[Array, "..."]:
        """True where every check passed; elsewhere `interval` is [-inf, inf]."""
        return self.failed == 0

    def verdict(self) -> str:
        """A sentence: reliable, or the number of unreliable points and the reasons; on the host."""
        return describe(self.failed)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The interval of log p(x) at `level`: `nominal_interval`, [-inf, inf] if not `reliable`.

        An estimate that failed a check has no upper limit, because its weights may miss any mass.
        log_evidence - log(1 / (1 - level)) is a lower limit for any weights with E[w] = p(x), by
        Markov's inequality. NaN where the estimate is NaN. Computed on the host.
        """
        low, high = self.nominal_interval(level)
        return opened(low, high, np.asarray(self.failed) != 0)

    def nominal_interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """log_evidence -+ t standard_error, without regard to the checks; on the host.

        t is Student's quantile for `ess` - 1 degrees of freedom, for weights whose mean is nearly
        normal: unequal weights estimate their variance less well. [-inf, inf] where the standard
        error is not known (one weight) or every weight is zero; NaN where the estimate is NaN.
        """
        from scipy.special import stdtrit

        level = checks.level(level)
        centre, error = np.asarray(self.log_evidence), np.asarray(self.standard_error)
        size = np.asarray(self.num_samples, float)
        freedom = np.maximum(np.where(np.isnan(self.ess), size, self.ess) - 1, 1)
        half = stdtrit(freedom, 0.5 + level / 2) * np.where(np.isnan(error), np.inf, error)
        middle = np.where(np.isinf(centre), 0.0, centre)
        return opened(middle - half, middle + half, np.isinf(centre))


def opened(
    low: np.ndarray | np.floating, high: np.ndarray | np.floating, at: np.ndarray | np.bool_
) -> tuple[np.ndarray, np.ndarray]:
    """The limits, [-inf, inf] where `at` is True; NaN limits stay NaN."""
    at = at & ~np.isnan(low)
    return np.where(at, -np.inf, low), np.where(at, np.inf, high)


def failed_checks(
    ess: Scalar,
    k_hat: Scalar,
    num_samples: int | Int[Array, ""],
    num_odd: Scalar | Int[Array, ""],
) -> Int[Array, ""]:
    """NONFINITE, PARETO, VARIANCE and ESS of S independent weights, as bits.

    PARETO: k-hat is above 0.7 or NaN, so the estimate is likely too low. VARIANCE: k-hat is above
    0.5, so the error is likely too small. Both need at least 25 weights. ESS: below `least_ess`.
    """
    has_tail = num_samples >= 5 * pareto.SHORTEST_TAIL
    heavy = ~(k_hat <= TRUSTED_K_HAT)
    return (
        bit(num_odd > 0, Check.NONFINITE)
        | bit(heavy & has_tail, Check.PARETO)
        | bit(~heavy & (k_hat > FINITE_VARIANCE) & has_tail, Check.VARIANCE)
        | bit(~(ess >= least_ess(num_samples)), Check.ESS)
    )


def check_chains(
    found: Evidence,
    log_w: Float[Array, " C"],
    acceptance: Float[Array, " T"],
    tuned: bool,
    size: int | Int[Array, ""] | None = None,
) -> Evidence:
    """The Evidence of C annealed chains, with SPREAD and ACCEPTANCE in `failed` too.

    SPREAD: the standard deviation of the finite log-weights exceeds that of lognormal weights of
    ESS `least_ess`; unlike ESS, it does not depend on rare large weights. ACCEPTANCE: below 0.05 at
    some temperature, for tuned moves only (a discrete z may stay at its mode). VARIANCE is removed:
    k-hat of 30 chains is noisy, 0.5 would fail one in six sets whose log-weights spread by half a
    nat, and SPREAD covers the others. The standard error is at least that of C lognormal weights,
    sqrt((e^(s^2) - 1) / C), with s the spread of the log-weights above their median (the root mean
    square) or the limit of SPREAD, if that is less: rare large weights, which may be missing, carry
    much of the variance. `size` is C where log_w is padded with -inf.
    """
    size = log_w.shape[0] if size is None else size
    most = _most_spread(size)
    apart = ~(_spread(log_w) <= most)
    failed = bit(apart, Check.SPREAD) | _rejected(acceptance, tuned)
    finite = jnp.where(jnp.isfinite(log_w), log_w, jnp.nan)
    above = jnp.maximum(finite - jnp.nanmedian(finite), 0.0)
    spread = jnp.minimum(jnp.sqrt(2 * jnp.nanmean(above**2)), most)
    found = _at_least(found, jnp.sqrt(jnp.expm1(spread**2) / size))
    return found._replace(failed=found.failed & ~int(Check.VARIANCE) | failed)


def check_runs(
    found: Evidence,
    log_z: Float[Array, " R"],
    variance: Float[Array, " R"],
    acceptance: Float[Array, " T"],
    tuned: bool,
) -> Evidence:
    """The Evidence of R runs of particles, with SPREAD and ACCEPTANCE in `failed` too.

    `variance` is each run's own estimate of the relative variance of its Z. SPREAD: the root of its
    mean exceeds the limit of `check_chains` for R weights, or for 8 if R is larger; or the standard
    deviation of the finite log Z exceeds twice that limit. ESS and VARIANCE are removed, because
    they depend on the spread of the runs, which is also the width of the interval: a strict limit
    on it selects the runs whose intervals are too short by chance. The standard error is at least
    sqrt(mean(variance) / R) z / t, with the 97.5% quantiles of the normal and of Student's t with
    R - 1 degrees of freedom.
    """
    from scipy.special import ndtri, stdtrit

    size = log_z.shape[0]
    normal = float(ndtri(0.975) / stdtrit(max(size - 1, 1), 0.975))
    found = _at_least(found, normal * jnp.sqrt(variance.mean() / size))
    most = _most_spread(min(size, FEW_RUNS))
    near = (jnp.sqrt(variance.mean()) <= most) & (_spread(log_z) <= DISAGREEMENT * most)
    failed = bit(~near, Check.SPREAD) | _rejected(acceptance, tuned)
    return found._replace(failed=found.failed & ~int(Check.ESS | Check.VARIANCE) | failed)


def _at_least(found: Evidence, error: Scalar) -> Evidence:
    """The Evidence with a standard error of at least `error`; unchanged where either is NaN."""
    known = found.standard_error
    return found._replace(standard_error=jnp.where(error > known, error, known))


def _spread(log_w: Float[Array, " C"]) -> Scalar:
    """The standard deviation of the finite log-weights."""
    return jnp.sqrt(moments(log_w, jnp.isfinite(log_w)).variance)


def _most_spread(size: int | Int[Array, ""]) -> Scalar:
    """The standard deviation of lognormal log-weights of ESS `least_ess`."""
    return jnp.sqrt(jnp.log(jnp.maximum(size / least_ess(size), 1.0)))


def _rejected(acceptance: Float[Array, " T"], tuned: bool) -> Int[Array, ""]:
    return bit(~(acceptance.min() >= ACCEPTED) & tuned, Check.ACCEPTANCE)


def least_ess(num_samples: int | Int[Array, ""]) -> float | Scalar:
    """1.3 S^(2/3), the smallest effective sample size of S weights with a reliable interval.

    The mean of S lognormal weights of effective sample size E has a skewness of about
    (S / E)^(3/2) / sqrt(S), 2/3 at this limit; Student's interval assumes 0.
    """
    return num_samples ** (2 / 3) * SKEWNESS ** (-2 / 3)


def least_samples(share: ArrayLike | float) -> np.ndarray | np.floating:
    """The S at which an ESS of `share` S reaches `least_ess`; inf for a share of 0."""
    with np.errstate(divide="ignore"):
        return SKEWNESS**-2 / np.asarray(share, float) ** 3


def larger(first: Evidence, second: Evidence) -> Evidence:
    """The larger of two estimates of each point, leaves [N], with its error and its checks.

    Both are too low in expectation, so the larger is nearer to log p(x). It is not a lower bound in
    expectation: the larger of two noisy numbers is biased upwards. Where the first is NaN, the
    result is the second.
    """
    above = first.log_evidence >= second.log_evidence
    return jax.tree.map(lambda one, two: jnp.where(above, one, two), first, second)


def describe(failed: ArrayLike) -> str:
    """The reasons in `failed` as a sentence; for points [N], with their numbers."""
    failed = np.asarray(failed).astype(int)
    if not failed.any():
        return "reliable"
    if failed.ndim == 0 and failed & Check.PARETO:
        failed = failed & ~int(Check.VARIANCE)  # a k-hat above 0.7 is above 0.5
    bits = {words: int((failed & check != 0).sum()) for check, words in WORDS.items()}
    found = {words: number for words, number in bits.items() if number}
    if failed.ndim == 0:
        return "not reliable: " + "; ".join(found)
    reasons = "; ".join(f"{words} ({number})" for words, number in found.items())
    return f"{int((failed != 0).sum())} of {failed.size} not reliable: {reasons}"


def bit(holds: Bool[Array, ""], check: Check) -> Int[Array, ""]:
    """The bit of a check where it fails, 0 elsewhere."""
    return jnp.where(holds, jnp.int32(check), jnp.int32(0))
