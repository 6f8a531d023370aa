"""Ascents from many starts to the modes of log p(x, z), of ONE data point, with early merging.

Starts are rows; BATCH of them climb at a time by L-BFGS:

    stage 1   the first BATCH rows climb
    stage 2   rows of other data x' climb to a mode of p(x', z), which is followed as x' changes
              into x in STEPS steps, with a prediction by the secant
    stage 3   every row is evaluated once, and merged with a known mode where its value and its
              gradient are those of that mode's quadratic: on a Gaussian posterior all are; where
              the quadratic at another row predicts many rows, its normal is a shoulder, such as
              the wide part of a density with a spike at its centre
    stage 4   the other rows climb until they merge, or end at a new mode
    stage 5   the images of all modes under the model's symmetries, until they are known modes

A path ends in a mode (m, A) if the quadratic at m predicts its value and gradient g at z:

    |A^(1/2) (z + A^-1 g - m)| and |log p(x, m) - d^2 / 2 - log p(x, z)|^(1/2)  are small

in comparison to 1 and to d = |A^(1/2) (z - m)|. A new mode is polished by Newton's method.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax._core import lbfgs
from lvm_jax._core.lbfgs import Climb
from lvm_jax.evidence.merging import LATE, OPEN, SHOULDERS, UNUSED, Found, arrived, frame
from lvm_jax.evidence.modes import SLOTS, Modes, inverses
from lvm_jax.evidence.settling import FAILURES, DensityOf, Ends, settle
from lvm_jax.typing import Array, Bool, Float, Int, Scalar

BATCH = 32  # rows that climb at a time
STEPS = 8  # from x' to x
ROUND, MOST = 48, 400  # evaluations of a row in a round, and in all
REACH = 4.0  # standard deviations times sqrt(D): the longest first step


class Starts(NamedTuple):
    """C starts z, and x' - x of the first BATCH."""

    z: Float[Array, "C D"]  # C >= BATCH
    offsets: Any  # leaves [BATCH, ...], of which the first `num_followed` count; None without
    num_followed: int  # rows of other data, at most BATCH
    number: int  # rows in use; the others are for images


def search(
    density_of: DensityOf,
    starts: Starts,
    images: Callable[[Float[Array, "K D"]], Float[Array, "M D"]] | None,
    budget: Int[Array, ""],
    known: Modes | None = None,
) -> Found:
    """The ends of ascents from all starts, and the modes, of which some may be `known`.

    `images` maps the means of SLOTS modes to M = SLOTS I images, I of each in order. The search
    ends with all rows, or when `budget` evaluations are spent; then the remaining rows are OPEN.
    """
    run = partial(_round, density_of, starts)

    def unfinished(state: Found) -> Bool[Array, ""]:
        rows = (state.round < _last(starts)) | (state.end == OPEN).any()
        if images is not None:
            rows |= state.imaged < state.modes.number
        return rows & (state.evaluations < budget)

    def step(state: Found) -> Found:
        return run(state if images is None else _with_images(images, starts, state))

    found: Found = jax.lax.while_loop(unfinished, step, _nothing(starts, known))
    return found


def _nothing(starts: Starts, known: Modes | None) -> Found:
    """The state before the first round."""
    size, none = starts.z.shape[0], jnp.int32(0)
    known = Modes.none(starts.z[0]) if known is None else known
    imaged = known.number.astype(jnp.int32)  # their images have been starts
    return Found(
        starts.z, jnp.full(size, -jnp.inf, starts.z.dtype), jnp.zeros_like(starts.z),
        jnp.where(jnp.arange(size) < starts.number, OPEN, UNUSED), jnp.zeros(size, jnp.int32),
        known, inverses(known.factors), Modes.none(starts.z[0], SHOULDERS),
        spread(starts.z[: starts.number]), starts.z[:BATCH], none, none, none, imaged, none,
    )  # fmt: skip


def _with_images(
    images: Callable[[Float[Array, "K D"]], Float[Array, "M D"]], starts: Starts, state: Found
) -> Found:
    """With the images of new modes as rows, when no other row is open."""
    places = images(state.modes.means)
    mode = jnp.arange(len(places)) // (len(places) // SLOTS)
    idle = (state.round >= _last(starts)) & ~(state.end == OPEN).any()
    new = idle & (mode >= state.imaged) & (mode < state.modes.number)
    rows = slice(starts.number, None)
    return state._replace(
        z=state.z.at[rows].set(jnp.where(new[:, None], places, state.z[rows])),
        end=state.end.at[rows].set(jnp.where(new, OPEN, state.end[rows])),
        imaged=jnp.where(idle, state.modes.number, state.imaged).astype(jnp.int32),
    )


def spread(z: Float[Array, "C D"]) -> Float[Array, " D"]:
    """Half the distance of the 16% and 84% quantiles of the starts in each coordinate."""
    low, high = jnp.quantile(z, jnp.array([0.16, 0.84]), axis=0)
    half = 0.5 * (high - low)
    return jnp.where(jnp.isfinite(half) & (half > 0), half, 1.0).astype(z.dtype)


