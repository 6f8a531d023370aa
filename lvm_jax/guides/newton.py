"""Newton's method with exact second derivatives, for a mode of a density on R^D, D moderate."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, Bool, Float, Int, Scalar

MOST_STEPS = 100
LEAST_DAMPING = 1e-2  # the first that is tried, of eigenvalues of the scaled curvature
ROUNDING = 32  # units of the value within which a difference of two values is rounding


class _Place(NamedTuple):
    """A point, and the density there to second order."""

    u: Float[Array, " D"]
    value: Scalar
    slope: Float[Array, " D"]  # gradient
    curvature: Float[Array, "D D"]  # minus the Hessian


class _Step(NamedTuple):
    """A step from a place, and what the quadratic there says of it."""

    change: Float[Array, " D"]
    gain: Scalar  # of the value
    distance: Scalar  # to the quadratic's maximum, in its standard deviations; inf without one


class Top(NamedTuple):
    """Where a search ended."""

    u: Float[Array, " D"]
    curvature: Float[Array, "D D"]  # minus the Hessian
    distance: Scalar  # to the maximum of the quadratic at u, in its standard deviations
    num_steps: Int[Array, ""]  # places whose value, gradient and Hessian were computed


class _Search(NamedTuple):
    place: _Place  # the best so far
    step: _Step  # from there, to be tried
    damping: Scalar
    num_steps: Int[Array, ""]


def maximize(log_density: Callable[[Array], Scalar], start: Float[Array, " D"]) -> Top:
    """The maximum of `log_density` that is uphill of `start`; `start` where nothing is higher.

    In coordinates that are scaled to a curvature A of diagonal +-1, A = Q diag(l) Q^T, the step is
    Q (|l| + damping)^-1 Q^T gradient: Newton's where A is positive definite and the damping small,
    and uphill across saddles. The damping falls by 8 after a step whose gain was at least three
    quarters of the quadratic's, and rises by 8 below one quarter. A step that gains nothing is not
    taken. The search ends when the quadratic's maximum is nearer than sqrt(eps) standard
    deviations, when a step is lost in rounding, and after MOST_STEPS.

    Source: Marquardt (1963); Dauphin et al. (2014), equation 9, for |l|.
    """
    near = jnp.finfo(start.dtype).eps ** 0.5

    def slope(u: Array) -> tuple[Array, tuple[Array, Array]]:
        value, slope = jax.value_and_grad(log_density)(u)
        return slope, (value, slope)

    def more(state: _Search) -> Bool[Array, ""]:
        moves = (state.place.u + state.step.change != state.place.u).any()
        late = (state.step.distance < near) | ~moves | (state.num_steps >= MOST_STEPS)
        return (state.num_steps == 0) | ~late

    def body(state: _Search) -> _Search:
        u = state.place.u + state.step.change
        hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(u)
        trial = _Place(u, value, gradient, -hessian)
        share = _gain(state.place, trial) / state.step.gain
        take = share > 1e-3  # not where it is NaN
        place = jax.tree.map(lambda a, b: jnp.where(take, a, b), trial, state.place)
        harder = jnp.maximum(8 * state.damping, LEAST_DAMPING)
        damping = jnp.where(share > 0.25, state.damping, harder)
        damping = jnp.where(share > 0.75, state.damping / 8, damping)
        return _Search(place, _step(place, damping), damping, state.num_steps + 1)

    nowhere = jnp.asarray(-jnp.inf, start.dtype)
    place = _Place(start, nowhere, jnp.zeros_like(start), jnp.zeros((start.size,) * 2, start.dtype))
    first = _Step(jnp.zeros_like(start), jnp.ones_like(nowhere), -nowhere)
    state = _Search(place, first, jnp.zeros_like(nowhere), jnp.int32(0))
    end = jax.lax.while_loop(more, body, state)
    return Top(end.place.u, end.place.curvature, end.step.distance, end.num_steps)


def _gain(old: _Place, new: _Place) -> Scalar:
    """new.value - old.value, from the gradients where rounding of the values would hide it."""
    gain = new.value - old.value
    by_slope = 0.5 * (old.slope + new.slope) @ (new.u - old.u)
    hidden = jnp.abs(gain) <= ROUNDING * jnp.finfo(gain.dtype).eps * jnp.abs(new.value)
    proper = jnp.isfinite(new.value) & jnp.isfinite(new.slope).all()
    proper = proper & jnp.isfinite(new.curvature).all()
    return jnp.where(proper, jnp.where(hidden, by_slope, gain), jnp.nan)


def _step(place: _Place, damping: Scalar) -> _Step:
    size = jnp.abs(jnp.diagonal(place.curvature))
    scale = jnp.sqrt(jnp.where(size > 0, size, 1))
    values, axes = jnp.linalg.eigh(place.curvature / jnp.outer(scale, scale))
    slope = axes.T @ (place.slope / scale)
    along = slope / (jnp.abs(values) + damping)
    gain = slope @ along - 0.5 * (values * along**2).sum()
    distance = jnp.sqrt((slope**2 / values).sum())
    distance = jnp.where((values > 0).all(), distance, jnp.inf)
    return _Step((axes @ along) / scale, gain, distance)
