"""log p(x) of every point to a tolerance: the number of samples and the method are chosen."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from lvm_jax import annealing
from lvm_jax._core import checks
from lvm_jax.evidence.programs import CHAINS
from lvm_jax.evidence.result import Check, Evidence, describe, least_samples, opened
from lvm_jax.evidence.rounds import GROWTH, START, TEMPERATURES, Runner
from lvm_jax.typing import Array, ConditionalDensity, Generative, Key

SCOUTS, IMPORTANCE, ANNEALED = "scouts", "importance", "annealed"
TRUSTED = 0.5  # k-hat below which the weights have a finite variance, which an interval needs
SPREAD = 1.0  # the largest standard deviation of log-weights of chains that have converged, nats
ROUNDING = 1e-6  # relative half-width below which weights differ by rounding only
SAFETY = 1.3  # factor on the number of draws, because the pilot's variance is an estimate


class Round(NamedTuple):
    """One call: its method, number of points and size."""

    method: str  # "scouts", "importance" or "annealed"
    num_points: int
    num_samples: int  # draws, or chains
    num_temperatures: int  # 1 for importance sampling


class Certificate(NamedTuple):
    """log p(x) of N points with intervals, in nats, and the method of each."""

    log_evidence: np.ndarray  # [N]
    low: np.ndarray  # -inf where not reliable
    high: np.ndarray  # inf where not reliable
    within: np.ndarray  # [N] booleans: the half-width is within the tolerance, and reliable
    failed: np.ndarray  # [N] bits of `Check`: the reasons not to trust the interval, 0 for none
    method: np.ndarray  # [N], "importance" or "annealed"
    contradicted: np.ndarray  # [N] booleans: a scout found mass that the draws miss
    k_hat: np.ndarray
    cost: np.ndarray  # [N] evaluations of the joint density or its gradient
    tolerance: float
    level: float
    rounds: tuple[Round, ...]

    @property
    def reliable(self) -> np.ndarray:
        """[N] booleans: every check passed, whether the interval is within the tolerance or not."""
        return self.failed == 0

    def verdict(self) -> str:
        """A sentence: reliable, or the number of unreliable points and the reasons."""
        return describe(self.failed)

    @property
    def num_open(self) -> int:
        """The number of points that are not within the tolerance."""
        return int((~self.within).sum())

    def as_evidence(self) -> Evidence:
        """As `Evidence`, whose standard error is half-width / z, inf if not reliable.

        z = Phi^-1((1 + level) / 2). The ESS is NaN, the numbers of draws are 0.
        """
        error = 0.5 * (self.high - self.low) / norm.ppf(0.5 + self.level / 2)
        values = (self.log_evidence, error, np.full_like(error, np.nan), self.k_hat)
        log_p, error, ess, k_hat = map(jnp.asarray, values)
        none = jnp.zeros(len(error), jnp.int32)
        return Evidence(log_p, error, ess, k_hat, none, none, none, none, jnp.asarray(self.failed))


class _State:
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
        self.rounds: list[Round] = []

    def spend(self, points: np.ndarray, now: Round, cost_each: float | np.ndarray) -> None:
        """Add a round of these points, and its cost."""
        self.cost[points] += cost_each
        self.rounds.append(now)

    def enter(self, points: np.ndarray, found: Evidence, now: Round) -> None:
        """Replace the results of these points by those of one round."""
        low, high = found.nominal_interval(self.level)
        values = (found.log_evidence, low, high, found.k_hat)
        for name, value in zip(self.answer, values, strict=True):
            self.answer[name][points] = np.asarray(value)[: len(points)]
        # k-hat of weights that are equal to rounding is noise, so `trusted` decides.
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
        """Whether the weights have a finite variance (k-hat at most 0.5) or are equal."""
        size = np.maximum(np.abs(self.answer["log_evidence"][points]), 1.0)
        equal = self.half_width(points) <= ROUNDING * size
        return equal | (self.answer["k_hat"][points] <= TRUSTED)

    def half_width(self, points: np.ndarray) -> np.ndarray:
        return 0.5 * (self.answer["high"] - self.answer["low"])[points]

    def contradicted(self, reach: np.ndarray) -> np.ndarray:
        """Where the largest log-weight of the scouts, as one more draw, exceeds the tolerance."""
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
) -> Certificate:
    """log p(x) of every point of x [N, ...] within `tolerance` nats, as far as the budget allows.

    1. SCOUTS. The weights do not show a mode without draws. So `num_scouts` draws of the prior
       search for modes, each by one move (HMC by default) towards the posterior. Climbs start
       from the scouts with the largest weights under q(z | x; phi) and the modes found so far,
       until 32 climbs in a row find no new mode; at most 16 distinct modes are kept. Laplace
       approximations at the modes, 1.2 times as wide, get 0.3 of the draws (not for a discrete
       z). The prior gets a share of `prior_share` (by `guides.defensive`). With prior_share=0
       and num_scouts=0 all draws come from q, for a q that is known to be good.
    2. IMPORTANCE SAMPLING from that mixture. A pilot makes 1,000 draws for every point. Where its
       k-hat is at most 0.5, its variance gives the number of draws that the tolerance needs
       (rounded up to 1,000 times a power of 4), and a FRESH run of that size gives the result. The
       pilot's draws are not reused: stopping when the error is small is biased. Where the
       weight of a scout or of the end of a climb, as one more draw, would shift the estimate by
       more than the tolerance, the point is `contradicted`.
    3. ANNEALED CHAINS replace the result where k-hat exceeds 0.5, the point is contradicted, or
       the draws needed exceed the budget. They start from q with its share of the prior, or from
       the prior where the point is contradicted or there are no scouts. The pilot has 64 chains
       and 16 temperatures, then 4 times as many temperatures until the standard deviation of the
       log-weights is at most 1. A fresh run with the number of chains that the tolerance needs (64
       times a power of 2) gives the result.

    A point is `within` if the half-width of its interval is at most the tolerance and every check
    of `Evidence.failed` passes, with k-hat at most 0.5 instead of 0.7 and the standard deviation of
    annealed log-weights at most 1. A point stops before the round that would exceed `budget`
    evaluations of the joint density (a move counts its `cost` + 1). It then keeps its
    interval, wider than the tolerance; or [-inf, inf] with the reasons in `failed`, where a check
    fails, a scout contradicts the draws, or the budget was too small for scouts.

    One program serves every number of draws, chains and temperatures. Numbers of points are padded
    to few sizes (`compiling.bucket`): a new model, guide or shape of a point compiles three or four
    programs. The keys of point i depend on i and on the round's size only: its result does not
    depend on the other points. The interval is Student's, for independent weights. Mass without
    any draw or scout cannot be detected. One move from the prior finds narrow modes in few
    dimensions, and seldom in many (measured in `evidence_lab`).

    Raises ValueError for a tolerance or budget that is not positive, a level outside (0, 1), a
    prior_share outside [0, 1), num_scouts < 0, and as `evaluate`; TypeError for a discrete z
    without a `transition` for it. A prior of your own type with a discrete z needs an attribute
    `discrete`, because its draws may be floats.
    """
    checks.host("evidence.certify", "evidence.importance or evidence.annealed", key, p, q, x)
    checks.key(key)
    for value, name in ((tolerance, "tolerance"), (budget, "budget")):
        if not checks.number(value, name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    level, num_scouts = checks.level(level), checks.integer(num_scouts, "num_scouts", 0)
    run = Runner(
        *(key, p, q, x, prior_share, transition, budget, num_scouts),
    )
    state = _State(run.num_points, tolerance, level)
    reach = _scout(run, state, num_scouts, budget)
    _by_importance(run, state, budget)
    contradicted = np.zeros(run.num_points, bool) if reach is None else state.contradicted(reach)
    state.failed |= np.where(contradicted, int(Check.CONTRADICTED), 0)
    state.failed |= int(Check.BUDGET) if reach is None and num_scouts else 0
    state.within &= state.failed == 0
    _by_annealing(run, state, contradicted | (num_scouts == 0), budget)
    low, high = opened(state.answer["low"], state.answer["high"], state.failed != 0)
    return Certificate(
        **(state.answer | {"low": low, "high": high}),
        failed=state.failed,
        within=state.within,
        method=state.method,
        contradicted=contradicted,
        cost=state.cost,
        tolerance=tolerance,
        level=level,
        rounds=tuple(state.rounds),
    )


def _scout(run: Runner, state: _State, num_scouts: int, budget: float) -> np.ndarray | None:
    """Run the scouts, if the budget allows; return their largest log-weight for each point."""
    every = np.arange(run.num_points)
    if not num_scouts or run.scouting(num_scouts) > budget:
        return None
    reach, cost = run.scout()
    state.spend(every, Round(SCOUTS, len(every), num_scouts, 1), cost)
    return reach


def _by_importance(run: Runner, state: _State, budget: float) -> None:
    """The pilot and the final runs."""
    every = np.arange(run.num_points)
    _draw(run, state, every, START, stage=0)
    trusted = state.trusted(every)
    needed = START * SAFETY * (state.half_width(every) / state.tolerance) ** 2
    needed = np.maximum(needed, SAFETY * least_samples(state.share))
    powers = np.ceil(np.log(np.maximum(needed / START, 1.0)) / np.log(GROWTH))
    sizes = np.where(trusted, START * GROWTH ** np.nan_to_num(powers, posinf=99.0), np.inf)
    state.within[:] = False  # the pilot gives no result
    for size in np.unique(sizes[np.isfinite(sizes)]):
        points = np.flatnonzero((sizes == size) & (state.cost + size <= budget))
        if len(points):
            _draw(run, state, points, int(size), stage=1)


def _draw(run: Runner, state: _State, points: np.ndarray, num_samples: int, stage: int) -> None:
    now = Round(IMPORTANCE, len(points), num_samples, 1)
    state.spend(points, now, num_samples)
    state.enter(points, run.importance(points, num_samples, stage), now)


class _Setting(NamedTuple):
    """An annealed round: a pilot, or one that `answers` (gives the result)."""

    chains: int
    temperatures: int
    from_prior: bool
    answers: bool

    def longer(self) -> "_Setting":
        """A pilot of more temperatures, for log-weights that spread too much."""
        return self._replace(temperatures=GROWTH * self.temperatures, answers=False)

    def wider(self, needed: float) -> "_Setting":
        """A final round of `needed` times the chains, rounded up to a power of 2."""
        power = math.ceil(math.log2(min(max(needed, 2.0 if self.answers else 1.0), 2.0**20)))
        return self._replace(chains=2**power * self.chains, answers=True)


def _by_annealing(run: Runner, state: _State, from_prior: np.ndarray, budget: float) -> None:
    """Run growing annealed rounds until all points are within or the budget is spent."""
    settings = {
        int(point): _Setting(CHAINS, TEMPERATURES, bool(from_prior[point]), answers=False)
        for point in np.flatnonzero(~state.within)
    }
    while settings:
        for setting in sorted(set(settings.values())):
            group = np.array([point for point, now in settings.items() if now == setting])
            cost = run.cost(setting.chains, setting.temperatures)
            afford = state.cost[group] + cost <= budget
            for point in group[~afford]:
                del settings[int(point)]
            if afford.any():
                _anneal(run, state, settings, group[afford], setting)


def _anneal(
    run: Runner, state: _State, settings: dict[int, _Setting], group: np.ndarray, setting: _Setting
) -> None:
    """Run one round of a group; remove finished points and choose the others' next settings."""
    now = Round(ANNEALED, len(group), setting.chains, setting.temperatures)
    found = run.chains(group, *setting)
    state.spend(group, now, run.cost(setting.chains, setting.temperatures))
    state.enter(group, found.evidence, now)
    state.within[group] &= setting.answers & (found.spread <= SPREAD)
    needed = SAFETY * (state.half_width(group) / state.tolerance) ** 2
    for point, wide, factor in zip(group, found.spread, needed, strict=True):
        if state.within[point]:
            del settings[int(point)]
        else:
            more = setting.longer() if wide > SPREAD else setting.wider(factor)
            settings[int(point)] = more
