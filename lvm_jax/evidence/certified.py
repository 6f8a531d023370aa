"""log p(x) of every point to a tolerance: as many samples as it takes, by the method that works."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from lvm_jax import annealing, checks
from lvm_jax.annealing.tuning import MOST
from lvm_jax.evidence.annealed import evaluate_annealed
from lvm_jax.evidence.dataset import evaluate
from lvm_jax.evidence.result import Evidence
from lvm_jax.guides.base import Guide
from lvm_jax.guides.defensive import defensive
from lvm_jax.models.base import Model
from lvm_jax.typing import Array, ArrayLike, Key, Params

IMPORTANCE, ANNEALED = "importance", "annealed"
TRUSTED = 0.5  # k-hat: the variance, on which an interval stands, is finite below it
START, GROWTH = 1_000, 4  # draws of the first round, and the growth of rounds
CHAINS, TEMPERATURES, PILOT = 64, 16, 8  # of the first annealed round
SAFETY = 1.3  # more draws than the pilot's variance asks for, as it is an estimate


class Round(NamedTuple):
    """One call: which points, by what, and with how much."""

    method: str
    num_points: int
    num_samples: int  # draws, or chains
    num_temperatures: int  # 1 for importance sampling


class Certificate(NamedTuple):
    """log p(x) of N points with intervals, in nats, and how each was found."""

    log_evidence: np.ndarray  # [N]
    low: np.ndarray
    high: np.ndarray
    within: np.ndarray  # [N] booleans: is the half-width within the tolerance, and trusted?
    method: np.ndarray  # [N], "importance" or "annealed"
    k_hat: np.ndarray
    cost: np.ndarray  # [N] evaluations of the joint density or its gradient
    tolerance: float
    level: float
    rounds: tuple[Round, ...]

    @property
    def num_open(self) -> int:
        """Points that the budget did not bring within the tolerance."""
        return int((~self.within).sum())


class _Book:
    """The best answer to each point so far, on the host."""

    def __init__(self, num_points: int, tolerance: float, level: float) -> None:
        self.tolerance, self.level = tolerance, level
        self.answer = {
            name: np.full(num_points, np.nan) for name in ("log_evidence", "low", "high", "k_hat")
        }
        self.within = np.zeros(num_points, bool)
        self.method = np.full(num_points, IMPORTANCE, dtype="U10")
        self.cost = np.zeros(num_points)
        self.rounds: list[Round] = []

    def enter(self, points: np.ndarray, found: Evidence, now: Round, cost_each: float) -> None:
        """Take over the answers of one round; only they count, not those before them."""
        low, high = found.interval(self.level)
        values = (found.log_evidence, low, high, found.k_hat)
        for name, value in zip(self.answer, values, strict=True):
            self.answer[name][points] = np.asarray(value)[: len(points)]
        half = 0.5 * (self.answer["high"] - self.answer["low"])
        good = (half <= self.tolerance) & (self.answer["k_hat"] <= TRUSTED)
        self.within[points] = good[points]
        self.method[points] = now.method
        self.cost[points] += cost_each
        self.rounds.append(now)

    def half_width(self, points: np.ndarray) -> np.ndarray:
        return 0.5 * (self.answer["high"] - self.answer["low"])[points]


def certify(
    key: Key[Array, ""],
    model: Model,
    guide: Guide,
    theta: Params,
    phi: Params,
    x: ArrayLike,
    *,
    tolerance: float,
    level: float = 0.95,
    budget: float = 1e6,
    prior_share: float = 0.1,
    transition: annealing.Transition | None = None,
    gradients_per_move: int = 11,
) -> Certificate:
    """log p(x) of every point of x [N, ...] within `tolerance` nats, if the budget lasts.

    1. Importance sampling from q(z | x; phi), with a share of the draws from the prior, which meet
       modes that q misses (`guides.defensive`; a share of 0 takes q alone, for one that is known to
       be good): 1,000 draws for every point are a pilot. Where its k-hat is at most 0.5, the draws
       that the tolerance needs follow from its variance, and a FRESH run with so many (rounded up
       to 1,000 times a power of 4) gives the answer. No answer uses the draws that decided its
       size: stopping when the error looks small is biased.
    2. Where k-hat distrusts a run, or the draws needed are more than the budget, annealed chains
       take over, from the prior, as q is what is distrusted: 64 chains over 16 temperatures, then
       4 times the temperatures where k-hat distrusts them or the spread of their log-weights is
       above 1, else 4 times the chains. Each round is fresh, and replaces the one before.
    3. A point is `within` when the half-width of its interval is at most the tolerance and k-hat at
       most 0.5, where the weights have the variance that an interval stands on. Points that the
       next round would take above `budget` evaluations of the joint density (a move of the chains
       counts as `gradients_per_move`) stay open, with the interval that they have.

    Rounds run on the points that need them, padded to a power of two, so that few shapes compile.
    Point i draws from keys of i and of the round's size alone: its answer does not depend on the
    other points.
    The interval is Student's, for independent weights; k-hat sees the tail only as far as the
    draws have: mass that no draw met cannot be certified by any method here.

    Raises ValueError for a tolerance or budget that is not positive, a level outside (0, 1), a
    prior_share outside [0, 1), and as `evaluate`.
    """
    for value, name in ((tolerance, "tolerance"), (budget, "budget")):
        if not checks.number(value, name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    x = np.asarray(checks.float_array(x, "x"))
    book = _Book(len(x), tolerance, level)
    if checks.number(prior_share, "prior_share") != 0:
        guide, phi = defensive(model, guide, prior_share), (phi, theta)
    run = _Runner(checks.key(key), model, guide, theta, phi, x, transition, gradients_per_move)
    doubtful = _by_importance(run, book, budget)
    _by_annealing(run, book, doubtful, budget)
    return Certificate(
        **book.answer,
        within=book.within,
        method=book.method,
        cost=book.cost,
        tolerance=tolerance,
        level=level,
        rounds=tuple(book.rounds),
    )


class _Runner:
    """The two methods on a subset of the points, with a fresh key for every kind of round."""

    def __init__(
        self,
        key: Key[Array, ""],
        model: Model,
        guide: Guide,
        theta: Params,
        phi: Params,
        x: np.ndarray,
        transition: annealing.Transition | None,
        gradients_per_move: int,
    ) -> None:
        self.key, self.fixed, self.x = key, (model, guide, theta, phi), x
        self.transition, self.gradients_per_move = transition, gradients_per_move

    def importance(self, book: _Book, points: np.ndarray, num_samples: int, stage: int) -> None:
        rows = _padded(points)
        key = self._key(stage, num_samples)
        found = evaluate(key, *self.fixed, self.x[rows], num_samples, index=rows)
        book.enter(points, found, Round(IMPORTANCE, len(points), num_samples, 1), num_samples)

    def annealed(self, book: _Book, points: np.ndarray, chains: int, temperatures: int) -> Array:
        model, _, theta, _ = self.fixed
        rows = _padded(points)
        plan = annealing.plan(
            annealing.sigmoid(temperatures), self.transition, num_pilot=PILOT, adaptive=True
        )
        key = self._key(chains, temperatures)
        found = evaluate_annealed(
            key, model, None, theta, None, self.x[rows], chains, plan, index=rows
        )
        now = Round(ANNEALED, len(points), chains, temperatures)
        book.enter(points, found.evidence, now, self.cost(chains, temperatures))
        return np.asarray(found.log_weights)[: len(points)].std(1)

    def cost(self, chains: int, temperatures: int) -> float:
        moves = chains * temperatures + PILOT * min(temperatures, MOST)
        return moves * (1.0 + self.gradients_per_move)

    def _key(self, *round_of: int) -> Key[Array, ""]:
        """One key for each kind of round, whichever rounds the other points have had before."""
        key = self.key
        for number in round_of:
            key = jax.random.fold_in(key, number)
        return key


def _padded(points: np.ndarray) -> np.ndarray:
    """The points, the last repeated up to a power of two."""
    size = 1 << (len(points) - 1).bit_length()
    return np.concatenate([points, np.repeat(points[-1:], size - len(points))])


def _by_importance(run: _Runner, book: _Book, budget: float) -> np.ndarray:
    """Pilot and final runs; returns the points that need another method."""
    every = np.arange(len(run.x))
    run.importance(book, every, START, stage=0)
    trusted = book.answer["k_hat"] <= TRUSTED
    needed = START * SAFETY * (book.half_width(every) / book.tolerance) ** 2
    powers = np.ceil(np.log(np.maximum(needed / START, 1.0)) / np.log(GROWTH))
    sizes = np.where(trusted, START * GROWTH ** np.nan_to_num(powers, posinf=99.0), np.inf)
    book.within[:] = False  # the pilot decides, and does not answer
    for size in np.unique(sizes[np.isfinite(sizes)]):
        points = np.flatnonzero((sizes == size) & (book.cost + size <= budget))
        if len(points):
            run.importance(book, points, int(size), stage=1)
    return np.flatnonzero(~book.within)


def _by_annealing(run: _Runner, book: _Book, points: np.ndarray, budget: float) -> None:
    """Annealed rounds, each larger than the last, until all are within or the budget is spent."""
    settings = {int(point): (CHAINS, TEMPERATURES) for point in points}
    while settings:
        for setting in sorted(set(settings.values())):
            group = np.array([point for point, now in settings.items() if now == setting])
            cost = run.cost(*setting)
            afford = book.cost[group] + cost <= budget
            for point in group[~afford]:
                del settings[int(point)]
            if not afford.any():
                continue
            group = group[afford]
            spread = run.annealed(book, group, *setting)
            _next(settings, book, group, spread, setting)


def _next(
    settings: dict[int, tuple[int, int]],
    book: _Book,
    group: Sequence[int] | np.ndarray,
    spread: Array,
    setting: tuple[int, int],
) -> None:
    """Drop the points that are done, and choose the next round of the others."""
    chains, temperatures = setting
    for point, wide in zip(np.asarray(group), np.asarray(spread), strict=True):
        if book.within[point]:
            del settings[int(point)]
        elif wide > 1 or not book.answer["k_hat"][point] <= TRUSTED:
            settings[int(point)] = (chains, temperatures * GROWTH)
        else:
            settings[int(point)] = (chains * GROWTH, temperatures)
