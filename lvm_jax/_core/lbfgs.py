"""Many ascents by L-BFGS at once, for the paths and the modes of a density.

The ascent is written for one path and mapped by `jax.vmap`. Each pass of its loop evaluates value
and gradient at one point, so that paths in a line search and paths after one advance together.

Source: Liu and Nocedal (1989); Lewis and Overton (2013) for the weak-Wolfe bisection.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Bool, Float, Int, Scalar

MEMORY = 10  # pairs of steps and changes of the gradient
MAX_EVALUATIONS = 500  # of one path
MAX_TRIALS = 30  # points of one line search
INCREASE, CURVATURE = 1e-4, 0.9  # the two conditions of Wolfe
CLOSE = 1e-4  # nats: the predicted gain of a step at which a path ends
LOST = 4.0  # digits of the value that rounding may lose, in units of the spacing of floats

Objective = Callable[[Array], tuple[Scalar, Array]]  # value and gradient


class Pairs(NamedTuple):
    """The last steps s and changes y of the negative gradient, newest last; unused rows are 0.

    Each pair is divided by sqrt(s y), so that s y = 1.
    """

    moves: Float[Array, "M D"]  # s
    turns: Float[Array, "M D"]  # y

    @classmethod
    def empty(cls, like: Float[Array, " D"]) -> "Pairs":
        """No pairs."""
        zeros = jnp.zeros((MEMORY, like.size), like.dtype)
        return cls(zeros, zeros)

    def add(self, move: Float[Array, " D"], turn: Float[Array, " D"]) -> "Pairs":
        """With one more pair, unless s y is not positive."""
        size = move @ turn
        proper = usable(move, turn)
        root = jnp.sqrt(jnp.where(proper, size, 1))
        rows = zip(self, (move / root, turn / root), strict=True)
        new = Pairs(*(jnp.concatenate([old[1:], row[None]]) for old, row in rows))
        return jax.tree.map(lambda a, b: jnp.where(proper, a, b), new, self)

    @precision.full
    def direction(self, gradient: Float[Array, " D"]) -> Float[Array, " D"]:
        """H g, with H the estimate of the inverse of -Hessian; g / |g| without pairs."""

        def down(gradient: Array, pair: Pairs) -> tuple[Array, Scalar]:
            share = pair.moves @ gradient
            return gradient - share * pair.turns, share

        def up(found: Array, row: tuple[Pairs, Scalar]) -> tuple[Array, None]:
            pair, share = row
            return found + (share - pair.turns @ found) * pair.moves, None

        left, shares = jax.lax.scan(down, gradient, self, reverse=True)
        square = (self.turns[-1] ** 2).sum()
        length = jnp.maximum(jnp.sqrt((left**2).sum()), jnp.finfo(left.dtype).tiny)
        scale = jnp.where(square > 0, 1 / jnp.where(square > 0, square, 1), 1 / length)
        return jax.lax.scan(up, scale * left, (self, shares))[0]


def usable(move: Float[Array, " D"], turn: Float[Array, " D"]) -> Bool[Array, ""]:
    """Whether s y is positive, beyond rounding."""
    tiny = jnp.finfo(move.dtype).eps
    return move @ turn > tiny * jnp.sqrt((move @ move) * (turn @ turn))


class Climb(NamedTuple):
    """The state of one path."""

    point: Float[Array, " D"]
    value: Scalar
    gradient: Float[Array, " D"]
    pairs: Pairs
    direction: Float[Array, " D"]
    step: Scalar  # of the next trial along the direction
    low: Scalar  # a step that is too short
    high: Scalar  # a step that is too long
    trials: Int[Array, ""]  # of the current line search
    evaluations: Int[Array, ""]
    ended: Bool[Array, ""]
    converged: Bool[Array, ""]
    points: Float[Array, "T D"]  # of the path; the last row takes all beyond T
    gradients: Float[Array, "T D"]
    length: Int[Array, ""]  # points so far, at most T


@bounded_jit(2, 3, lean=True)
def climb(
    starts: Float[Array, "P D"], density: Any, max_evaluations: int, num_points: int
) -> Climb:
    """The states at the ends of P ascents from `starts`, with the first `num_points` of each path.

    A path ends where a step predicts a gain below `CLOSE` nats (converged), where no step along the
    direction increases the density, or after `max_evaluations`.
    """
    limit = min(max_evaluations, MAX_EVALUATIONS)
    return jax.vmap(partial(_climb, density, limit, num_points))(starts)


@precision.full
def _climb(
    density: Callable[[Array], Scalar], limit: int, num_points: int, start: Float[Array, " D"]
) -> Climb:
    objective = jax.value_and_grad(density)
    return jax.lax.while_loop(
        lambda state: ~state.ended & (state.evaluations < limit),
        partial(advance, objective),
        begin(objective, start, num_points),
    )


def begin(objective: Objective, start: Float[Array, " D"], num_points: int = 1) -> Climb:
    """The path at its start; it has ended if the density there has no finite gradient."""
    value, gradient = objective(start)
    proper = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    points = jnp.zeros((num_points, start.size), start.dtype)
    one, inf = jnp.ones((), start.dtype), jnp.full((), jnp.inf, start.dtype)
    pairs = Pairs.empty(start)
    return Climb(
        *(start, value, gradient, pairs, pairs.direction(gradient), one, 0 * one, inf),
        *(jnp.int32(0), jnp.int32(1), ~proper, jnp.zeros((), bool)),
        *(points.at[0].set(start), points.at[0].set(gradient), jnp.int32(1)),
    )


def unstarted(like: Float[Array, " D"]) -> Climb:
    """The path at 0 before any evaluation; `advance` evaluates it there first."""
    zeros, inf = jnp.zeros_like(like), jnp.full((), jnp.inf, like.dtype)
    pairs, none, false = Pairs.empty(like), jnp.int32(0), jnp.zeros((), bool)
    one = jnp.ones((), like.dtype)
    return Climb(
        *(zeros, -inf, zeros, pairs, zeros, one, 0 * one, inf, none, none, false, false),
        *(zeros[None], zeros[None], none),
    )


def advance(objective: Objective, state: Climb) -> Climb:
    """One more point: a step of the path, or a narrower line search."""
    point = state.point + state.step * state.direction
    value, gradient = objective(point)
    slope = state.gradient @ state.direction
    noise = LOST * jnp.finfo(point.dtype).eps * jnp.abs(state.value)
    proper = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    higher = proper & (value >= state.value + INCREASE * state.step * slope - noise)
    far = gradient @ state.direction <= CURVATURE * slope
    last = state.trials + 1 >= MAX_TRIALS
    taken = higher & (far | last)

    low = jnp.where(higher, state.step, state.low)
    high = jnp.where(higher, state.high, state.step)
    between = jnp.where(jnp.isinf(high), 2 * state.step, (low + high) / 2)
    trial = state._replace(step=between, low=low, high=high, trials=state.trials + 1)
    trial = trial._replace(ended=last, evaluations=state.evaluations + 1)
    moved = _step(state, point, value, gradient)
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), moved, trial)


def _step(state: Climb, point: Array, value: Scalar, gradient: Array) -> Climb:
    """The state after the path's step to a point."""
    pairs = state.pairs.add(point - state.point, state.gradient - gradient)
    direction = pairs.direction(gradient)
    gain = gradient @ direction / 2
    noise = LOST * jnp.finfo(point.dtype).eps * jnp.abs(value)
    converged = (gain <= jnp.maximum(CLOSE, noise)) & (pairs.turns[-1] != 0).any()
    row = jnp.minimum(state.length, len(state.points) - 1)
    return Climb(
        *(point, value, gradient, pairs, direction),
        *(jnp.ones_like(state.step), jnp.zeros_like(state.low), jnp.full_like(state.high, jnp.inf)),
        *(jnp.int32(0), state.evaluations + 1, converged | ~(gain > 0), converged),
        *(state.points.at[row].set(point), state.gradients.at[row].set(gradient)),
        jnp.minimum(state.length + 1, len(state.points)),
    )
