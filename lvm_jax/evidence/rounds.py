"""The rounds of `certify` on the host: every method on a subset of the points."""

from concurrent.futures import Executor
from functools import partial, reduce
from typing import Any

import jax
import numpy as np

from lvm_jax import annealing, compiling
from lvm_jax._core.batching import batch_size, num_rows, rows_for_device, rows_of
from lvm_jax._core.inputs import check_problem
from lvm_jax.evidence import neighbours, pareto, programs, scouting, tails
from lvm_jax.evidence.again import search_again
from lvm_jax.evidence.fitting import EDGE, Edge, Loose, Pilot, first_shares
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.evidence.modes import SLOTS, Modes
from lvm_jax.evidence.neighbours import Followed
from lvm_jax.evidence.nested import Nested
from lvm_jax.evidence.particles import PARTICLES
from lvm_jax.evidence.programs import (
    CHAINS,
    Capacity,
    Chains,
    DrawSizes,
    Proposal,
    Sizes,
)
from lvm_jax.evidence.result import Evidence
from lvm_jax.evidence.scouting import Searched, Symmetries
from lvm_jax.evidence.search import BATCH
from lvm_jax.evidence.tails import Tails
from lvm_jax.typing import Array, ConditionalDensity, Generative, Key

START, GROWTH = CHUNK_SIZE, 4  # draws of the first round, and the growth of annealed rounds
TEMPERATURES = 16  # of the first annealed round
FEW, TOGETHER = 3, 8  # with more than 3 points, chains of 8 points run together
SHORT = 16 * CHUNK_SIZE  # the most draws for which the short tail is used
FEW_MODES, SPARE = 6, 1  # slots if they suffice, of which one stays free for a pilot
DEFENSIVE = 0.05  # shares of q and the prior below which annealed chains do not start there
SEARCH_SHARE = 0.5  # of the budget
PRIOR_SHARE = 0.02  # least share of the prior in the proposal, where there are scouts
SEARCH, MOVES, NESTING, TAILS = 2, 3, 20, 21  # stages of keys
NUM_LIVE = 500  # points of nested sampling


