"""The starts of a search for modes of ONE data point, and its result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax import annealing, weights
from lvm_jax._core.batching import num_rows, rows_of
from lvm_jax._core.inputs import one_of
from lvm_jax.annealing.path import make_path
from lvm_jax.evidence.fitting import Loose
from lvm_jax.evidence.merging import FULL, NONE, OPEN, UNUSED
from lvm_jax.evidence.modes import SLOTS, Modes, supported
from lvm_jax.evidence.search import BATCH, Starts, search, spread
from lvm_jax.evidence.settling import DensityOf
from lvm_jax.typing import (
    Array,
    Bool,
    ConditionalDensity,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Scalar,
)

FOLLOWED = BATCH // 2  # starts from simulated data; as many are draws of q
SIMULATED = 64  # pairs (z, x) drawn for all points, of which each point takes the nearest
LOOSE = 8  # ends without a mode that are kept
REACH = 2.0  # standard deviations of the prior that are one of the component beyond it
STEEP = 1e5  # nats per spread of the starts, at the end of an ascent of log p(x | z)
Symmetries = tuple[Callable[[Latent], Latent], ...]


class Searched(NamedTuple):
    """The results of a search, of one point or with leaves [N, ...]."""

    modes: Modes  # SLOTS modes, then the shoulders and the component beyond the prior
    number: Int[Array, " N"]  # modes
    reached: Int[Array, "N K"]  # starts that ended in each mode
    climbed: Int[Array, " N"]  # starts whose path has ended
    scouts: Int[Array, " N"]  # those of them that are draws of the prior
    unfinished: Int[Array, " N"]  # starts that the budget did not pay for
    full: Bool[Array, " N"]  # there are more modes than slots
    unbounded: Bool[Array, " N"]  # log p(x | z) is steep at an end above all modes
    loose: Loose
    cost: Int[Array, " N"]


def search_point(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    pairs: Any,
    num_scouts: int,
    symmetries: Symmetries,
    budget: Int[Array, ""],
    known: Modes,
) -> Searched:
    """The modes of one point, with those `known`; `pairs` (z, x) of the model, or None."""
    starts, unravel = _starts(key, p, q, x, pairs, num_scouts, SLOTS * len(symmetries))

    def images(means: Array) -> Array:
        moved = [lambda flat, s=s: ravel_pytree(s(unravel(flat)))[0] for s in symmetries]
        return jax.vmap(lambda one: jnp.stack([s(one) for s in moved]))(means).reshape(
            -1, means.shape[1]
        )

    own = images if symmetries else None
    found = search(_densities(p, x, unravel), starts, own, budget, known)
    end = found.end[: starts.number]
    none = (found.end <= NONE) & (found.end != UNUSED) & jnp.isfinite(found.value)
    value, rows = jax.lax.top_k(jnp.where(none, found.value, -jnp.inf), LOOSE)
    slope = jax.grad(lambda flat: p.prior(x).log_prob(unravel(flat)))
    steepness = jnp.abs(found.gradient[rows] - jax.vmap(slope)(found.z[rows])) * found.scale[None]
    parts = found.modes, found.shoulders, _beyond(starts.z[BATCH : starts.number])
    return Searched(
        Modes(*map(jnp.concatenate, zip(*parts, strict=True))),
        found.modes.number,
        jax.nn.one_hot(end, SLOTS, dtype=jnp.int32).sum(0),
        (end != OPEN).sum(),
        (end[BATCH:] != OPEN).sum(),
        (end == OPEN).sum(),
        (found.end == FULL).any(),
        ((value > found.modes.heights.max())[:, None] & (steepness > STEEP)).any(),
        Loose(jax.vmap(unravel)(found.z[rows]), value),
        found.evaluations,
    )


def unused(p: Generative, x: Any) -> Modes:
    """Unused slots for every point of x, leaves [N, SLOTS, ...]."""

    def draw(point: Any) -> Array:
        drawn = weights.draw(jax.random.key(0), p.prior(point), 1)
        return ravel_pytree(jax.tree.map(lambda leaf: leaf[0], drawn))[0]

    flat, shape = jax.eval_shape(draw, one_of(x)), (num_rows(x), SLOTS)
    # `search_point` refuses a z of integers.
    dtype = flat.dtype if jnp.issubdtype(flat.dtype, jnp.floating) else np.float32
    eye = np.broadcast_to(np.eye(flat.size, dtype=dtype), (*shape, flat.size, flat.size))
    return Modes._make((np.zeros(eye.shape[:-1], dtype), eye, np.full(shape, -np.inf, dtype)))


def simulates(p: Generative, x: Any) -> bool:
    """Whether the model draws data with real-valued leaves of the shapes of x."""
    if getattr(getattr(p, "model", None), "given", None) is not None or not hasattr(p, "sample"):
        return False
    try:
        drawn = jax.eval_shape(lambda: p.sample(jax.random.key(0))[1])
    except (TypeError, ValueError):
        return False
    if len({jax.tree.structure(tree) for tree in (drawn, x)}) > 1:
        return False
    pairs = zip(jax.tree.leaves(drawn), jax.tree.leaves(x), strict=True)
    return all(
        one.shape == leaf.shape[1:]
        and jnp.issubdtype(one.dtype, jnp.floating)
        and np.issubdtype(leaf.dtype, np.floating)
        for one, leaf in pairs
    )


def _beyond(prior: Float[Array, "S D"]) -> Modes:
    """A component REACH times as wide as draws of the prior, where p(x | z) may grow faster.

    Its height gives it no Laplace mass.
    """
    factor = jnp.diag(1 / (REACH * spread(prior)))
    height = jnp.finfo(prior.dtype).min
    return Modes(jnp.median(prior, axis=0)[None], factor[None], jnp.full(1, height, prior.dtype))


def follow_point(
    p: Generative,
    x: Any,
    known: Modes,
    z: Float[Array, "B D"],
    others: Any,
    budget: Int[Array, ""],
) -> tuple[Modes, Int[Array, ""]]:
    """The modes of one point, with those `known`, and the evaluations.

    z are FOLLOWED modes of other data, rows of `others`, which are followed to x. Without `others`
    they climb from where they are.
    """
    drawn = weights.draw(jax.random.key(0), p.prior(x), 1)
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], drawn))[1]
    rows, offsets = jnp.arange(BATCH) % FOLLOWED, None
    if others is not None:
        offsets = jax.tree.map(lambda all_, leaf: all_[rows] - leaf[None], others, x)
    starts = Starts(z[rows], offsets, 0 if others is None else FOLLOWED, FOLLOWED)
    found = search(_densities(p, x, unravel), starts, None, budget, known)
    return found.modes, found.evaluations


def _densities(p: Generative, x: Any, unravel: Callable[[Array], Latent]) -> DensityOf:
    """The log-densities of flat z, by the offset of x."""

    def density_of(offset: Any) -> Callable[[Array], Scalar]:
        at = x if offset is None else jax.tree.map(jnp.add, x, offset)
        own = supported(p.log_joint(at), p.prior(at))
        return lambda flat: own(unravel(flat))

    return density_of


def _starts(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    pairs: Any,
    num_scouts: int,
    num_images: int,
) -> tuple[Starts, Callable[[Array], Latent]]:
    """Starts from pairs near x, q and the prior, and the function that unravels them."""
    key_q, key_prior = jax.random.split(key)
    ravel = jax.vmap(lambda z: ravel_pytree(z)[0])
    prior = weights.draw(key_prior, p.prior(x), num_scouts)
    make_path(p.log_joint(x), q(x), prior, True)  # checks them
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], prior))[1]
    first, offsets = ravel(weights.draw(key_q, q(x), BATCH)), None
    if pairs is not None:
        near = _nearest(pairs[1], x)
        first = jnp.concatenate([ravel(rows_of(pairs[0], near[:FOLLOWED])), first[FOLLOWED:]])
        offsets = jax.tree.map(lambda rows, leaf: rows[near] - leaf[None], pairs[1], x)
    rows = jnp.concatenate([first, ravel(prior)])
    z = jnp.pad(rows, ((0, num_images), (0, 0)))
    return Starts(z, offsets, 0 if pairs is None else FOLLOWED, len(rows)), unravel


def _nearest(drawn: Any, x: Any) -> Int[Array, " B"]:
    """The BATCH simulated data nearest to x, in units of their standard deviations."""

    def squares(rows: Array, leaf: Array) -> Array:
        scale = rows.std(0)
        away = (rows - leaf[None]) / jnp.where(scale > 0, scale, 1.0)[None]
        return (away.reshape(len(rows), -1) ** 2).sum(1)

    distance = sum(jax.tree.leaves(jax.tree.map(squares, drawn, x)))
    return jnp.argsort(distance)[:BATCH]


def move_scouts(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    num_scouts: int,
    transition: annealing.Transition,
) -> Loose:
    """Draws of the prior after one move towards the posterior, for a discrete z."""
    key_z, key_move = jax.random.split(key)
    joint, z = p.log_joint(x), weights.draw(key_z, p.prior(x), num_scouts)
    path = make_path(joint, q(x), z, transition.continuous)
    scale = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[1:]), z)
    size = jnp.asarray(transition.step_size, jnp.result_type(float))

    def move(key: Key[Array, ""], z: Latent) -> tuple[Latent, Scalar]:
        place = path.place(z, transition.slopes)
        moved = transition.apply(key, path, jnp.ones_like(size), place, scale, size)[0]
        return moved.z, moved.log_joint

    return Loose(*jax.vmap(move)(jax.random.split(key_move, num_scouts), z))
