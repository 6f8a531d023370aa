"""log p(x) of every point to a tolerance: as many samples as it takes, by the method that works."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from lvm_jax import annealing
from lvm_jax._core import checks
from lvm_jax.evidence.result import Check, Evidence, describe, least_samples, opened
from lvm_jax.evidence.rounds import CHAINS, GROWTH, START, TEMPERATURES, Runner
from lvm_jax.typing import Array, ConditionalDensity, Generative, Key

SCOUTS, IMPORTANCE, ANNEALED = "scouts", "importance", "annealed"
TRUSTED = 0.5  # k-hat: the variance, on which an interval stands, is finite below it
SPREAD = 1.0  # nats between the log-weights of chains, above which they have not arrived
ROUNDING = 1e-6  # half-widths, of log p(x), below which weights differ by rounding alone
SAFETY = 1.3  # more draws than the pilot's variance asks for, as it is an estimate


class Round(NamedTuple):
    """One call: which points, by what, and with how much."""

    method: str  # "scouts", "importance" or "annealed"
    num_points: int
    num_samples: int  # draws, or chains
    num_temperatures: int  # 1 for importance sampling


class Certificate(NamedTuple):
    """log p(x) of N points with intervals, in nats, and how each was found."""

    log_evidence: np.ndarray  # [N]
    low: np.ndarray  # -inf where not reliable
    high: np.ndarray  # inf where not reliable
    within: np.ndarray  # [N] booleans: is the half-width within the tolerance, and reliable?
    failed: np.ndarray  # [N] bits of `Check`: the reasons not to trust the interval, 0 for none
    method: np.ndarray  # [N], "importance" or "annealed"
    contradicted: np.ndarray  # [N] booleans: did a scout find mass that the draws would miss?
    k_hat: np.ndarray
    cost: np.ndarray  # [N] evaluations of the joint density or its gradient
    tolerance: float
    level: float
    rounds: tuple[Round, ...]

    @property
    def reliable(self) -> np.ndarray:
        """[N] booleans: can the interval be trusted, within the tolerance or not?"""
        return self.failed == 0

    def verdict(self) -> str:
        """In words: reliable, or how many points are not and for which reasons."""
        return describe(self.failed)

    @property
    def num_open(self) -> int:
        """Points that the budget did not bring within the tolerance."""
        return int((~self.within).sum())

    def as_evidence(self) -> Evidence:
        """As the other methods give it; the standard error is half-width / z, inf if not reliable.

        z = Phi^-1((1 + level) / 2). The ESS is NaN, the counts of draws are 0.
        """
        error = 0.5 * (self.high - self.low) / norm.ppf(0.5 + self.level / 2)
        values = (self.log_evidence, error, np.full_like(error, np.nan), self.k_hat)
        log_p, error, ess, k_hat = map(jnp.asarray, values)
        none = jnp.zeros(len(error), jnp.int32)
        return Evidence(log_p, error, ess, k_hat, none, none, none, none, jnp.asarray(self.failed))


class _Answers:
    """The best answer to each point so far, on the host."""

    def __init__(self, num_points: int, tolerance: float, level: float) -> None:
        self.tolerance, self.level = tolerance, level
        self.answer = {
            name: np.full(num_points, np.nan) for name in ("log_evidence", "low", "high", "k_hat")
        }
        self.within = np.zeros(num_points, bool)
        self.failed = np.zeros(num_points, int)  # of the answer, as bits of `Check`
        self.share = np.zeros(num_points)  # ESS of the answer, over its number of draws
        self.method = np.full(num_points, IMPORTANCE, dtype="U10")
        self.num_samples = np.zeros(num_points)  # of the answer
        self.cost = np.zeros(num_points)
        self.rounds: list[Round] = []

    def spend(self, points: np.ndarray, now: Round, cost_each: float | np.ndarray) -> None:
        """Note a round of these points, and what it cost."""
        self.cost[points] += cost_each
        self.rounds.append(now)

    def enter(self, points: np.ndarray, found: Evidence, now: Round) -> None:
        """Take over the answers of one round; only they count, not those before them."""
        low, high = found.nominal_interval(self.level)
        values = (found.log_evidence, low, high, found.k_hat)
        for name, value in zip(self.answer, values, strict=True):
            self.answer[name][points] = np.asarray(value)[: len(points)]
        # Weights that are equal to rounding have a tail of rounding: only `trusted` judges it.
        tail = int(Check.PARETO | Check.VARIANCE)
        failed = np.asarray(found.failed)[: len(points)]
        heavy = np.where(failed & tail == 0, int(Check.VARIANCE), failed & tail)
        failed = failed & ~tail | np.where(self.trusted(points), 0, heavy)
        self.failed[points] = failed
        self.within[points] = (self.half_width(points) <= self.tolerance) & (failed == 0)
        self.share[points] = (np.asarray(found.ess) / np.asarray(found.num_samples))[: len(points)]
        self.method[points] = now.method
        self.num_samples[points] = now.num_samples

    def trusted(self, points: np.ndarray) -> np.ndarray:
        """Has the interval a variance to stand on? Weights that are equal need none."""
        size = np.maximum(np.abs(self.answer["log_evidence"][points]), 1.0)
        equal = self.half_width(points) <= ROUNDING * size
        return equal | (self.answer["k_hat"][points] <= TRUSTED)

    def half_width(self, points: np.ndarray) -> np.ndarray:
        return 0.5 * (self.answer["high"] - self.answer["low"])[points]

    def contradicted(self, reach: np.ndarray) -> np.ndarray:
        """Where a scout's place, as one draw more, would move the answer beyond the tolerance."""
        total = self.answer["log_evidence"] + np.log(self.num_samples)
        return ~(reach - total <= np.log(self.tolerance))