def _round(density_of: DensityOf, starts: Starts, state: Found) -> Found:
    """Climb BATCH rows for a while, and add the modes at their ends."""
    rows, active, away, reach = _turn(starts, state)
    in_sweep = (state.round >= _sweep(starts)) & (state.round < _last(starts))
    limit = jnp.where(in_sweep, 1, ROUND)
    offsets = jax.tree.map(lambda leaf: (away * leaf).astype(leaf.dtype), starts.offsets)
    before = state.z[rows]
    first = before + reach * (before - state.previous)
    ends = _ascend(density_of, offsets, state, first, active, away == 0, limit)

    def put(all_: Array, new: Array) -> Array:
        where = active.reshape(-1, *[1] * (all_.ndim - 1))
        return all_.at[rows].set(jnp.where(where, new, all_[rows]))

    spent = put(state.spent, state.spent[rows] + ends.evaluations)
    late = jnp.where(spent[rows] >= MOST, LATE, OPEN)
    end = jnp.where(away == 0, jnp.where(ends.mode >= 0, ends.mode, late), OPEN)
    found = state._replace(
        z=put(state.z, ends.z), value=put(state.value, ends.value),
        gradient=put(state.gradient, ends.gradient), spent=spent, end=put(state.end, end),
        previous=before, round=state.round + 1,
    )  # fmt: skip
    ended = active & ends.ended & (away == 0)
    # The first rows have climbed, and are no longer draws.
    return settle(density_of, found, rows, ends, ended, active & in_sweep & (rows >= BATCH))


def _sweep(starts: Starts) -> int:
    """The first round of stage 3."""
    return 1 + (STEPS + 1 if starts.num_followed else 0)


def _last(starts: Starts) -> int:
    """The first round of stage 4."""
    return _sweep(starts) + -(-starts.number // BATCH)


def _turn(
    starts: Starts, state: Found
) -> tuple[Int[Array, " B"], Bool[Array, " B"], Scalar, Scalar]:
    """The rows of a round and whether they climb, the share of x' - x in their data, and a reach.

    Of x' - x the share 1 - (k / STEPS)^2 is left after step k. A followed row starts its climb at
    the secant's prediction: its last move times `reach`, the ratio of the steps in the data.
    """
    now, place, sweep = state.round, jnp.arange(BATCH), _sweep(starts)
    in_order = jnp.maximum(now - sweep, 0) * BATCH + place  # out of range at the end
    open_ = jnp.argsort(state.end != OPEN, stable=True)[:BATCH]
    rows = jnp.where(now < _last(starts), in_order, open_)
    follows = (now > 0) & (now < sweep)
    takes_part = jnp.where(follows, place < starts.num_followed, rows >= starts.num_followed)
    takes_part = (takes_part | (now >= sweep)) & (rows < len(state.z))
    step = now - 1.0
    away = jnp.where(follows, 1 - (step / STEPS) ** 2, 0.0)
    reach = jnp.where(follows & (now > 2), (2 * step - 1) / (2 * step - 3), 0.0)
    return rows, (state.end[rows] == OPEN) & takes_part, away, reach


@precision.full
def _ascend(
    density_of: DensityOf,
    offsets: Any,
    state: Found,
    z: Float[Array, "B D"],
    active: Bool[Array, " B"],
    merges: Bool[Array, ""],
    limit: Int[Array, ""],
) -> Ends:
    """L-BFGS in the frame of the largest mode, z = start + root u, until rows end or merge."""
    root, inverse = frame(state)

    def ends(paths: Climb) -> Ends:
        here = z + paths.point @ root.T
        gradient = paths.gradient @ inverse
        mode = arrived(state.modes, state.inverses, here, paths.value, gradient)
        mode = jnp.where(merges, mode, -1)
        return Ends(here, paths.value, gradient, mode, paths.ended, paths.evaluations)

    def step(paths: Climb) -> Climb:
        axes = (None if offsets is None else 0, 0, 0)
        moved = jax.vmap(partial(_advance, density_of, root), axes)(offsets, z, paths)
        return moved._replace(ended=moved.ended | (ends(moved).mode >= 0))

    def more(paths: Climb) -> Bool[Array, ""]:
        # A new mode first: others may then merge with it at once.
        new = active & paths.ended & (ends(paths).mode < 0) & merges
        late = new.any() & (state.failures < FAILURES)
        return (~paths.ended & (paths.evaluations < limit)).any() & ~late

    first = jax.vmap(lbfgs.unstarted)(z)._replace(ended=~active)
    return ends(jax.lax.while_loop(more, step, first))


@precision.full
def _advance(
    density_of: DensityOf,
    root: Float[Array, "D D"],
    offset: Any,
    start: Float[Array, " D"],
    path: Climb,
) -> Climb:
    """One more point of a path, unless it has ended.

    The first step is the gradient, which is exact for a normal of this frame. A path ends where it
    does not change the point, such as at a mode.
    """
    both = jax.value_and_grad(density_of(offset))

    def objective(u: Array) -> tuple[Scalar, Array]:
        value, gradient = both(start + root @ u)
        return value, gradient @ root

    moved = lbfgs.advance(objective, path)
    length = jnp.sqrt((moved.gradient**2).sum())
    most = REACH * jnp.sqrt(jnp.asarray(start.size, start.dtype))
    step = moved.gradient * jnp.where(length > most, most / length, 1.0)
    first = path.evaluations == 0
    still = (start + root @ step == start).all()
    moved = moved._replace(
        direction=jnp.where(first, step, moved.direction),
        ended=jnp.where(first, (moved.trials > 0) | still, moved.ended),
    )
    return jax.tree.map(lambda new, old: jnp.where(path.ended, old, new), moved, path)
