"""The state of a search for modes, and the modes that its paths reach."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax._core.lbfgs import LOST
from lvm_jax.evidence.modes import SLOTS, Modes, inverses
from lvm_jax.typing import Array, Bool, Float, Int, Scalar

NEAR, RELATIVE = 0.25, 0.01  # tolerances of merging, in standard deviations and relative to d
SAME = 1.0  # two ends closer than this, in standard deviations by both curvatures, are one mode
SHOULDERS, SUPPORT = 2, 8  # slots for shoulders, and rows of a batch that one has to predict
OPEN, NONE, LATE, FULL, UNUSED = -1, -2, -3, -4, -5  # ends of rows that are not modes


class Found(NamedTuple):
    """The state of a search, and its result."""

    z: Float[Array, "C D"]  # the ends of the paths so far
    value: Float[Array, " C"]  # log p(x, z) there
    gradient: Float[Array, "C D"]  # its gradient
    end: Int[Array, " C"]  # the mode of each row, or one of OPEN, ..., UNUSED
    spent: Int[Array, " C"]  # evaluations of each row
    modes: Modes
    inverses: Float[Array, "K D D"]  # of the factors of the modes
    shoulders: Modes  # normals that predict value and gradient of many starts, but are no modes
    scale: Float[Array, " D"]  # of the starts: the frame of ascents before there is a mode
    previous: Float[Array, "B D"]  # the rows of the last round before it
    polishing: Int[Array, ""]  # evaluations of Newton's method
    failures: Int[Array, ""]
    tries: Int[Array, ""]  # for shoulders
    imaged: Int[Array, ""]  # modes whose images are among the rows
    round: Int[Array, ""]

    @property
    def evaluations(self) -> Int[Array, ""]:
        """Evaluations of log p(x, z) with its gradient."""
        return self.spent.sum() + self.polishing


def frame(state: Found) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """R and its inverse, with R R^T the covariance of the largest mode, or of the starts."""
    modes = state.modes
    best = modes.log_masses().argmax()
    plain = jnp.diag(state.scale), jnp.diag(1 / state.scale)
    own = state.inverses[best].T, modes.factors[best].T
    return jax.tree.map(lambda a, b: jnp.where(modes.used.any(), a, b), own, plain)


@precision.full
def arrived(
    modes: Modes,
    inverse: Float[Array, "K D D"],
    z: Float[Array, "B D"],
    value: Float[Array, " B"],
    gradient: Float[Array, "B D"],
) -> Int[Array, " B"]:
    """The mode whose quadratic predicts value and gradient at z, or -1."""
    noise = LOST * jnp.finfo(z.dtype).eps * jnp.abs(value)

    def compare(mode: Int[Array, ""], best: tuple[Array, Array]) -> tuple[Array, Array]:
        away = (z - modes.means[mode][None]) @ modes.factors[mode]
        pull = gradient @ inverse[mode].T
        left = jnp.sqrt(((away + pull) ** 2).sum(1))
        square = (away**2).sum(1)
        drop = jnp.abs(modes.heights[mode] - 0.5 * square - value)
        near = left <= NEAR + RELATIVE * jnp.sqrt(square)
        near &= drop <= NEAR + RELATIVE * square + noise
        closer = near & (left < best[1])
        return jnp.where(closer, mode, best[0]), jnp.where(closer, left, best[1])

    start = jnp.full(len(z), -1), jnp.full(len(z), jnp.inf, z.dtype)
    return jax.lax.fori_loop(0, modes.number, compare, start)[0]


class Normal(NamedTuple):
    """The normal of a local quadratic of log p(x, z)."""

    mean: Float[Array, " D"]
    factor: Float[Array, "D D"]  # of the precision
    height: Scalar  # log p(x, z) at the mean by the quadratic
    proper: Bool[Array, ""]


@precision.full
def add_mode(state: Found, top: Normal) -> tuple[Found, Int[Array, ""]]:
    """The state with one more mode, and its number; NONE, FULL or a known mode's number else."""
    modes = state.modes
    away = top.mean[None] - modes.means
    by_known = jnp.einsum("kd,kde->ke", away, modes.factors)
    distance = jnp.sqrt(jnp.maximum((by_known**2).sum(1), ((away @ top.factor) ** 2).sum(1)))
    distance = jnp.where(modes.used, distance, jnp.inf)
    known = distance.min() < SAME
    new = top.proper & ~known & (modes.number < SLOTS)
    slot = jnp.minimum(modes.number, SLOTS - 1)
    state = state._replace(
        modes=_put(modes, slot, new, top),
        inverses=jnp.where(
            new, state.inverses.at[slot].set(inverses(top.factor[None])[0]), state.inverses
        ),
    )
    other = jnp.where(top.proper, jnp.where(known, distance.argmin(), FULL), NONE)
    return state, jnp.where(new, slot, other)


def add_shoulder(
    state: Found, top: Normal, z: Array, value: Array, gradient: Array, rows: Bool[Array, " B"]
) -> Found:
    """The state with one more shoulder, if it predicts SUPPORT of the rows."""
    alone = Modes(top.mean[None], top.factor[None], top.height[None])
    agree = rows & (arrived(alone, inverses(alone.factors), z, value, gradient) >= 0)
    slot = jnp.minimum(state.shoulders.number, SHOULDERS - 1)
    new = top.proper & (agree.sum() >= SUPPORT) & (state.shoulders.number < SHOULDERS)
    return state._replace(shoulders=_put(state.shoulders, slot, new, top), tries=state.tries + 1)


def _put(modes: Modes, slot: Int[Array, ""], new: Bool[Array, ""], top: Normal) -> Modes:
    pairs = zip(modes, (top.mean, top.factor, top.height), strict=True)
    return Modes(*(jnp.where(new, all_.at[slot].set(one), all_) for all_, one in pairs))
