"""New modes and shoulders at the ends of a batch of paths."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax.evidence.merging import (
    LATE,
    NONE,
    OPEN,
    Found,
    Normal,
    add_mode,
    add_shoulder,
    arrived,
)
from lvm_jax.evidence.modes import inverses
from lvm_jax.guides.laplace import NEAR as CONVERGED
from lvm_jax.guides.laplace import factor_of
from lvm_jax.guides.newton import MAX_STEPS, maximize
from lvm_jax.typing import Array, Bool, Float, Int, Scalar

TRIES = 8  # for shoulders
FAILURES = 16  # ends without a mode that Newton's method tries to improve
DensityOf = Callable[[Any], Callable[[Array], Scalar]]  # offset of x -> z -> log p(x + offset, z)


class Ends(NamedTuple):
    """BATCH rows after a round."""

    z: Float[Array, "B D"]
    value: Float[Array, " B"]
    gradient: Float[Array, "B D"]
    mode: Int[Array, " B"]  # -1 for none
    ended: Bool[Array, " B"]  # the path does not go on
    evaluations: Int[Array, " B"]


def settle(
    density_of: DensityOf,
    state: Found,
    rows: Int[Array, " B"],
    ends: Ends,
    ended: Bool[Array, " B"],
    swept: Bool[Array, " B"],
) -> Found:
    """Add the modes at `ended` rows, from the highest down, and shoulders at `swept` ones."""
    density = density_of(None)
    where = ends.z, ends.value, ends.gradient

    def unsettled(state: Found) -> Bool[Array, " B"]:
        open_ = (state.end[rows] == OPEN) | (state.end[rows] == LATE)
        return ended & open_

    def on_shoulders(state: Found) -> Bool[Array, " B"]:
        left = swept & (state.end[rows] == OPEN) & (state.tries < TRIES)
        own = arrived(state.shoulders, inverses(state.shoulders.factors), *where)
        return left & (own < 0)

    def step(state: Found) -> Found:
        left, others = unsettled(state), on_shoulders(state)
        climbs = left.any()
        pick = jnp.where(climbs, jnp.where(left, ends.value, -jnp.inf).argmax(), others.argmax())
        top, cost = _normal(density, ends.z[pick], ends.value[pick], ends.gradient[pick], climbs)
        shoulder = add_shoulder(state, top, *where, others)
        polished = _polished(state, rows, pick, top, where, unsettled)
        state = jax.tree.map(lambda a, b: jnp.where(climbs, a, b), polished, shoulder)
        return state._replace(polishing=state.polishing + cost)

    state = state._replace(end=_mark(state.end, rows, ended & ~jnp.isfinite(ends.value), NONE))

    def more(state: Found) -> Bool[Array, ""]:
        return (unsettled(state) | on_shoulders(state)).any()

    return jax.lax.while_loop(more, step, state)


def _polished(
    state: Found,
    rows: Int[Array, " B"],
    pick: Int[Array, ""],
    top: Normal,
    where: tuple[Array, Array, Array],
    unsettled: Callable[[Found], Bool[Array, " B"]],
) -> Found:
    """The state with the mode at one row, and with all rows that end there."""
    state, mode = add_mode(state, top)
    failures = state.failures + (mode == NONE)
    state = state._replace(end=state.end.at[rows[pick]].set(mode), failures=failures)
    now = arrived(state.modes, state.inverses, *where)
    end = _mark(state.end, rows, unsettled(state) & (now >= 0), now)
    give_up = unsettled(state._replace(end=end)) & (failures >= FAILURES)
    return state._replace(end=_mark(end, rows, give_up, NONE))


@precision.full
def _normal(
    density: Callable[[Array], Scalar],
    z: Float[Array, " D"],
    value: Scalar,
    gradient: Float[Array, " D"],
    climbs: Bool[Array, ""],
) -> tuple[Normal, Int[Array, ""]]:
    """The normal of the mode uphill from z, or else of the quadratic at z; evaluations."""
    top = maximize(density, z, jnp.where(climbs, MAX_STEPS, 1))
    factor = factor_of(top.curvature)
    pull = solve_triangular(factor, gradient, lower=True)
    here = z + solve_triangular(factor, pull, lower=True, trans=1)
    mean = jnp.where(climbs, top.u, here)
    height = jnp.where(climbs, density(mean), value + 0.5 * (pull**2).sum())
    proper = jnp.isfinite(factor).all() & (jnp.diagonal(factor) > 0).all()
    proper &= jnp.isfinite(mean).all() & jnp.isfinite(height)
    proper &= ~climbs | (top.distance < CONVERGED)
    return Normal(mean, factor, height, proper), top.num_steps * (z.size + 1) + climbs


def _mark(
    end: Int[Array, " C"], rows: Int[Array, " B"], where: Bool[Array, " B"], what: Any
) -> Int[Array, " C"]:
    return end.at[rows].set(jnp.where(where, what, end[rows]))
