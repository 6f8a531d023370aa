"""Newton's method with exact second derivatives, for a mode of a density on R^D."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, Bool, Float, Int, Scalar

MAX_STEPS = 100
MIN_DAMPING = 1e-2  # the first positive damping, in units of the scaled curvature
ROUNDING = 32  # differences of values below this many eps count as rounding


class _Point(NamedTuple):
    """A point with value, gradient and curvature of the log-density."""

    u: Float[Array, " D"]
    value: Scalar
    gradient: Float[Array, " D"]
    curvature: Float[Array, "D D"]  # minus the Hessian


class _Step(NamedTuple):
    """A step, with its predictions by the local quadratic."""

    change: Float[Array, " D"]
    gain: Scalar  # predicted increase of the value
    distance: Scalar  # to the quadratic's maximum, in standard deviations; inf without one


class Maximum(NamedTuple):
    """The result of a search."""

    u: Float[Array, " D"]
    curvature: Float[Array, "D D"]  # minus the Hessian
    distance: Scalar  # to the maximum of the quadratic at u, in standard deviations
    num_steps: Int[Array, ""]  # evaluations of value, gradient and Hessian


class _Search(NamedTuple):
    best: _Point
    step: _Step  # the next step to try, from `best`
    damping: Scalar
    num_steps: Int[Array, ""]


def maximize(
    log_density: Callable[[Array], Scalar],
    start: Float[Array, " D"],
    max_steps: int | Int[Array, ""] = MAX_STEPS,
) -> Maximum:
    """The maximum of `log_density` uphill from `start`.

    With coordinates scaled such that the curvature A = Q diag(l) Q^T has diagonal +-1, the step is
    Q (|l| + damping)^-1 Q^T gradient. It equals Newton's step for a positive definite A and zero
    damping, and goes uphill at saddles. The damping is divided by 8 if the gain is at least 3/4 of
    the quadratic's prediction, and multiplied by 8 if it is below 1/4. Steps without a gain are
    rejected. The search ends within sqrt(eps) standard deviations of the quadratic's maximum, when
    a step is below rounding, and after `max_steps`.
    Source: Marquardt (1963); Dauphin et al. (2014), equation 9, for |l|.
    """
    near = jnp.finfo(start.dtype).eps ** 0.5

    def derivatives(u: Array) -> tuple[Array, tuple[Array, Array]]:
        value, gradient = jax.value_and_grad(log_density)(u)
        return gradient, (value, gradient)

    def unfinished(state: _Search) -> Bool[Array, ""]:
        moves = (state.best.u + state.step.change != state.best.u).any()
        late = (state.step.distance < near) | ~moves | (state.num_steps >= max_steps)
        return (state.num_steps == 0) | ~late

    def body(state: _Search) -> _Search:
        u = state.best.u + state.step.change
        hessian, (value, gradient) = jax.jacfwd(derivatives, has_aux=True)(u)
        trial = _Point(u, value, gradient, -hessian)
        ratio = _gain(state.best, trial) / state.step.gain
        accept = ratio > 1e-3  # False for NaN
        best = jax.tree.map(lambda a, b: jnp.where(accept, a, b), trial, state.best)
        larger = jnp.maximum(8 * state.damping, MIN_DAMPING)
        damping = jnp.where(ratio > 0.25, state.damping, larger)
        damping = jnp.where(ratio > 0.75, state.damping / 8, damping)
        return _Search(best, _step(best, damping), damping, state.num_steps + 1)

    lowest = jnp.asarray(-jnp.inf, start.dtype)
    point = _Point(start, lowest, jnp.zeros_like(start), jnp.zeros((start.size,) * 2, start.dtype))
    first = _Step(jnp.zeros_like(start), jnp.ones_like(lowest), -lowest)
    state = _Search(point, first, jnp.zeros_like(lowest), jnp.int32(0))
    end = jax.lax.while_loop(unfinished, body, state)
    return Maximum(end.best.u, end.best.curvature, end.step.distance, end.num_steps)


def _gain(old: _Point, new: _Point) -> Scalar:
    """new.value - old.value, by the gradients if it is within rounding of the values."""
    gain = new.value - old.value
    by_gradient = 0.5 * (old.gradient + new.gradient) @ (new.u - old.u)
    hidden = jnp.abs(gain) <= ROUNDING * jnp.finfo(gain.dtype).eps * jnp.abs(new.value)
    proper = jnp.isfinite(new.value) & jnp.isfinite(new.gradient).all()
    proper = proper & jnp.isfinite(new.curvature).all()
    return jnp.where(proper, jnp.where(hidden, by_gradient, gain), jnp.nan)


def _step(point: _Point, damping: Scalar) -> _Step:
    size = jnp.abs(jnp.diagonal(point.curvature))
    scale = jnp.sqrt(jnp.where(size > 0, size, 1))
    values, axes = jnp.linalg.eigh(point.curvature / jnp.outer(scale, scale))
    slope = axes.T @ (point.gradient / scale)
    along = slope / (jnp.abs(values) + damping)
    gain = slope @ along - 0.5 * (values * along**2).sum()
    distance = jnp.sqrt((slope**2 / values).sum())
    distance = jnp.where((values > 0).all(), distance, jnp.inf)
    return _Step((axes @ along) / scale, gain, distance)
