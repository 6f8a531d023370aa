"""Modes of the nearest data points as further starts, for a model that cannot draw x.

A model that draws x gives each point pairs (z', x') near it. Without them the modes of near points
of the same batch are followed as x' changes into x. They are no independent starts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.evidence.modes import Modes
from lvm_jax.evidence.scouting import FOLLOWED, Searched
from lvm_jax.typing import Array, Float, Int

NEAREST, TURNS = 4, 3  # near points of each, and the most turns, in which new modes spread
BLOCK = 256  # points whose distances are computed at a time


class Followed(NamedTuple):
    """The modes of points, leaves [N, ...], after those of their neighbours were followed."""

    modes: Modes
    cost: Int[Array, " N"]


# (points, rows of x, modes there) -> Followed
Follow = Callable[[np.ndarray, np.ndarray, np.ndarray, Modes], Followed]


def nearest(x: Any) -> Int[np.ndarray, "N M"]:
    """The M <= NEAREST nearest other points of each, in standard deviations of each number."""
    leaves = [np.asarray(leaf, np.float32).reshape(len(leaf), -1) for leaf in jax.tree.leaves(x)]
    rows: np.ndarray = np.concatenate(leaves, 1)
    scale = rows.std(0)
    rows = rows / np.where(scale > 0, scale, np.float32(1))
    squares, number = (rows**2).sum(1), min(NEAREST, len(rows) - 1)
    found = []
    for first in range(0, len(rows), BLOCK):
        block = np.arange(first, min(first + BLOCK, len(rows)))
        distance = squares[None] - 2 * rows[block] @ rows.T
        distance[np.arange(len(block)), block] = np.inf
        found.append(np.argsort(distance, axis=1, kind="stable")[:, :number])
    return np.concatenate(found)


def spread(x: Any, found: Searched, follow: Follow) -> Searched:
    """`found` with the modes of near points, where these have more of them.

    The starts that ended in each mode stay those of the search.
    """
    near = nearest(x)
    cost, number = (np.array(leaf) for leaf in (found.cost, found.number))
    modes = jax.tree.map(np.array, found.modes)
    changed = np.ones(len(number), bool)
    for _ in range(TURNS):
        more = changed[near] & (number[near] > number[:, None])
        points = np.flatnonzero(more.any(1))
        if not len(points):
            break
        rows, z = _starts(points, near, more, number, modes.means)
        new = follow(points, rows, z, Modes(*(leaf[points] for leaf in modes)))
        cost[points] += np.asarray(new.cost)
        changed = np.zeros_like(changed)
        for all_, own in zip(modes, new.modes, strict=True):
            all_[points, : own.shape[1]] = own
        now = (~np.isneginf(np.asarray(new.modes.heights))).sum(1)
        changed[points], number[points] = now > number[points], now
    return found._replace(modes=modes, number=jnp.asarray(number), cost=jnp.asarray(cost))


def _starts(
    points: np.ndarray,
    near: Int[np.ndarray, "N M"],
    more: np.ndarray,
    number: np.ndarray,
    means: Float[np.ndarray, "N K D"],
) -> tuple[Int[np.ndarray, "P B"], Float[np.ndarray, "P B D"]]:
    """FOLLOWED modes of near points for each point: the rows of x, and the modes."""
    pairs = []
    for point in points:
        own = [(row, mode) for row in near[point][more[point]] for mode in range(number[row])]
        pairs.append(np.resize(own, (FOLLOWED, 2)) if len(own) < FOLLOWED else own[:FOLLOWED])
    rows, slots = np.moveaxis(np.asarray(pairs), 2, 0)
    return rows, means[rows, slots]
