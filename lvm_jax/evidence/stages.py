"""The stages of `certify`: search, importance sampling, annealed chains."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtri

from lvm_jax.evidence.modes import KINDS, Modes
from lvm_jax.evidence.particles import PARTICLES
from lvm_jax.evidence.programs import CHAINS, Proposal
from lvm_jax.evidence.result import Check, Evidence, least_samples
from lvm_jax.evidence.rounds import GROWTH, SEARCH_SHARE, START, TEMPERATURES, Runner
from lvm_jax.evidence.search import BATCH
from lvm_jax.evidence.state import (
    ANNEALED,
    IMPORTANCE,
    NESTED,
    PILOT,
    SAFETY,
    SEARCH,
    SEQUENTIAL,
    TRUSTED,
    Round,
    State,
)
from lvm_jax.evidence.statement import UNSEEN, Search

APART = 3.5  # standard errors, and the tolerance, from which nested sampling disagrees
SPREAD = 1.0  # the largest standard deviation of log-weights of chains that have converged, nats
# The same of runs: that of the mean weight of PARTICLES such chains.
SPREAD_OF_RUNS = math.log1p(math.expm1(SPREAD**2) / PARTICLES) ** 0.5
ANSWER, AGAIN, PILOTING = 4, 5, 6  # stages of keys of importance sampling
KEYS = 100  # stages of an attempt
PILOTS = 3  # the most pilots of a point
MANY = 4 * START  # draws above which another pilot is worth its cost
UNFINISHED = 0.05  # the largest share of starts that the budget did not pay for


def search(run: Runner, state: State) -> np.ndarray:
    """Search for the modes, if the budget allows; return the failed checks, [N] bits."""
    every = np.arange(run.num_points)
    if not run.num_scouts:
        return np.zeros(run.num_points, int)
    if run.scouting() > run.budget:
        state.least_budget[:] = run.scouting() / SEARCH_SHARE
        return np.full(run.num_points, int(Check.BUDGET))
    if not run.transition.continuous:
        run.move_scouts()
        state.spend(every, Round(SEARCH, len(every), run.num_scouts, 1), run.scouting())
        scouts, none = np.full(len(every), run.num_scouts), np.zeros((len(every), 0))
        state.search = Search(scouts, scouts, none, none, none.astype(bool))
        return np.zeros(run.num_points, int)
    found, sizes = run.search()
    climbed, late, reached = map(np.asarray, (found.climbed, found.unfinished, found.reached))
    total = climbed + late
    searches = [Round(SEARCH, size, BATCH + run.num_scouts, 1) for size in sizes]
    state.spend(every, searches[0], np.asarray(found.cost))
    state.rounds += searches[1:]
    slots = found.modes.heights.shape[1]
    reached = np.pad(reached, ((0, 0), (0, max(slots - reached.shape[1], 0))))[:, :slots]
    is_mode = np.arange(slots)[None] < np.asarray(found.number)[:, None]
    none = np.zeros(is_mode.shape)
    state.search = Search(climbed, np.asarray(found.scouts), reached, none, is_mode)
    cost = np.asarray(found.cost) * total / np.maximum(climbed, 1) / SEARCH_SHARE
    endless = np.asarray(found.unbounded)
    state.least_budget[:] = np.where((late > UNFINISHED * total) & ~endless, cost, 0.0)
    short = (state.least_budget > 0) | np.asarray(found.full)
    unseen = state.search.unseen > UNSEEN
    failed = np.where(short, int(Check.BUDGET), 0) | np.where(unseen, int(Check.UNSEEN), 0)
    return np.where(endless, int(Check.UNBOUNDED), failed)


def fit(run: Runner, state: State, todo: np.ndarray, again: bool = False, attempt: int = 0) -> None:
    """Pilots: fit the proposal of each point of `todo`, and keep the best of at most PILOTS.

    With `again` the last fit has failed: at least two pilots start from it, and replace it. Another
    `attempt` has other keys.
    """
    drawn, best = run.proposal, run.proposal
    if again:
        state.variance[todo] = np.inf
        state.heavy[todo] = True
    for turn in range(PILOTS):
        stage = PILOTING + turn + PILOTS * again + KEYS * attempt
        own, found, edge = run.importance(todo, START, stage, drawn)
        state.spend(todo, Round(PILOT, len(todo), START, 1), START)
        kept = state.improved(todo, own, found)
        state.keep(todo[kept], rows_of(edge, kept))
        now = Proposal(rows_of(drawn.modes, todo[kept]), rows_of(found.log_shares, kept))
        best = put(best, todo[kept], now)
        more = (state.needed(todo) > MANY) | ~(np.asarray(own.k_hat) <= TRUSTED)
        more = (more | (again & (turn == 0))) & (state.cost[todo] + 2 * START <= run.budget)
        if drawn.modes is None or not more.any():
            break
        shares = _next_shares(rows_of(drawn.modes, todo), found, rows_of(run.shares, todo))
        drawn = put(drawn, todo, Proposal(found.modes, shares))
        todo = todo[more]
    run.proposal = best


def _next_shares(before: Modes, found: Any, first: np.ndarray) -> np.ndarray:
    """Log-shares of the next pilot: half as fitted, half as in the first; a tenth if new."""
    new = np.isneginf(np.asarray(before.heights)) & ~np.isneginf(np.asarray(found.modes.heights))
    shares = np.logaddexp(found.log_shares, first) - np.log(2)
    shares[:, 2:] = np.where(np.repeat(new, KINDS, 1), np.log(0.1 / KINDS), shares[:, 2:])
    shares -= np.logaddexp.reduce(shares, axis=1, keepdims=True)
    return shares.astype(first.dtype)


def rows_of(tree: Any, rows: np.ndarray) -> Any:
    """These rows of every leaf."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def put(tree: Any, rows: np.ndarray, new: Any) -> Any:
    """`tree` with these rows of every leaf replaced."""

    def replace(old: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        old = np.array(old)
        old[rows] = leaf
        return old

    return jax.tree.map(replace, tree, new)


def by_importance(
    run: Runner, state: State, points: np.ndarray, wanted: np.ndarray, attempt: int = 0
) -> None:
    """The final runs of `points`, and a larger one where the first is wider than the tolerance.

    Points that are not `wanted` [N] stay open, and get the smallest run.
    """
    state.within[points] = False  # the pilot gives no result
    sizes = np.full(run.num_points, np.inf)
    sizes[points] = np.where(state.heavy[points], np.inf, _size(state.needed(points)))
    sizes[points] = np.where(wanted[points], sizes[points], START)
    for stage in (ANSWER, AGAIN):
        for size in np.unique(sizes[np.isfinite(sizes)]):
            rows = np.flatnonzero((sizes == size) & (state.cost + size <= run.budget))
            if len(rows):
                now = Round(IMPORTANCE, len(rows), int(size), 1)
                state.spend(rows, now, size)
                found, _, edge = run.importance(rows, int(size), stage + KEYS * attempt)
                state.enter(rows, found, now)
                state.keep(rows, edge)
        if stage == ANSWER:
            sizes = _sizes_again(run, state, wanted & np.isfinite(sizes), attempt)


def _sizes_again(run: Runner, state: State, answered: np.ndarray, attempt: int) -> np.ndarray:
    """The sizes of second runs: of a new proposal for a heavy tail, or wider; inf for no run."""
    tail = int(Check.PARETO | Check.VARIANCE)
    heavy = answered & (state.failed & tail != 0) & (state.cost + 3 * START <= run.budget)
    wide = answered & (state.failed & ~int(Check.ESS) == 0) & ~state.within
    more = state.num_samples * (state.half_width(np.arange(len(wide))) / state.tolerance) ** 2
    more = np.maximum(SAFETY * more, least_samples(state.share))
    sizes = np.where(wide, np.maximum(_size(more), 2 * state.num_samples), np.inf)
    if run.proposal.modes is not None and heavy.any():
        points = np.flatnonzero(heavy)
        fit(run, state, points, again=True, attempt=attempt)
        state.within[points] = False  # a pilot gives no result
        needed = np.where(state.heavy[points], np.inf, _size(state.needed(points)))
        sizes[points] = np.maximum(needed, 2 * START)
    return sizes


def _size(needed: np.ndarray) -> np.ndarray:
    """START times a power of 2."""
    powers = np.ceil(np.log2(np.maximum(np.asarray(needed) / START, 1.0)))
    return START * 2.0 ** np.nan_to_num(powers, posinf=99.0, nan=99.0)


def second_opinion(run: Runner, state: State, num_runs: int) -> Evidence:
    """Nested sampling of all points; a clear difference from a reliable result withdraws it."""
    every = np.arange(run.num_points)
    found = run.nested(num_runs)
    cost = np.asarray(found.evaluations).sum(1)
    state.spend(every, Round(NESTED, len(every), num_runs, 1), cost)
    second = jax.tree.map(np.asarray, found.evidence)
    own = state.half_width(every) / ndtri(0.5 + state.level / 2)
    apart = np.abs(second.log_evidence - state.answer["log_evidence"])
    clear = apart > APART * np.hypot(second.standard_error, own) + state.tolerance
    state.failed |= np.where(clear & (second.failed == 0), int(Check.NESTED), 0)
    state.within &= state.failed == 0
    return second


class _Setting(NamedTuple):
    """An annealed round: a pilot, or one that `answers` (gives the result)."""

    chains: int
    temperatures: int
    from_prior: bool
    resamples: bool
    answers: bool

    @property
    def most(self) -> float:
        """The largest spread of its log-weights."""
        return SPREAD_OF_RUNS if self.resamples else SPREAD

    def longer(self) -> "_Setting":
        """The next pilot, for log-weights that spread too much: runs of particles, then chains.

        A pilot of runs costs as much as the next one of chains, which has more temperatures.
        """
        if self.resamples:
            more = GROWTH * self.temperatures
            return _Setting(CHAINS, more, self.from_prior, resamples=False, answers=False)
        return _Setting(
            GROWTH * CHAINS, self.temperatures, self.from_prior, resamples=True, answers=False
        )

    def wider(self, needed: float) -> "_Setting":
        """A final round of `needed` times the chains, rounded up to a power of 2."""
        power = math.ceil(math.log2(min(max(needed, 2.0 if self.answers else 1.0), 2.0**20)))
        return self._replace(chains=2**power * self.chains, answers=True)


def by_annealing(run: Runner, state: State, from_prior: np.ndarray, wanted: np.ndarray) -> None:
    """Run growing annealed rounds until all points are within or the budget is spent.

    Points that are not `wanted` stay open.
    """
    settings = {
        int(point): _Setting(
            CHAINS, TEMPERATURES, bool(from_prior[point]), resamples=False, answers=False
        )
        for point in np.flatnonzero(~state.within & wanted)
    }
    while settings:
        for setting in sorted(set(settings.values())):
            group = np.array([point for point, now in settings.items() if now == setting])
            cost = run.cost(setting.chains, setting.temperatures)
            afford = state.cost[group] + cost <= run.budget
            for point in group[~afford]:
                del settings[int(point)]
            if afford.any():
                _anneal(run, state, settings, group[afford], setting)


def _anneal(
    run: Runner, state: State, settings: dict[int, _Setting], group: np.ndarray, setting: _Setting
) -> None:
    """Run one round of a group; remove finished points and choose the others' next settings."""
    method = SEQUENTIAL if setting.resamples else ANNEALED
    now = Round(method, len(group), setting.chains, setting.temperatures)
    found = run.chains(group, *setting)
    state.spend(group, now, run.cost(setting.chains, setting.temperatures))
    state.enter(group, found.evidence, now)
    apart = ~(found.spread <= setting.most)
    state.failed[group] |= np.where(apart & setting.resamples, int(Check.SPREAD), 0)
    state.within[group] &= setting.answers & ~apart
    needed = SAFETY * (state.half_width(group) / state.tolerance) ** 2
    for point, wide, factor in zip(group, apart, needed, strict=True):
        if state.within[point]:
            del settings[int(point)]
        else:
            more = setting.longer() if wide else setting.wider(factor)
            settings[int(point)] = more
