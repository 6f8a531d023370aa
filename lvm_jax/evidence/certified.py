"""log p(x) of every point to a tolerance: the number of samples and the method are chosen."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from lvm_jax import annealing, compiling
from lvm_jax._core import checks
from lvm_jax.evidence import beyond, stages, symmetry
from lvm_jax.evidence.programs import Proposal
from lvm_jax.evidence.result import Check, Evidence, describe, opened
from lvm_jax.evidence.rounds import Runner
from lvm_jax.evidence.state import Round, State
from lvm_jax.evidence.statement import LATE, Search
from lvm_jax.typing import Array, ConditionalDensity, Generative, Key, Latent


class Certificate(NamedTuple):
    """log p(x) of N points with intervals, in nats, and the method of each."""

    log_evidence: np.ndarray  # [N]
    low: np.ndarray  # -inf where not reliable
    high: np.ndarray  # inf where not reliable
    within: np.ndarray  # [N] booleans: the half-width is within the tolerance, and reliable
    failed: np.ndarray  # [N] bits of `Check`: the reasons not to trust the interval, 0 for none
    method: np.ndarray  # [N], "importance", "annealed" or "sequential"
    contradicted: np.ndarray  # [N] booleans: a start ended at mass that the draws miss
    k_hat: np.ndarray
    cost: np.ndarray  # [N] evaluations of the joint density or its gradient
    tolerance: float
    level: float
    rounds: tuple[Round, ...]
    proposal: Proposal  # the fitted modes and shares, leaves [N]
    search: Search | None = None  # None without scouts, or without a budget for them
    nested: Evidence | None = None  # the second opinion, leaves [N]
    least_budget: np.ndarray | None = None  # [N], that pays for the search; 0 where it is complete

    def __repr__(self) -> str:
        """The numbers of points within the tolerance and open, the verdict, and the search."""
        inside = f"{int(self.within.sum())} of {len(self.within)} points within {self.tolerance:g}"
        search = "no search" if self.search is None else repr(self.search)
        return f"Certificate({inside} nats; {self.verdict()}; {search})"

    @property
    def reliable(self) -> np.ndarray:
        """[N] booleans: every check passed, whether the interval is within the tolerance or not."""
        return self.failed == 0

    def verdict(self) -> str:
        """A sentence: reliable, or the number of unreliable points and the reasons."""
        return describe(self.failed)

    def statement(self, point: int) -> str:
        """The condition under which the interval of one point holds, as a sentence."""
        if self.failed[point]:
            words = describe(np.asarray(self.failed[point]))
            if self.least_budget is not None and self.least_budget[point] > 0:
                words += f"; the search takes a budget of about {self.least_budget[point]:,.0f}"
            return words
        if self.search is None:
            return "holds if q and the prior cover p(z | x): there was no search"
        return self.search.statement(point, 0.5 * (self.high[point] - self.low[point]))

    @property
    def num_open(self) -> int:
        """The number of points that are not within the tolerance."""
        return int((~self.within).sum())

    def as_evidence(self) -> Evidence:
        """As `Evidence`, whose standard error is half-width / z, inf if not reliable.

        z = Phi^-1((1 + level) / 2). The ESS is NaN, the numbers of draws are 0.
        """
        error = 0.5 * (self.high - self.low) / ndtri(0.5 + self.level / 2)
        values = (self.log_evidence, error, np.full_like(error, np.nan), self.k_hat)
        log_p, error, ess, k_hat = map(jnp.asarray, values)
        none = jnp.zeros(len(error), jnp.int32)
        return Evidence(log_p, error, ess, k_hat, none, none, none, none, jnp.asarray(self.failed))


def certify(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    *,
    tolerance: float,
    level: float = 0.95,
    budget: float = 1e6,
    num_scouts: int = 512,
    symmetries: Sequence[Callable[[Latent], Latent]] = (),
    transition: annealing.Transition | None = None,
    num_nested: int = 0,
) -> Certificate:
    """log p(x) of every point of x [N, ...] within `tolerance` nats, as far as the budget allows.

    1. SEARCH. The weights do not show a mode without draws. So many starts climb to modes of
       p(x, z): `num_scouts` draws of the prior; 16 of q; 16 pairs (z', x') that the model draws,
       the nearest to x of 64, whose modes are followed as x' changes into x (where x is
       real-valued and the model draws it); and the images of found modes under `symmetries`,
       functions of z that do not change p(x, z). Where the model does not draw x, or x is discrete,
       modes of the 4 nearest points of the batch are followed instead. A start ends as soon as
       value and gradient are those of a known mode's quadratic. On a Gaussian posterior each costs
       one gradient. A point with several modes is searched up to three more times, from other
       starts, while the cost that is expected is within a tenth of the budget.
    2. PROPOSAL. A mixture of q, the prior, and for each of at most 32 modes Laplace's normal and a
       Student t. A pilot of 1,000 draws fits the shares; where its k-hat exceeds 0.5 or more than
       4,000 draws are needed, up to two more pilots fit the moments of each mode. The prior keeps
       at least 2%. With num_scouts=0 all draws come from q, without a search, for a q that is known
       to be good.
    3. IMPORTANCE SAMPLING from that mixture. The pilot's variance gives the number of draws that
       the tolerance needs (1,000 times a power of 2), and a FRESH run of that size gives the
       result. The pilot's draws are not reused: stopping when the error is small is biased. A point
       is `contradicted` where the weight of the end of an ascent that is no mode, as one more
       draw, would shift the estimate by more than the tolerance.
    4. CHAINS from 32 draws, half of them those with the largest weights, move through p(z | x) by
       HMC and by changes of scale. They cost a quarter of the cost so far. A state is missed if its
       weight exceeds those of all draws, 6 p(x), and what shifts the estimate by a quarter of the
       standard error as one more draw. Where the share of such states exceeds a quarter of the
       standard error, a component at them joins the mixture, and stages 2 to 4 follow again, at
       most twice. The last share raises the upper limit of the interval.
    5. ANNEALED CHAINS replace the result where k-hat exceeds 0.5, the point is contradicted, or
       the draws needed exceed the budget. They start from the mixture, or from the prior where the
       point is contradicted or there are no scouts. The pilot has 64 chains and 16 temperatures.
       Until the standard deviation of its log-weights is at most 1, there are pilots of sequential
       Monte Carlo, 32 runs of 8 particles, which cost 4 times as much, and of 64 chains with 4
       times as many temperatures, in turn. A fresh run of the first kind that passes, with the
       number of chains that the tolerance needs (a power of 2), gives the result.

    6. A SECOND OPINION with `num_nested` >= 2: so many runs of `evidence.nested` for each point,
       without q, whatever the budget. A difference above the tolerance and 3.5 standard errors
       withdraws the certificate (NESTED). Agreement changes nothing: both may miss a narrow mode.

    For a discrete z (a `transition` that is not continuous) there are no ascents: the scouts make
    one move, and their weights contradict an estimate that misses them.

    A point is `within` if the half-width of its interval is at most the tolerance and every check
    of `Evidence.failed` passes, with k-hat at most 0.5 instead of 0.7 and the standard deviation of
    annealed log-weights at most 1, of those of runs at most 0.44. A point stops before the round
    that would exceed `budget` evaluations of the joint density (a move counts its `cost`). It then
    keeps its interval, wider than the tolerance; or [-inf, inf] with the reasons in `failed`:
    BUDGET where half the budget does not pay for the search or there are more than 32 modes, UNSEEN
    where many modes, or modes with a tenth of the evidence, were reached by one start alone,
    UNBOUNDED where ascents of log p(x | z) do not end, as of a normal likelihood whose scale is
    free and tends to 0.

    Mass beyond the prior's, where p(x | z) grows faster than the prior falls, makes the weights
    unbounded. The mixture has a component twice as wide as the prior for it, and the chains extend
    the mixture further. A point is open (CONTRADICTED) if the last share exceeds a standard error.

    No search finds every mode. `statement(i)` is the condition under which the interval of point i
    holds, and `certify_on_simulated` measures how often it does.

    One program serves every number of draws, chains and temperatures. Numbers of points are padded
    to few sizes (`compiling.bucket`): a new model, guide or shape of a point compiles four
    programs, or five with annealed chains. The keys of point i depend on i and on the round's size
    only: its result does not depend on the other points, unless their modes were followed. The
    interval is Student's, for independent weights.

    Raises ValueError for a tolerance or budget that is not positive, a level outside (0, 1),
    num_scouts < 0, num_nested of 1 or for a discrete z, symmetries that change log p(x, z), and as
    `evaluate`; TypeError for a discrete z without a `transition`, or a prior that cannot be
    sampled.
    A prior of your own type with a discrete z needs an attribute `discrete`, because its draws
    may be floats.
    """
    checks.host("evidence.certify", "evidence.importance or evidence.annealed", key, p, q, x)
    checks.key(key)
    for value, name in ((tolerance, "tolerance"), (budget, "budget")):
        if not checks.number(value, name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    level, num_scouts = checks.level(level), checks.integer(num_scouts, "num_scouts", 0)
    run = Runner(*(key, p, q, x, transition, budget, num_scouts))
    run.symmetries = symmetry.checked(key, p, run.x, symmetries)
    if checks.integer(num_nested, "num_nested", 0) == 1:
        raise ValueError("num_nested: expected 0 or at least 2 runs, got 1")
    if num_nested and not run.transition.continuous:
        raise ValueError(f"num_nested: expected 0 for a discrete z, got {num_nested}")
    return _answer(run, State(run.num_points, tolerance, level), num_nested)


def _answer(run: Runner, state: State, num_nested: int) -> Certificate:
    """The certificate of all points, by all stages."""
    failed = stages.search(run, state)
    with compiling.in_background() as pool:
        beyond.compile_ahead(run, state, failed == 0, pool)
        stages.fit(run, state, np.arange(run.num_points))
        if state.search is not None:
            failed |= np.where(state.search.late > LATE, int(Check.UNSEEN), 0)
        stages.by_importance(run, state, np.arange(run.num_points), failed == 0)
        failed |= beyond.extend(run, state, failed == 0)
    contradicted = state.contradicted() & (failed & int(Check.UNBOUNDED) == 0)
    state.failed |= np.where(contradicted, int(Check.CONTRADICTED), 0)
    state.within &= state.failed == 0
    from_prior = contradicted | (state.search is None)
    stages.by_annealing(run, state, from_prior, failed == 0)
    state.failed |= failed
    state.within &= state.failed == 0
    second = stages.second_opinion(run, state, num_nested) if num_nested else None
    low, high = opened(state.answer["low"], state.answer["high"], state.failed != 0)
    return Certificate(
        **(state.answer | {"low": low, "high": high}),
        failed=state.failed,
        within=state.within,
        method=state.method,
        contradicted=contradicted,
        cost=state.cost,
        tolerance=state.tolerance,
        level=state.level,
        rounds=tuple(state.rounds),
        search=state.search,
        nested=second,
        proposal=run.proposal,
        least_budget=state.least_budget,
    )
