"""The state of `certify`: the last result of each point, and the rounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from lvm_jax.evidence.fitting import Edge, Pilot
from lvm_jax.evidence.result import Check, Evidence, least_samples
from lvm_jax.evidence.rounds import START
from lvm_jax.evidence.statement import Search

SEARCH, PILOT, IMPORTANCE, ANNEALED = "search", "pilot", "importance", "annealed"
SEQUENTIAL, NESTED, CHAINS = "sequential", "nested", "chains"
TRUSTED = 0.5  # k-hat below which the weights have a finite variance, which an interval needs
HEAVY = 0.7  # k-hat of a pilot above which importance sampling is not tried
SAFETY = 1.3  # factor on the number of draws, because the pilot's variance is an estimate
ZEROS = 2  # draws of weight zero that the error counts beside those that occurred
ROUNDING = 1e-6  # standard errors below it are those of equal weights


class Round(NamedTuple):
    """One call: its method, number of points and size."""

    method: str  # "search", "pilot", "importance", "chains", "annealed", "sequential" or "nested"
    num_points: int
    num_samples: int  # starts, draws, chains or particles, runs; moves of each of EDGE "chains"
    num_temperatures: int  # 1 for all but annealed and sequential


class State:
    """The last result of each point, on the host."""

    def __init__(self, num_points: int, tolerance: float, level: float) -> None:
        self.tolerance, self.level = tolerance, level
        self.answer = {
            name: np.full(num_points, np.nan) for name in ("log_evidence", "low", "high", "k_hat")
        }
        self.within = np.zeros(num_points, bool)
        self.failed = np.zeros(num_points, int)  # of the result, as bits of `Check`
        self.share = np.zeros(num_points)  # ESS of the result, over its number of draws
        self.method = np.full(num_points, IMPORTANCE, dtype="U10")
        self.num_samples = np.zeros(num_points)  # of the result
        self.cost = np.zeros(num_points)
        self.least_budget = np.zeros(num_points)  # that pays for the search, where it did not
        self.variance = np.full(num_points, np.inf)  # of the fitted proposal's weights, relative
        self.heavy = np.zeros(num_points, bool)  # k-hat of the pilot is above HEAVY
        self.reach = np.full(num_points, -np.inf)  # largest log-weight of loose ends
        self.edge: Edge | None = None  # leaves [N, ...]
        self.search: Search | None = None
        self.rounds: list[Round] = []

    def spend(self, points: np.ndarray, now: Round, cost_each: float | np.ndarray) -> None:
        """Add a round of these points, and its cost."""
        self.cost[points] += cost_each
        self.rounds.append(now)

    def enter(self, points: np.ndarray, found: Evidence, now: Round) -> None:
        """Replace the results of these points by those of one round."""
        if now.method == IMPORTANCE:
            found = _with_zeros(found)
        low, high = found.nominal_interval(self.level)
        values = (found.log_evidence, low, high, found.k_hat)
        for name, value in zip(self.answer, values, strict=True):
            self.answer[name][points] = np.asarray(value)[: len(points)]
        tail = int(Check.PARETO | Check.VARIANCE)
        failed = np.asarray(found.failed)[: len(points)]
        heavy = np.where(failed & tail == 0, int(Check.VARIANCE), failed & tail)
        failed = failed & ~tail | np.where(self.trusted(points), 0, heavy)
        self.failed[points] = failed
        self.within[points] = (self.half_width(points) <= self.tolerance) & (failed == 0)
        self.share[points] = (np.asarray(found.ess) / np.asarray(found.num_samples))[: len(points)]
        self.method[points] = now.method
        self.num_samples[points] = now.num_samples

    def keep(self, points: np.ndarray, edge: Edge | None) -> None:
        """Keep the draws from which chains leave the proposal of these points."""
        if edge is None:
            return
        if self.edge is None:
            number = len(self.cost)
            self.edge = jax.tree.map(lambda leaf: np.zeros((number, *leaf.shape[1:])), edge)
        for old, leaf in zip(self.edge, edge, strict=True):
            old[points] = leaf

    def widen(self, points: np.ndarray, share: np.ndarray) -> None:
        """Raise the upper limits for a share of the evidence that the draws may have missed."""
        self.answer["high"][points] -= np.log1p(-np.minimum(share, 0.5))
        self.within[points] &= self.half_width(points) <= self.tolerance

    def improved(self, points: np.ndarray, own: Evidence, found: Pilot) -> np.ndarray:
        """Enter a pilot of these points where it suggests a better proposal; return where."""
        heavy, variance = ~(np.asarray(own.k_hat) <= HEAVY), np.asarray(found.variance)
        before = self.heavy[points]
        kept = (before & ~heavy) | ((before == heavy) & (variance < self.variance[points]))
        kept |= np.isinf(self.variance[points])
        rows = points[kept]
        now = Round(IMPORTANCE, len(rows), START, 1)
        self.enter(rows, jax.tree.map(lambda leaf: np.asarray(leaf)[kept], own), now)
        self.heavy[rows], self.variance[rows] = heavy[kept], variance[kept]
        self.reach[rows] = np.asarray(found.reach)[kept]
        if self.search is not None and found.modes is not None:
            self.search.masses[rows] = np.asarray(found.masses)[kept]
        return kept

    def trusted(self, points: np.ndarray) -> np.ndarray:
        """Whether the weights have a finite variance (k-hat at most 0.5)."""
        trusted: np.ndarray = self.answer["k_hat"][points] <= TRUSTED
        return trusted

    def half_width(self, points: np.ndarray) -> np.ndarray:
        """Half the width of the intervals, in nats."""
        return 0.5 * (self.answer["high"] - self.answer["low"])[points]

    def contradicted(self) -> np.ndarray:
        """Where the largest weight of the loose ends, as one more draw, exceeds the tolerance."""
        total = self.answer["log_evidence"] + np.log(self.num_samples)
        return ~np.isneginf(self.reach) & ~(self.reach - total <= np.log(self.tolerance))

    def needed(self, points: np.ndarray) -> np.ndarray:
        """The draws of the fitted proposal that the tolerance and `least_ess` need."""
        quantile = ndtri(0.5 + self.level / 2)
        variance = self.variance[points]
        width = quantile**2 * variance / self.tolerance**2
        return SAFETY * np.maximum(width, least_samples(1 / (1 + variance)))


def _with_zeros(found: Evidence) -> Evidence:
    """With the error of two more draws of weight zero, unless weights are equal to rounding.

    Weights of a mixture that fits are nearly equal, but for few draws of weight near zero, from q
    or the prior. Their number is Poisson, and its own estimate of its error is small when it is
    small. Source: Agresti and Coull (1998), for a binomial probability.
    """
    error = np.asarray(found.standard_error)
    more = np.sqrt(error**2 + ZEROS / np.asarray(found.num_samples, float) ** 2)
    return found._replace(standard_error=jnp.asarray(np.where(error > ROUNDING, more, error)))