class Runner:
    """The methods of `certify` on a subset of the points, each round with its own key."""

    def __init__(
        self,
        key: Key[Array, ""],
        p: Generative,
        q: ConditionalDensity,
        x: Any,
        transition: annealing.Transition | None,
        budget: float,
        num_scouts: int,
    ) -> None:
        try:
            self.x = jax.tree.map(np.asarray, check_problem(p, q, x))
        except NotImplementedError as error:
            raise TypeError(
                "p: expected a prior that can be sampled, for starts and draws, got one whose "
                f"`sample` raises NotImplementedError: {error}"
            ) from error
        self.key, self.p, self.q = key, p, q
        self.budget, self.num_scouts = budget, num_scouts
        self.prior_share = PRIOR_SHARE if num_scouts else 0.0
        self.symmetries: Symmetries = ()
        self.transition = annealing.hmc() if transition is None else transition
        self.per_move = self.transition.cost
        self.num_points = num_rows(self.x)
        self.size = compiling.bucket(self.num_points)
        self.capacity = _capacity(budget, self.per_move)
        rows = rows_for_device(TOGETHER * CHAINS)
        self.together = 1 if self.num_points <= FEW else batch_size(rows, CHAINS, self.size)
        self.loose: Loose | None = None
        self.shares = first_shares(None, np.zeros(self.num_points), self.prior_share)  # of a pilot
        self.proposal = Proposal(None, self.shares)

    def search(self) -> tuple[Searched, list[int]]:
        """Search for the modes of all points, and set the proposal and the loose ends.

        Returns the number of points of each search, too.
        """
        every = np.arange(self.num_points)
        simulates = scouting.simulates(self.p, self.x)
        budget = int(min(SEARCH_SHARE * self.budget, 2**30))
        limit = np.full(self.num_points, budget, np.int32)
        find_modes = partial(self._find_modes, simulates)
        found = find_modes(every, scouting.unused(self.p, self.x), limit, 0)
        found, sizes = search_again(find_modes, found, self.budget)
        if not simulates and self.num_points > 1:
            found = neighbours.spread(self.x, found, partial(self._follow, found.cost, budget))
        found = found._replace(modes=_first_slots(found.modes))
        self.loose = found.loose
        self.shares = first_shares(found.modes, np.asarray(found.number), self.prior_share)
        self.proposal = Proposal(found.modes, self.shares)
        return found, [self.num_points, *sizes]

    def _find_modes(
        self, simulates: bool, points: np.ndarray, known: Modes, budgets: np.ndarray, turn: int
    ) -> Searched:
        """The search of some points with `known` modes; another turn has other starts."""
        # fold_in(key, i) is split(key)[i], and `find_modes` splits the key of turn 0 in two.
        rows = (points, rows_of(self.x, points), known, budgets)
        key, together = self._key(SEARCH, self.num_scouts), rows_for_device(BATCH) // BATCH
        found = programs.find_modes(
            jax.random.fold_in(key, 1 + turn) if turn else key, self.p, self.q,
            compiling.pad_rows(rows, self.size), *_traced(len(points)), self.num_scouts,
            simulates, self.symmetries, min(together, self.size),
        )  # fmt: skip
        return compiling.first_rows(found, len(points))

    def _follow(
        self,
        spent: Array,
        budget: int,
        points: np.ndarray,
        rows: np.ndarray,
        z: np.ndarray,
        known: Modes,
    ) -> Followed:
        """The modes of these points after those z [P, B, D] of the rows of x were followed."""
        is_real = all(np.issubdtype(leaf.dtype, np.floating) for leaf in jax.tree.leaves(self.x))
        others = rows_of(self.x, rows) if is_real else None
        left = np.maximum(budget - np.asarray(spent)[points], 0).astype(np.int32)
        known = jax.tree.map(lambda leaf: leaf[:, :SLOTS], known)
        parts = compiling.pad_rows((rows_of(self.x, points), known, z, others, left), self.size)
        found = programs.follow(self.p, parts, *_traced(len(points)), 1)
        return compiling.first_rows(found, len(points))

    def move_scouts(self) -> None:
        """Draw and move the scouts of a discrete z, which are loose ends."""
        every = np.arange(self.num_points)
        rows = compiling.pad_rows((every, self.x), self.size)
        found = programs.move_scouts(
            self._key(MOVES, self.num_scouts), self.p, self.q, rows,
            *_traced(len(every)), self.num_scouts, self.transition,
            self._rows_together(self.num_scouts),
        )  # fmt: skip
        self.loose = compiling.first_rows(found, len(every))

    def importance(
        self, points: np.ndarray, num_samples: int, stage: int, proposal: Proposal | None = None
    ) -> tuple[Evidence, Pilot, Edge | None]:
        """Importance sampling; num_samples in multiples of 1,000.

        With a `proposal` of all points this is a pilot, whose draws suggest another.
        """
        rows = compiling.pad_rows(points, self.size)
        longest = SHORT if num_samples <= SHORT else self.capacity.samples
        fits = proposal is not None
        parts = self.x, self.proposal if proposal is None else proposal, self.loose
        sizes = _traced(num_samples // CHUNK_SIZE, pareto.tail_size(num_samples), fits)
        found = programs.importance(
            self._key(stage, num_samples), self.p, self.q,
            (rows, *(rows_of(part, rows) for part in parts)), *_traced(len(points)),
            DrawSizes._make(sizes), pareto.tail_size(longest), self.prior_share,
            self._rows_together(CHUNK_SIZE),
        )  # fmt: skip
        return compiling.first_rows(found, len(points))

    def chains(
        self,
        points: np.ndarray,
        chains: int,
        temperatures: int,
        from_prior: bool,
        resamples: bool,
        answers: bool,
    ) -> Chains:
        """Annealed chains from the prior or from the proposal, or runs of PARTICLES that resample.

        Pilots and final rounds use different keys.
        """
        number = chains // PARTICLES if resamples else chains
        rows = compiling.pad_rows(points, self.size)
        proposal = rows_of(self.proposal, rows)
        proposal = proposal._replace(log_shares=_start_shares(proposal.log_shares, from_prior))
        found = programs.chains(
            self._key(int(from_prior), int(answers) + 2 * resamples, chains, temperatures),
            self.p, self.q, (rows, rows_of(self.x, rows), proposal),
            *_traced(len(points)),
            Sizes._make(_traced(chains, number, pareto.tail_size(number), temperatures)),
            self.transition, self.capacity, self.together,
        )  # fmt: skip
        return compiling.first_rows(found, len(points))

    def explore(self, points: np.ndarray, edge: Edge, moves: int, turn: int) -> Tails:
        """Chains of `moves` moves from draws of the proposals of these points."""
        found = tails.explore(*self._exploration(points, edge, moves, turn))
        return compiling.first_rows(found, len(points))

    def compile_exploration(self, pool: Executor) -> None:
        """Compile the program of `explore` in a thread of the pool."""
        every, modes = np.arange(self.num_points), self.proposal.modes
        if modes is not None:
            number, _, dim = modes.means.shape
            shapes = number, (number, EDGE, dim)
            edge = Edge._make(np.zeros(shape, self.shares.dtype) for shape in shapes)
            tails.explore.compile_in(pool, *self._exploration(every, edge, 0, 0))

    def _exploration(self, points: np.ndarray, edge: Edge, moves: int, turn: int) -> tuple:
        rows = compiling.pad_rows(points, self.size)
        parts = rows_of(self.x, rows), rows_of(self.proposal, rows)
        return (
            self._key(TAILS, turn), self.p, self.q,
            (rows, *parts, compiling.pad_rows(edge, self.size)),
            tuple(_traced(len(points), moves)), self._rows_together(EDGE),
        )  # fmt: skip

    def nested(self, num_runs: int) -> Nested:
        """Nested sampling of every point, [N]."""
        rows = compiling.pad_rows((np.arange(self.num_points), self.x), self.size)
        found = programs.nested_points(
            self._key(NESTING), self.p, rows, *_traced(self.num_points), NUM_LIVE, num_runs
        )
        return compiling.first_rows(found, self.num_points)

    def cost(self, chains: int, temperatures: int) -> float:
        """Evaluations of the joint density per point in an annealed round."""
        pilot = annealing.pilot_cost(temperatures, self.per_move)
        return float(pilot + annealing.chain_cost(chains, temperatures, self.per_move))

    def scouting(self) -> float:
        """The least evaluations of the joint density per point in a search."""
        if not self.transition.continuous:
            return self.num_scouts * (1 + self.per_move)
        return float(self.num_scouts + 4 * BATCH)

    def _rows_together(self, rows: int) -> int:
        return batch_size(rows_for_device(CHUNK_SIZE), rows, self.size)

    def _key(self, *round_of: int) -> Key[Array, ""]:
        """The key of a round; it does not depend on the rounds of other points."""
        return reduce(jax.random.fold_in, round_of, self.key)


def _start_shares(log_shares: np.ndarray, from_prior: bool) -> np.ndarray:
    """Shares of the start of annealed chains: of the prior alone, or without defensive shares.

    Chains from a q or a prior that does not fit would spread the log-weights.
    """
    if from_prior:
        only = np.full_like(log_shares, -np.inf)
        only[:, 1] = 0.0
        return only
    least = np.full(log_shares.shape[1], -np.inf)
    least[:2] = np.log(DEFENSIVE)
    kept = np.where(log_shares < least, -np.inf, log_shares)
    return (kept - np.logaddexp.reduce(kept, axis=1, keepdims=True)).astype(kept.dtype)


def _first_slots(modes: Modes) -> Modes:
    """The shoulders of each point in the slots after its modes, and few slots if they suffice."""
    unused = np.isneginf(modes.heights)
    order = np.argsort(unused, axis=1, kind="stable")
    most = int((~unused).sum(1).max())
    order = order[:, : FEW_MODES if most + SPARE <= FEW_MODES else None]
    rows = np.arange(len(order))[:, None]
    return jax.tree.map(lambda leaf: leaf[rows, order], modes)


def _capacity(budget: float, per_move: float) -> Capacity:
    """The largest sizes within `budget`, rounded down to sizes of rounds."""

    def most(least: int, factor: int, cost: float) -> int:
        size = least
        while factor * size * cost <= budget:
            size *= factor
        return size

    return Capacity(
        most(START, 2, 1.0),
        most(CHAINS, 2, TEMPERATURES * per_move),
        most(TEMPERATURES, GROWTH, CHAINS * per_move),
    )


def _traced(*numbers: int) -> list[np.ndarray]:
    """Numbers as arrays, so that another value does not compile."""
    return [np.asarray(n, bool if isinstance(n, bool) else np.int32) for n in numbers]
