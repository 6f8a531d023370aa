"""The device programs of `certify`, for any number of points, draws, chains and modes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import annealing, weights
from lvm_jax._core.batching import map_first_points
from lvm_jax._core.moments import moments
from lvm_jax.annealing import elastic
from lvm_jax.annealing.path import make_path
from lvm_jax.annealing.plan import PILOT
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence import particles, scouting
from lvm_jax.evidence.fitting import Edge, Loose, Pilot, chunk, edge, fit
from lvm_jax.evidence.importance import from_first, streamed
from lvm_jax.evidence.modes import Cover, Modes, cover, supported
from lvm_jax.evidence.neighbours import Followed
from lvm_jax.evidence.nested import Nested, nested
from lvm_jax.evidence.particles import PARTICLES
from lvm_jax.evidence.result import Evidence, check_chains
from lvm_jax.evidence.scouting import SIMULATED, Searched, Symmetries, search_point
from lvm_jax.typing import (
    Array,
    ArrayLike,
    Bool,
    ConditionalDensity,
    Float,
    Generative,
    Int,
    Key,
)

CHAINS = 64  # that run at a time


class Capacity(NamedTuple):
    """The sizes of a program's arrays: the most that the budget allows."""

    samples: int
    chains: int
    temperatures: int


class Chains(NamedTuple):
    """Annealed chains of N points."""

    evidence: Evidence  # leaves [N]
    spread: Float[Array, " N"]  # standard deviation of the finite log-weights; inf of fewer than 2


class Sizes(NamedTuple):
    """The sizes that are traced, so that another round does not compile."""

    chains: Int[Array, ""]
    weights: Int[Array, ""]  # one of each chain, or of each run of PARTICLES chains
    tail: Int[Array, ""]  # `pareto.tail_size` of them
    temperatures: Int[Array, ""]

    @property
    def resamples(self) -> Bool[Array, ""]:
        """Whether the chains are particles of runs."""
        return self.weights < self.chains


class DrawSizes(NamedTuple):
    """The sizes of a round of importance sampling, which are traced."""

    chunks: Int[Array, ""]  # of CHUNK_SIZE draws
    tail: Int[Array, ""]  # `pareto.tail_size` of all draws
    fits: Bool[Array, ""]  # whether the last chunk is fitted


class Proposal(NamedTuple):
    """What `cover` needs besides q and the prior; leaves [N, ...]."""

    modes: Modes | None
    log_shares: Float[ArrayLike, "N C"]


def make_cover(p: Generative, q: ConditionalDensity, x: Any, proposal: Proposal) -> Cover:
    """The proposal of one point as a distribution."""
    return cover(q(x), p.prior(x), proposal.modes, jnp.asarray(proposal.log_shares))


@bounded_jit(5, 6, 7, 8, lean=True)
def find_modes(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Modes, Array],
    number: Int[Array, ""],
    num_scouts: int,
    simulates: bool,
    symmetries: Symmetries,
    together: int,
) -> Searched:
    """The modes that ascents from the prior, q and other data of the model find; leaves [N].

    `points` are (index, x, known modes, budget).
    """
    key_pairs, key_points = jax.random.split(key)
    pairs = None
    if simulates:
        pairs = jax.vmap(p.sample)(jax.random.split(key_pairs, SIMULATED))

    def one(point: tuple[Array, Any, Modes, Array]) -> Searched:
        index, x, known, budget = point
        own = jax.random.fold_in(key_points, index)
        return search_point(own, p, q, x, pairs, num_scouts, symmetries, budget, known)

    return map_first_points(one, points, together, number)


@bounded_jit(3, lean=True)
def follow(p: Generative, points: tuple, number: Int[Array, ""], together: int) -> Followed:
    """The modes of points (x, known modes, modes z of other data, these data or None, budget)."""

    def one(point: tuple) -> Followed:
        return Followed(*scouting.follow_point(p, *point))

    return map_first_points(one, points, together, number)


@bounded_jit(5, 6, 7, lean=True)
def move_scouts(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any],
    number: Int[Array, ""],
    num_scouts: int,
    transition: annealing.Transition,
    together: int,
) -> Loose:
    """Draws of the prior after one move towards the posterior, for a discrete z; leaves [N]."""

    def one(point: tuple[Array, Any]) -> Loose:
        own = jax.random.fold_in(key, point[0])
        return scouting.move_scouts(own, p, q, point[1], num_scouts, transition)

    return map_first_points(one, points, together, number)


