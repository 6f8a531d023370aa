"""Further searches of points with several modes, from other starts.

Of N starts all miss a basin of prior mass f with probability (1 - f)^N. A density with several
modes is more likely to have others with small basins than a density with one.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lvm_jax._core.batching import rows_of
from lvm_jax.evidence.modes import SLOTS, Modes
from lvm_jax.evidence.scouting import LOOSE, Searched
from lvm_jax.typing import Int

TURNS, SHARE = 3, 0.1  # further searches of a point, and the share of the budget for all searches
# (points, their known modes, evaluations of each, turn) -> the search
FindModes = Callable[[np.ndarray, Modes, np.ndarray, int], Searched]


def search_again(
    find_modes: FindModes, found: Searched, budget: float
) -> tuple[Searched, list[int]]:
    """`found` with up to TURNS further searches, and the number of points of each.

    A point takes part as long as its cost and that of its first search are at most SHARE of the
    budget, which the last round of ascents may exceed, whatever the other points do.
    """
    first, points = np.asarray(found.cost), np.arange(len(found.cost))
    sizes: list[int] = []
    for turn in range(1, 1 + TURNS):
        own = rows_of(found, points)
        several = (own.number > 1) & ~own.full & (own.unfinished == 0)
        points = points[several & (own.cost + first[points] <= SHARE * budget)]
        if not len(points):
            break
        left = np.minimum(SHARE * budget - found.cost[points], 2**30).astype(np.int32)
        known = jax.tree.map(lambda leaf: leaf[:, :SLOTS], rows_of(found.modes, points))
        found = joined(found, find_modes(points, known, left, turn), points)
        sizes.append(len(points))
    return found, sizes


def joined(found: Searched, more: Searched, points: Int[np.ndarray, " P"]) -> Searched:
    """The search with another one of some points, whose `known` modes were those of the first.

    The starts of a search that the budget cut short do not count, because those in narrow basins
    climb longest; a mode that is new in it counts as reached by one start.
    """
    own, whole = rows_of(found, points), more.unfinished == 0
    reached = own.reached + np.where(whole[:, None], more.reached, 0)
    slots = np.arange(reached.shape[1])[None]
    new = ~whole[:, None] & (slots >= own.number[:, None]) & (slots < more.number[:, None])
    modes = jax.tree.map(
        lambda a, b: np.concatenate([b[:, :SLOTS], a[:, SLOTS:]], 1), own.modes, more.modes
    )
    both = jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), own.loose, more.loose)
    best = np.argsort(-both.log_p, 1, kind="stable")[:, :LOOSE]
    rows = np.arange(len(points))[:, None]
    changed = Searched(
        modes, more.number, reached + new,
        own.climbed + np.where(whole, more.climbed, new.sum(1)),
        own.scouts + np.where(whole, more.scouts, 0), own.unfinished,
        own.full | more.full, own.unbounded | more.unbounded,
        jax.tree.map(lambda leaf: leaf[rows, best], both), own.cost + more.cost,
    )  # fmt: skip

    def put(old: Any, part: Any) -> np.ndarray:
        every = np.array(old)
        every[points] = part
        return every

    return jax.tree.map(put, found, changed)
