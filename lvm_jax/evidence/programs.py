"""The device programs of `certify`: three, for any number of points, draws and chains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import annealing, distributions, weights
from lvm_jax._core.batching import map_first_points
from lvm_jax._core.moments import moments
from lvm_jax.annealing import elastic
from lvm_jax.annealing.path import make_path
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence.importance import from_first, streamed
from lvm_jax.evidence.modes import Modes, cover, search
from lvm_jax.evidence.result import Evidence, check_chains
from lvm_jax.typing import (
    Array,
    Bool,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Scalar,
)

CHAINS = 64  # that run at a time
PILOT = 8  # chains that set the step sizes


class Capacity(NamedTuple):
    """The sizes of a program's arrays: the most that the budget allows."""

    samples: int
    chains: int
    temperatures: int
    scouts: int  # chains whose ends are kept


class Chains(NamedTuple):
    """Annealed chains of N points."""

    evidence: Evidence  # leaves [N]
    spread: Float[Array, " N"]  # standard deviation of the finite log-weights; inf of fewer than 2
    z: Latent  # the ends of scouts, leaves [N, num_scouts, ...]


class Sizes(NamedTuple):
    """The sizes that are traced, so that another round does not compile."""

    chains: Int[Array, ""]
    tail: Int[Array, ""]  # `pareto.tail_size` of them
    temperatures: Int[Array, ""]
    from_prior: Bool[Array, ""]


class _Start(NamedTuple):
    """q, or the prior where `from_prior`, which is traced."""

    q: Distribution
    prior: Distribution
    from_prior: Bool[Array, ""]

    @property
    def discrete(self) -> bool:
        return distributions.is_discrete(self.prior)

    def log_prob(self, value: Latent) -> Scalar:
        found: Scalar = jax.lax.cond(self.from_prior, self.prior.log_prob, self.q.log_prob, value)
        return found

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        either = (d.sample(seed=seed, sample_shape=sample_shape) for d in (self.prior, self.q))
        return jax.tree.map(lambda p, q: jnp.where(self.from_prior, p, q), *either)


@bounded_jit(7, 8, lean=True, level=2)
def importance(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Modes | None],
    number: Int[Array, ""],
    num_chunks: Int[Array, ""],
    tail: Int[Array, ""],
    longest: int,
    together: int,
) -> Evidence:
    """Importance sampling of every point from q and its modes; leaves [N]."""

    def one(point: tuple[Array, Any, Modes | None]) -> Evidence:
        index, x, modes = point
        own = jax.random.fold_in(key, index)
        return streamed(own, p.log_joint(x), cover(q(x), modes), num_chunks, tail, longest)

    return map_first_points(one, points, together, number)


@bounded_jit(6, 7, 8, lean=True, level=2)
def chains(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any],
    number: Int[Array, ""],
    sizes: Sizes,
    transition: annealing.Transition,
    capacity: Capacity,
    together: int,
) -> Chains:
    """Annealed chains of every point from q, or from the prior; leaves [N]."""
    num_chains, tail, temperatures, from_prior = sizes

    def one(point: tuple[Array, Any]) -> Chains:
        index, x = point
        own, joint = jax.random.fold_in(key, index), p.log_joint(x)
        start = _Start(q(x), p.prior(x), from_prior)
        z, log_w, accepted = _anneal(
            own, joint, start, num_chains, temperatures, transition, capacity
        )
        used = jnp.arange(log_w.size) < num_chains
        found = from_first(log_w, used, num_chains, tail)
        found = check_chains(found, log_w, accepted, transition.target is not None, num_chains)
        variance = moments(log_w, jnp.isfinite(log_w)).variance
        spread = jnp.where(jnp.isnan(variance), jnp.inf, jnp.sqrt(variance))
        return Chains(found, spread, z)

    return map_first_points(one, points, together, number)


def _anneal(
    key: Key[Array, ""],
    joint: weights.LogJoint,
    q: Distribution,
    chains: Int[Array, ""],
    temperatures: Int[Array, ""],
    transition: annealing.Transition,
    capacity: Capacity,
) -> tuple[Latent, Float[Array, " C"], Float[Array, " T"]]:
    """Ends, log-weights (-inf beyond the chains) and acceptance (1 beyond the last temperature).

    The ends are valid for at most capacity.scouts chains.
    """
    key_pilot, key_start, key_chains = jax.random.split(key, 3)

    # Traced once, for the shapes and for the loop.
    draw = jax.jit(lambda key: weights.draw(key, q, CHAINS))
    shapes = jax.eval_shape(draw, key_start)
    path = make_path(joint, q, shapes, transition.continuous)
    schedule = elastic.tuned(
        key_pilot, path, q, temperatures, capacity.temperatures, transition, PILOT
    )

    def step(group: Array, state: tuple) -> tuple:
        ends, log_w, accepted = state
        keys = jax.random.split(jax.random.fold_in(key_chains, group), CHAINS)
        first = draw(jax.random.fold_in(key_start, group))
        z, new, rate = elastic.anneal(keys, path, first, schedule, temperatures, transition)
        put = lambda all_, rows: jax.lax.dynamic_update_slice_in_dim(all_, rows, group * CHAINS, 0)  # noqa: E731
        return jax.tree.map(put, ends, z), put(log_w, new), accepted + rate

    rows = max(-(-capacity.scouts // CHAINS), 1) * CHAINS
    ends = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), shapes)
    betas = schedule.temperatures
    groups = (chains + CHAINS - 1) // CHAINS
    start = ends, jnp.full(capacity.chains, -jnp.inf, betas.dtype), jnp.zeros_like(betas[1:])
    ends, log_w, accepted = jax.lax.fori_loop(0, groups, step, start)
    log_w = jnp.where(jnp.arange(log_w.size) < chains, log_w, -jnp.inf)
    accepted = jnp.where(jnp.arange(accepted.size) < temperatures, accepted / groups, 1.0)
    return jax.tree.map(lambda leaf: leaf[: capacity.scouts], ends), log_w, accepted


@bounded_jit(4, 5, lean=True, level=2)
def find_modes(
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Any, Latent],
    number: Int[Array, ""],
    continuous: bool,
    together: int,
) -> tuple[Modes | None, Float[Array, " N"]]:
    """The modes found from scouts [N, C, ...], and the largest log-weight under q and them."""

    def one(point: tuple[Any, Latent]) -> tuple[Modes | None, Scalar]:
        x, z = point
        joint, at_x = p.log_joint(x), q(x)
        if continuous:
            return search(joint, at_x, z)
        return None, jax.vmap(lambda z: joint(z) - at_x.log_prob(z))(z).max()

    return map_first_points(one, points, together, number)
