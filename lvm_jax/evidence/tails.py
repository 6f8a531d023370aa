"""Markov chains of p(z | x) from draws of a proposal, which reach mass that its draws miss.

Where p(x, z) falls more slowly than the proposal, the weights have no bound, and those of the draws
do not show it. States of the chains are draws of p(z | x), once they forget their start: a state of
a far larger weight than all draws have is a part of p(z | x) without draws.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax import annealing, precision, weights
from lvm_jax._core.batching import map_first_points
from lvm_jax.annealing.path import Path, Place
from lvm_jax.annealing.transitions import chosen
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence.fitting import Edge
from lvm_jax.evidence.modes import Cover, Modes, inverses, supported
from lvm_jax.evidence.programs import Proposal, make_cover
from lvm_jax.typing import (
    Array,
    ConditionalDensity,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Scalar,
)

LEAPFROGS = 4  # of a move
COST = LEAPFROGS + 1  # of a move, with that of its scaling
LARGEST, OCTAVES = 1.2, 4.0  # step size times D^(-1/4), and the range of its logarithm below


class Tails(NamedTuple):
    """What the chains of a point reach."""

    share: Float[Array, " N"]  # of states in the later half, those that the draws miss
    component: Modes  # the normal of these states, one slot


@bounded_jit(5, lean=True)
def explore(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Proposal, Edge],
    sizes: tuple[Int[Array, ""], Int[Array, ""]],
    together: int,
) -> Tails:
    """Chains of every point (index, x, proposal, edge); leaves [N].

    `sizes` are the number of points, and the moves of each chain.
    """

    def one(point: tuple) -> Tails:
        index, x, proposal, edge = point
        own = make_cover(p, q, x, proposal)
        drawn = weights.draw(jax.random.key(0), own.prior, 1)
        unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], drawn))[1]
        joint = supported(p.log_joint(x), own.prior)
        run = _Run(own, lambda flat: joint(unravel(flat)), unravel, sizes[1])
        return _explore(jax.random.fold_in(key, index), run, proposal.modes, edge)

    return map_first_points(one, points, together, sizes[0])


class _Run(NamedTuple):
    cover: Cover
    density: Callable[[Array], Scalar]  # flat z -> log p(x, z)
    unravel: Callable[[Array], Latent]
    moves: Int[Array, ""]


class _Frame(NamedTuple):
    """Coordinates v of z = mean + root^T v."""

    mean: Float[Array, " D"]
    root: Float[Array, "D D"]
    centre: Float[Array, " D"]  # of sums
    limit: Scalar  # log-weight above which the draws miss a state

    def place(self, v: Float[Array, " D"]) -> Float[Array, " D"]:
        """z."""
        return self.mean + v @ self.root


class _Sums(NamedTuple):
    """Sums over the states that the draws miss."""

    late: Scalar  # in the later half
    number: Scalar
    first: Float[Array, " D"]
    second: Float[Array, "D D"]


@precision.full
def _explore(key: Key[Array, ""], run: _Run, modes: Modes, edge: Edge) -> Tails:
    centre, roots = edge.z.mean(0), inverses(modes.factors)

    def component(z: Float[Array, " D"]) -> tuple[Array, Array]:
        nearest = jnp.where(modes.used, modes.log_parts(z).max(1), -jnp.inf).argmax()
        return modes.means[nearest], roots[nearest]

    def chain(key: Key[Array, ""], start: Array, mean: Array, root: Array) -> _Sums:
        own = _Frame(mean, root, centre, edge.largest)
        return _chain(key, run, own, jnp.linalg.solve(root.T, start - mean))

    means, roots = jax.vmap(component)(edge.z)
    sums = jax.vmap(chain)(jax.random.split(key, len(edge.z)), edge.z, means, roots)
    reached = sums.number > 0
    total = jax.tree.map(lambda leaf: leaf.sum(0), sums)
    normal = _normal(total, centre, reached.sum(), roots[reached.argmax()])
    return Tails(total.late / (len(edge.z) * (run.moves // 2)), normal)  # moves are even


def _chain(key: Key[Array, ""], run: _Run, own: _Frame, start: Float[Array, " D"]) -> _Sums:
    """The sums of one chain: moves of HMC, and of scaling, which changes z by orders."""
    path = Path(
        lambda v: jnp.zeros((), v.dtype), lambda v: run.density(own.place(v)).astype(v.dtype)
    )
    hmc, one = annealing.hmc(LEAPFROGS), jnp.ones((), start.dtype)

    def move(index: Array, state: tuple[Place, _Sums]) -> tuple[Place, _Sums]:
        place, sums = state
        key_step, key_move, key_scale = jax.random.split(jax.random.fold_in(key, index), 3)
        octaves = OCTAVES * jax.random.uniform(key_step, (), start.dtype)
        step = LARGEST * start.size**-0.25 * 2**-octaves
        place, _ = hmc.apply(key_move, path, one, place, jnp.ones_like(start), step)
        place = _scaled(key_scale, path, place)
        z = own.place(place.z)
        missed = place.log_joint - run.cover.log_prob(run.unravel(z)) > own.limit
        away, late = z - own.centre, (2 * index >= run.moves).astype(one.dtype)
        new = _Sums(late, one, away, jnp.outer(away, away))
        return place, jax.tree.map(lambda all_, now: all_ + jnp.where(missed, now, 0), sums, new)

    zeros = _Sums(0 * one, 0 * one, jnp.zeros_like(start), jnp.zeros_like(own.root))
    first = path.place(start, slopes=True)
    return jax.lax.fori_loop(0, run.moves, move, (first, zeros))[1]


def _scaled(key: Key[Array, ""], path: Path, place: Place) -> Place:
    """A Metropolis move v -> e^t v, t ~ N(0, 1), whose Jacobian is e^(D t)."""
    key_scale, key_test = jax.random.split(key)
    v = place.z
    log_scale = jax.random.normal(key_scale, (), v.dtype)
    new = path.place(jnp.exp(log_scale) * v, slopes=True)
    gain = new.log_joint - place.log_joint + v.size * log_scale
    taken = jnp.log(jax.random.uniform(key_test, (), v.dtype)) < gain  # False for NaN
    return chosen(taken, new, place)


def _normal(
    sums: _Sums, centre: Float[Array, " D"], number: Int[Array, ""], root: Float[Array, "D D"]
) -> Modes:
    """The normal of the states that the draws miss.

    Its covariance is a mean of that of the states, with the weight of the chains, and of
    root^T root, with the weight D + 2.
    """
    count = jnp.maximum(sums.number, 1)
    mean, prior = sums.first / count, centre.size + 2.0
    spread = sums.second / count - jnp.outer(mean, mean)
    covariance = (number * spread + prior * root.T @ root) / (number + prior)
    factor = jnp.linalg.cholesky(jnp.linalg.inv(covariance))
    proper = jnp.isfinite(factor).all() & (number > 0)
    height = jnp.where(proper, jnp.finfo(mean.dtype).min, -jnp.inf)
    return Modes((centre + mean)[None], factor[None], height[None])
