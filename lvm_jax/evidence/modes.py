"""A search for modes of the posterior from given points, and a proposal that covers them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax import precision
from lvm_jax.guides.defensive import Mixed
from lvm_jax.guides.laplace import Laplace, laplace
from lvm_jax.priors import Mixture
from lvm_jax.typing import Array, Bool, Distribution, Float, Int, Latent, Params, Scalar
from lvm_jax.weights import LogJoint

MOST = 16  # modes of a point
PATIENCE, NUM_CLIMBS = 32, 96  # climbs without a new mode before the search ends; most climbs
SHARE, WIDEN = 0.3, 1.2  # share of the draws for all modes, and factor on their widths
SAME = 1.0  # two ends closer than this, in standard deviations by both curvatures, are one mode


class Modes(NamedTuple):
    """K slots for distinct modes of log p(x, z), of ONE data point; an unused slot has share 0."""

    normals: Laplace  # leaves [K, ...]; a standard normal in an unused slot
    shares: Float[Array, " K"]  # of the draws; they sum to SHARE, or to 0 without a mode
    num_evaluations: Int[Array, ""]  # of log p(x, z) and its gradient, in all climbs


class _Search(NamedTuple):
    """The state of the search."""

    z: Latent  # points [C, ...]; the end of a climb replaces its start if it is higher
    log_p: Float[Array, " C"]  # log p(x, z) at z
    normals: Laplace  # [K, ...]
    log_masses: Float[Array, " K"]  # of p(x, z) under each, up to a constant; -inf if unused
    covered: Float[Array, " C"]  # log-density of q and the modes at z
    tried: Bool[Array, " C"]
    num_climbs: Int[Array, ""]
    num_idle: Int[Array, ""]  # climbs to known modes since the last new one
    num_evaluations: Int[Array, ""]


def cover(q: Distribution, modes: Modes | None) -> Distribution:
    """The mixture of q and the normals at the modes."""
    if modes is None:
        return q
    return Mixed(q, Mixture(_log_share(modes), (), modes.normals, _own), modes.shares.sum())


def _own(shared: Params, normal: Laplace) -> Laplace:
    return normal


def _log_share(modes: Modes) -> Float[Array, " K"]:
    """Log-weights of the modes in their mixture; equal without a mode, when they are unused."""
    none = modes.shares.sum() == 0
    shares = jnp.where(none, 1.0, modes.shares)
    return jnp.log(shares) - jnp.log(shares.sum())


def search(log_joint: LogJoint, q: Distribution, z: Latent) -> tuple[Modes, Scalar]:
    """Distinct modes of log p(x, z) by gradient ascent from points z [C, ...], of ONE data point.

    Climbs (`guides.laplace`) run in sequence. Each starts from the point with the largest weight
    p(x, z) / q(z), where q includes the modes found so far. The search ends after PATIENCE climbs
    to known modes since the last new one. An end within one standard deviation of a known mode, by
    both of their curvatures, is that mode. Half of SHARE is divided equally among the modes, the
    other half in proportion to their masses by Laplace's approximation.

    Returns the modes, and the largest log-weight, in nats, of the points and the ends of climbs
    under q with the modes.
    """
    # Traced once, for the shapes and for the loop.
    ascend = jax.jit(lambda start: laplace(log_joint, start, widen=WIDEN))

    def climb(state: _Search) -> _Search:
        start = jnp.where(state.tried, -jnp.inf, state.log_p - state.covered).argmax()
        end = ascend(jax.tree.map(lambda leaf: leaf[start], state.z))
        return _after(log_joint, state, start, end)

    def more(state: _Search) -> Bool[Array, ""]:
        free = jnp.isneginf(state.log_masses).any()
        unseen = (state.num_idle < PATIENCE) & (state.num_climbs < NUM_CLIMBS)
        return free & unseen & ~state.tried.all()

    found = jax.lax.while_loop(more, climb, _nothing(log_joint, q, z, ascend))
    modes = Modes(found.normals, _shares(found.log_masses), found.num_evaluations)
    return modes, (found.log_p - jax.vmap(cover(q, modes).log_prob)(found.z)).max()


def _nothing(
    log_joint: LogJoint, q: Distribution, z: Latent, ascend: Callable[[Latent], Laplace]
) -> _Search:
    """The state before the first climb."""
    log_p, covered = jax.vmap(log_joint)(z), jax.vmap(q.log_prob)(z)
    first = jax.tree.map(lambda leaf: leaf[0], z)
    shapes = jax.eval_shape(ascend, first)
    standard = _usable(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), False)
    normals = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (MOST, *leaf.shape)), standard)
    tried = ~jnp.isfinite(log_p - covered)  # these have no gradient
    no_masses, zero = jnp.full(MOST, -jnp.inf, log_p.dtype), jnp.int32(0)
    return _Search(z, log_p, normals, no_masses, covered, tried, zero, zero, zero)


def _after(log_joint: LogJoint, state: _Search, start: Array, end: Laplace) -> _Search:
    """The state after one more climb."""
    known = _known(end, state)
    new = end.found & ~known
    slot = jnp.isneginf(state.log_masses).argmax()  # the first free slot
    mode, height = _usable(end, new), log_joint(end.mode)
    gain = jnp.log(SHARE / MOST) + jax.vmap(mode.log_prob)(state.z)

    def put(where: Array, if_: Bool[Array, ""], old: Any, one: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(if_, a.at[where].set(b), a), old, one)

    higher = height > state.log_p[start]
    return _Search(
        put(start, higher, state.z, end.mode),
        put(start, higher, state.log_p, height),
        put(slot, new, state.normals, mode),
        put(slot, new, state.log_masses, height - mode.log_prob(end.mode)),
        jnp.where(new, jnp.logaddexp(state.covered, gain), state.covered),
        state.tried.at[start].set(True),
        state.num_climbs + 1,
        jnp.where(new, 0, state.num_idle + (end.found & known)),
        state.num_evaluations + end.num_evaluations + 1,
    )


@precision.full
def _known(end: Laplace, state: _Search) -> Bool[Array, ""]:
    """Whether the end of a climb is a known mode."""

    def distance(normal: Laplace) -> Scalar:
        away = ravel_pytree(end.mode)[0] - ravel_pytree(normal.mode)[0]
        by_either = jnp.stack([away @ normal.factor, away @ end.factor])
        return jnp.linalg.norm(by_either, axis=1).max()

    return ((jax.vmap(distance)(state.normals) < SAME) & ~jnp.isneginf(state.log_masses)).any()


def _usable(end: Laplace, new: bool | Bool[Array, ""]) -> Laplace:
    """The end of a climb if it is `new`, otherwise a standard normal."""
    factor = jnp.where(new, end.factor, jnp.eye(end.factor.shape[0], dtype=end.factor.dtype))
    mode = jax.tree.map(lambda leaf: jnp.where(new, leaf, 0.0), end.mode)
    return end._replace(mode=mode, factor=factor)


def _shares(log_masses: Float[Array, " K"]) -> Float[Array, " K"]:
    used = ~jnp.isneginf(log_masses)
    number = jnp.maximum(used.sum(), 1)
    by_mass = jax.nn.softmax(jnp.where(used.any(), log_masses, 0.0))
    return jnp.where(used, SHARE * 0.5 * (by_mass + 1 / number), 0.0)