@bounded_jit(6, 7, 8, lean=True)
def importance(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Proposal, Loose | None],
    number: Int[Array, ""],
    sizes: DrawSizes,
    longest: int,
    prior_share: float,
    together: int,
) -> tuple[Evidence, Pilot, Edge | None]:
    """Importance sampling of every point from its proposal; leaves [N].

    Where `sizes.fits`, with the proposal that the last CHUNK_SIZE draws suggest.
    """

    def one(point: tuple[Array, Any, Proposal, Loose | None]) -> tuple:
        index, x, proposal, loose = point
        own = make_cover(p, q, x, proposal)
        draw = partial(chunk, log_joint=supported(p.log_joint(x), own.prior), proposal=own)
        found, largest, last = streamed(
            jax.random.fold_in(key, index), draw, sizes.chunks, sizes.tail, longest
        )

        # Traced once, for the shapes and for the branch.
        suggest = jax.jit(lambda draws: fit(draws, own, loose, prior_share))
        shapes = jax.eval_shape(suggest, last)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        pilot = jax.lax.cond(sizes.fits, suggest, lambda _: zeros, last)
        return found, pilot, None if own.modes is None else edge(largest, last, own)

    return map_first_points(one, points, together, number)


@bounded_jit(6, 7, 8, lean=True)
def chains(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Proposal],
    number: Int[Array, ""],
    sizes: Sizes,
    transition: annealing.Transition,
    capacity: Capacity,
    together: int,
) -> Chains:
    """Annealed chains or runs of particles of every point from its proposal; leaves [N]."""

    def one(point: tuple[Array, Any, Proposal]) -> Chains:
        index, x, proposal = point
        start = make_cover(p, q, x, proposal)
        joint = supported(p.log_joint(x), start.prior)
        log_w, accepted = _anneal(
            jax.random.fold_in(key, index),
            *(joint, start, sizes, transition, capacity),
        )
        used = jnp.arange(log_w.size) < sizes.weights
        found = from_first(log_w, used, sizes.weights, sizes.tail)
        found = check_chains(found, log_w, accepted, transition.target is not None, sizes.weights)
        variance = moments(log_w, jnp.isfinite(log_w)).variance
        spread = jnp.where(jnp.isnan(variance), jnp.inf, jnp.sqrt(variance))
        return Chains(found, spread)

    return map_first_points(one, points, together, number)


@bounded_jit(4, 5, lean=True)
def nested_points(
    key: Key[Array, ""],
    p: Generative,
    points: tuple[Array, Any],
    number: Int[Array, ""],
    num_live: int,
    num_runs: int,
) -> Nested:
    """Nested sampling from the prior of every point; leaves [N]."""

    def one(point: tuple[Array, Any]) -> Nested:
        index, x = point
        joint, prior = p.log_joint(x), p.prior(x)
        likelihood = lambda z: joint(z) - prior.log_prob(z)  # noqa: E731
        own = jax.random.fold_in(key, index)
        return nested(own, likelihood, prior, num_live, num_runs=num_runs)

    return map_first_points(one, points, 1, number)


def _anneal(
    key: Key[Array, ""],
    joint: weights.LogJoint,
    start: Cover,
    sizes: Sizes,
    transition: annealing.Transition,
    capacity: Capacity,
) -> tuple[Float[Array, " C"], Float[Array, " T"]]:
    """Log-weights (-inf beyond the last) and acceptance (1 beyond the last temperature)."""
    temperatures, resamples = sizes.temperatures, sizes.resamples
    key_pilot, key_start, key_chains = jax.random.split(key, 3)

    # Traced once, for the shapes and for the loop.
    draw = jax.jit(lambda key: weights.draw(key, start, CHAINS))
    path = make_path(joint, start, jax.eval_shape(draw, key_start), transition.continuous)
    schedule = elastic.tuned(
        key_pilot, path, start, temperatures, capacity.temperatures, transition, PILOT
    )

    def step(group: Array, state: tuple) -> tuple:
        log_w, accepted = state
        keys = jax.random.split(jax.random.fold_in(key_chains, group), CHAINS)
        first = draw(jax.random.fold_in(key_start, group))
        _, new, rate = elastic.anneal(
            keys,
            path,
            first,
            schedule,
            temperatures,
            transition,
            partial(particles.resample, resamples),
        )
        # A later group replaces the weights beyond those of the runs of this one.
        new = jnp.where(resamples, jnp.tile(particles.means(new)[:, 0], PARTICLES), new)
        place = group * jnp.where(resamples, CHAINS // PARTICLES, CHAINS)
        log_w = jax.lax.dynamic_update_slice_in_dim(log_w, new, place, 0)
        return log_w, accepted + rate

    betas = schedule.temperatures
    groups = (sizes.chains + CHAINS - 1) // CHAINS
    empty = jnp.full(capacity.chains, -jnp.inf, betas.dtype), jnp.zeros_like(betas[1:])
    log_w, accepted = jax.lax.fori_loop(0, groups, step, empty)
    log_w = jnp.where(jnp.arange(log_w.size) < sizes.weights, log_w, -jnp.inf)
    accepted = jnp.where(jnp.arange(accepted.size) < temperatures, accepted / groups, 1.0)
    return log_w, accepted
