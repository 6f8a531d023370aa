"""The stage of `certify` after importance sampling: mass that no draw of the proposal reached."""

from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np
from scipy.special import ndtri

from lvm_jax.evidence.fitting import EDGE
from lvm_jax.evidence.importance import BOUNDED
from lvm_jax.evidence.modes import KINDS, Modes
from lvm_jax.evidence.programs import Proposal
from lvm_jax.evidence.result import Check
from lvm_jax.evidence.rounds import START, Runner
from lvm_jax.evidence.stages import by_importance, fit, put, rows_of
from lvm_jax.evidence.state import CHAINS, Round, State
from lvm_jax.evidence.tails import COST, Tails

TURNS = 3  # the most runs of chains of a point
SHARE = 0.25  # of the cost so far, that chains cost
LEAST, MOST = 4, 64  # moves of a chain
SHIFT = 0.25  # standard errors, by which a weight shifts the estimate as one more draw
MISSED, MOST_MISSED = 0.25, 1.0  # standard errors, mass of such weights: extended; open
NEW = 0.1  # share of a new component


def compile_ahead(run: Runner, state: State, wanted: np.ndarray, pool: Executor) -> None:
    """Compile the chains of `extend` in a thread, while the stages before it compile and run.

    Not where no budget pays for a pilot, an answer and chains.
    """
    paid = state.cost + 2 * START + _cost(LEAST) <= run.budget
    if run.num_scouts and (wanted & paid).any():
        run.compile_exploration(pool)


def extend(run: Runner, state: State, wanted: np.ndarray) -> np.ndarray:
    """Run chains from draws of each point; where they leave the draws, extend the proposal.

    A component at the new states joins the proposal, and new pilots and a fresh run follow. Returns
    the failed checks, [N] bits: CONTRADICTED where chains still leave the draws, BUDGET where the
    budget does not pay for chains. The share of the last chains' states widens the interval.
    """
    failed = np.zeros(run.num_points, int)
    if state.edge is None or not run.num_scouts:
        return failed
    todo = np.flatnonzero(wanted)
    for turn in range(TURNS):
        moves = _moves(run, state, todo)
        failed[todo] = np.where(moves < LEAST, int(Check.BUDGET), 0)
        again = []
        for number in np.unique(moves[moves >= LEAST]):
            points = todo[moves == number]
            found = _explore(run, state, points, int(number), turn)
            share, error = np.asarray(found.share), _error(state, points)
            state.widen(points, share)
            missed = share > MISSED * error
            open_ = (share > MOST_MISSED * error) | (missed & ~state.within[points])
            failed[points] = np.where(open_, int(Check.CONTRADICTED), 0)
            if missed.any() and turn < TURNS - 1:
                added = _add(run, state, points[missed], rows_of(found, missed).component)
                again += points[missed][added].tolist()
        todo = np.array(sorted(again), int)
        if not len(todo):
            break
        fit(run, state, todo, again=True, attempt=turn + 1)
        by_importance(run, state, todo, wanted, attempt=turn + 1)
    return failed


def _cost(moves: np.ndarray | int) -> np.ndarray | int:
    return EDGE * (COST * moves + 1)


def _moves(run: Runner, state: State, points: np.ndarray) -> np.ndarray:
    """A power of 2 for SHARE of the cost so far, at least LEAST, within the budget."""
    left = run.budget - state.cost[points]
    cost = np.minimum(np.maximum(SHARE * state.cost[points], _cost(LEAST)), left)
    moves = np.maximum((cost / EDGE - 1) / COST, 0.5)
    return np.minimum(2 ** np.floor(np.log2(moves)), MOST).astype(int)


def _explore(run: Runner, state: State, points: np.ndarray, moves: int, turn: int) -> Tails:
    state.spend(points, Round(CHAINS, len(points), moves, 1), float(_cost(moves)))
    edge = jax.tree.map(lambda leaf: leaf[points].astype(run.shares.dtype), state.edge)
    least = np.maximum(SHIFT * _error(state, points) * state.num_samples[points], BOUNDED)
    limit = state.answer["log_evidence"][points] + np.log(least)
    edge = edge._replace(largest=np.maximum(edge.largest, limit).astype(edge.largest.dtype))
    return jax.tree.map(np.asarray, run.explore(points, edge, moves, turn))


def _error(state: State, points: np.ndarray) -> np.ndarray:
    """The standard errors, at most that of the tolerance."""
    half = np.fmin(state.half_width(points), state.tolerance)
    error: np.ndarray = half / ndtri(0.5 + state.level / 2)
    return error


def _add(run: Runner, state: State, points: np.ndarray, new: Modes) -> np.ndarray:
    """Put new components into the slots of least share, where no mode is; return where.

    Points whose component is not proper, or whose slots all have modes, keep their proposals.
    """
    search: Any = state.search  # not None, nor the modes: there was a search
    modes: Any = run.proposal.modes
    shares = np.exp(np.asarray(run.proposal.log_shares)[points])
    by_slot = shares[:, 2:].reshape(len(points), -1, KINDS).sum(2)
    by_slot = np.where(search.is_mode[points], np.inf, by_slot)
    slot, row = by_slot.argmin(1), np.arange(len(points))
    added = np.isfinite(by_slot.min(1))
    added &= ~np.isneginf(new.heights[:, 0])
    for kind in range(KINDS):
        shares[row, 2 + KINDS * slot + kind] = 0.0
    shares *= (1 - NEW) / shares.sum(1, keepdims=True)
    for kind in range(KINDS):
        shares[row, 2 + KINDS * slot + kind] = NEW / KINDS
    leaves = []
    for all_, component in zip(modes, new, strict=True):
        own = np.array(np.asarray(all_)[points])
        own[row, slot] = component[:, 0]
        leaves.append(own[added])
    with np.errstate(divide="ignore"):
        log_shares = np.log(shares).astype(run.shares.dtype)
    run.proposal = put(run.proposal, points[added], Proposal(Modes(*leaves), log_shares[added]))
    return added