def certify(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    *,
    tolerance: float,
    level: float = 0.95,
    budget: float = 1e6,
    prior_share: float = 0.1,
    num_scouts: int = 512,
    transition: annealing.Transition | None = None,
    gradients_per_move: int = 11,
) -> Certificate:
    """log p(x) of every point of x [N, ...] within `tolerance` nats, if the budget lasts.

    1. SCOUTS. The weights do not show a mode that no draw met, so `num_scouts` draws of the prior
       search for modes, each by one move (HMC unless told otherwise) towards the posterior. Climbs
       start from the places that q(z | x; phi) and the modes found before cover least, until 16
       climbs found no other mode; ends that coincide are merged into at most 16 distinct modes.
       Laplace's normals at the modes, 1.2 times as wide, get 0.3 of the draws together (not for a
       discrete z). Another share comes from the prior (`prior_share`, by `guides.defensive`).
       Shares and scouts of 0 take q alone, for one that is known to be good.
    2. IMPORTANCE SAMPLING from that mixture: 1,000 draws for every point are a pilot. Where its
       k-hat is at most 0.5, the draws that the tolerance needs follow from its variance, and a
       FRESH run with so many (rounded up to 1,000 times a power of 4) gives the answer. No answer
       uses the draws that decided its size: stopping when the error looks small is biased. Where
       the place of a scout, or the end of a climb, still has so large a weight that, as one draw
       more, it would move the answer by more than the tolerance, the answer is `contradicted`, and
       does not count.
    3. ANNEALED CHAINS take over where k-hat distrusts or a scout contradicts a run, or the draws
       needed are more than the budget: from q with its share of the prior, or from the prior alone
       where q is contradicted (or there are no scouts). 64 chains over 16 temperatures are a
       pilot, with 4 times the temperatures until the spread of the log-weights is at most 1; then
       a fresh run, of the chains that the tolerance needs (64 times a power of 2), answers.

    A point is `within` when the half-width of its interval is at most the tolerance and every
    check of `Evidence.failed` passes: with k-hat at most 0.5, where the weights have a variance,
    instead of 0.7, and the spread of annealed log-weights at most 1. Points that the next round
    would take above `budget` evaluations of the joint density (a move counts as
    `gradients_per_move` and one more) stay open: with the interval that they have, which is wider
    than the tolerance, or with [-inf, inf] and the reasons in `failed`, where a check does not
    pass, a scout contradicts the draws, or the budget was too small for scouts.

    One program serves every number of draws, chains and temperatures, and numbers of points are
    padded to a few sizes (`compiling.bucket`): three or four programs compile for a new model,
    guide or shape of a point, and none for another number of points within a bucket. Point i draws
    from keys of i and of the round's size alone: its answer does not depend on the other points.
    The interval is Student's, for independent weights; k-hat sees the tail only as far as the
    draws have: mass that no draw and no scout met cannot be certified by any method here. One
    move from the prior finds narrow modes in a few dimensions, and seldom in many (measured in
    `evidence_lab`).

    Raises ValueError for a tolerance or budget that is not positive, a level outside (0, 1), a
    prior_share outside [0, 1), num_scouts < 0, and as `evaluate`; TypeError for a discrete z
    without a `transition` for it; a prior of your own type says so by an attribute `discrete`, as
    floats that are really labels cannot be told.
    """
    checks.host("evidence.certify", "evidence.importance or evidence.annealed", key, p, q, x)
    checks.key(key)
    for value, name in ((tolerance, "tolerance"), (budget, "budget")):
        if not checks.number(value, name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    level, num_scouts = checks.level(level), checks.integer(num_scouts, "num_scouts", 0)
    run = Runner(
        *(key, p, q, x, prior_share, transition, gradients_per_move, budget, num_scouts),
    )
    book = _Answers(run.num_points, tolerance, level)
    reach = _scout(run, book, num_scouts, budget)
    _by_importance(run, book, budget)
    contradicted = np.zeros(run.num_points, bool) if reach is None else book.contradicted(reach)
    book.failed |= np.where(contradicted, int(Check.CONTRADICTED), 0)
    book.failed |= int(Check.BUDGET) if reach is None and num_scouts else 0
    book.within &= book.failed == 0
    _by_annealing(run, book, contradicted | (num_scouts == 0), budget)
    low, high = opened(book.answer["low"], book.answer["high"], book.failed != 0)
    return Certificate(
        **(book.answer | {"low": low, "high": high}),
        failed=book.failed,
        within=book.within,
        method=book.method,
        contradicted=contradicted,
        cost=book.cost,
        tolerance=tolerance,
        level=level,
        rounds=tuple(book.rounds),
    )


def _scout(run: Runner, book: _Answers, num_scouts: int, budget: float) -> np.ndarray | None:
    """Send scouts, if the budget lasts; returns the largest log-weight of their places."""
    every = np.arange(run.num_points)
    if not num_scouts or run.scouting(num_scouts) > budget:
        return None
    reach, cost = run.scout()
    book.spend(every, Round(SCOUTS, len(every), num_scouts, 1), cost)
    return reach


def _by_importance(run: Runner, book: _Answers, budget: float) -> None:
    """Pilot and final runs."""
    every = np.arange(run.num_points)
    _draw(run, book, every, START, stage=0)
    trusted = book.trusted(every)
    needed = START * SAFETY * (book.half_width(every) / book.tolerance) ** 2
    needed = np.maximum(needed, SAFETY * least_samples(book.share))
    powers = np.ceil(np.log(np.maximum(needed / START, 1.0)) / np.log(GROWTH))
    sizes = np.where(trusted, START * GROWTH ** np.nan_to_num(powers, posinf=99.0), np.inf)
    book.within[:] = False  # the pilot decides, and does not answer
    for size in np.unique(sizes[np.isfinite(sizes)]):
        points = np.flatnonzero((sizes == size) & (book.cost + size <= budget))
        if len(points):
            _draw(run, book, points, int(size), stage=1)


def _draw(run: Runner, book: _Answers, points: np.ndarray, num_samples: int, stage: int) -> None:
    now = Round(IMPORTANCE, len(points), num_samples, 1)
    book.spend(points, now, num_samples)
    book.enter(points, run.importance(points, num_samples, stage), now)


class _Setting(NamedTuple):
    """An annealed round; one that does not answer is a pilot, which decides the next one's size."""

    chains: int
    temperatures: int
    from_prior: bool
    answers: bool

    def longer(self) -> "_Setting":
        """For log-weights that spread too much: a pilot of more temperatures."""
        return self._replace(temperatures=GROWTH * self.temperatures, answers=False)

    def wider(self, needed: float) -> "_Setting":
        """An answer of `needed` times the chains, rounded up to a power of 2; more than before."""
        power = math.ceil(math.log2(min(max(needed, 2.0 if self.answers else 1.0), 2.0**20)))
        return self._replace(chains=2**power * self.chains, answers=True)


def _by_annealing(run: Runner, book: _Answers, from_prior: np.ndarray, budget: float) -> None:
    """Annealed rounds, each larger than the last, until all are within or the budget is spent."""
    settings = {
        int(point): _Setting(CHAINS, TEMPERATURES, bool(from_prior[point]), answers=False)
        for point in np.flatnonzero(~book.within)
    }
    while settings:
        for setting in sorted(set(settings.values())):
            group = np.array([point for point, now in settings.items() if now == setting])
            cost = run.cost(setting.chains, setting.temperatures)
            afford = book.cost[group] + cost <= budget
            for point in group[~afford]:
                del settings[int(point)]
            if afford.any():
                _anneal(run, book, settings, group[afford], setting)


def _anneal(
    run: Runner, book: _Answers, settings: dict[int, _Setting], group: np.ndarray, setting: _Setting
) -> None:
    """One round of some points: drop those that are done, and choose the next for the others."""
    now = Round(ANNEALED, len(group), setting.chains, setting.temperatures)
    found = run.chains(group, *setting)
    book.spend(group, now, run.cost(setting.chains, setting.temperatures))
    book.enter(group, found.evidence, now)
    book.within[group] &= setting.answers & (found.spread <= SPREAD)
    needed = SAFETY * (book.half_width(group) / book.tolerance) ** 2
    for point, wide, factor in zip(group, found.spread, needed, strict=True):
        if book.within[point]:
            del settings[int(point)]
        else:
            more = setting.longer() if wide > SPREAD else setting.wider(factor)
            settings[int(point)] = more
