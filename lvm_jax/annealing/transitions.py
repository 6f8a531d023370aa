"""Reversible Markov transitions that leave a density invariant, for one chain.

Step sizes are in units of `scale`, q's standard deviation of each coordinate, so one step size of
order 1 suits all coordinates.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, Place, Tempered
from lvm_jax.typing import Array, Bool, Key, Latent, Scalar

# (key, density, place, scale, step size) -> place, acceptance probability
Move = Callable[[Key[Array, ""], Tempered, Place, Latent, Scalar], tuple[Place, Scalar]]


class Transition(NamedTuple):
    """A Markov kernel, reversible for any given density.

    `move` maps a `Place` to a `Place`, which has gradients with `slopes`. `step_size` is the
    initial step size of tuning, in units of `scale`. `target` is the acceptance probability to tune
    for; None means no tuning. `cost` is the number of evaluations of the density or its gradient
    in a move.
    """

    move: Move
    step_size: float = 1.0
    target: float | None = None
    continuous: bool = True  # whether z must be real-valued
    cost: int = 1
    slopes: bool = False

    def apply(
        self,
        key: Key[Array, ""],
        path: Path,
        beta: Scalar,
        place: Place,
        scale: Latent,
        step_size: Scalar,
    ) -> tuple[Place, Scalar]:
        """A move that leaves f_beta of the path invariant."""
        return self.move(key, Tempered(path, beta, self.slopes), place, scale, step_size)


@lru_cache
def hmc(num_leapfrogs: int = 10, jitter: float = 0.2) -> Transition:
    """Hamiltonian Monte Carlo with `num_leapfrogs` leapfrog steps and a Metropolis test.

    Each move draws its step size uniformly from step_size (1 +- jitter), to avoid resonance with
    periodic trajectories. A move costs `num_leapfrogs` gradients. The target acceptance is 0.65
    (Beskos et al. 2013). Equal arguments return the same object, which avoids recompilation.

    Raises ValueError for num_leapfrogs < 1 or a jitter outside [0, 1).
    """
    num_leapfrogs = checks.integer(num_leapfrogs, "num_leapfrogs", 1)
    if not checks.number(jitter, "jitter") < 1:
        raise ValueError(f"jitter: expected a share in [0, 1), got {jitter}")

    def move(
        key: Key[Array, ""], density: Tempered, place: Place, scale: Latent, step_size: Scalar
    ) -> tuple[Place, Scalar]:
        key_step, key_move = jax.random.split(key)
        around = jax.random.uniform(key_step, (), step_size.dtype, 1 - jitter, 1 + jitter)
        return _hamiltonian(key_move, density, place, scale, step_size * around, num_leapfrogs)

    return Transition(move, step_size=0.5, target=0.65, cost=num_leapfrogs, slopes=True)


@lru_cache
def mala() -> Transition:
    """The Metropolis-adjusted Langevin algorithm; as in BlackJAX, `step_size` is a variance / 2.

    It equals HMC with one leapfrog step of size sqrt(2 step_size). The target acceptance is 0.574
    (Roberts and Rosenthal 1998). A move costs one gradient.
    """

    def move(
        key: Key[Array, ""], density: Tempered, place: Place, scale: Latent, step_size: Scalar
    ) -> tuple[Place, Scalar]:
        return _hamiltonian(key, density, place, scale, jnp.sqrt(2 * step_size), 1)

    return Transition(move, step_size=0.2, target=0.574, slopes=True)


@lru_cache
def random_walk(num_updates: int = 1) -> Transition:
    """`num_updates` Metropolis steps with normal proposals of `step_size` standard deviations.

    The target acceptance is 0.234 (Roberts, Gelman and Gilks 1997). A step costs one density and no
    gradient. Raises ValueError for num_updates < 1.
    """
    num_updates = checks.integer(num_updates, "num_updates", 1)

    def move(
        key: Key[Array, ""], density: Tempered, place: Place, scale: Latent, step_size: Scalar
    ) -> tuple[Place, Scalar]:
        def propose(key: Key[Array, ""], z: Latent) -> Latent:
            noise = normal_like(key, z)
            return jax.tree.map(lambda z, e, unit: z + step_size * unit * e, z, noise, scale)

        return metropolis(key, density, place, propose, num_updates)

    return Transition(move, step_size=1.0, target=0.234, cost=num_updates)


def normal_like(key: Key[Array, ""], z: Latent) -> Latent:
    """Standard normal noise with the structure, shapes and dtypes of z."""
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def chosen(take: Bool[Array, ""], new: Place, old: Place) -> Place:
    """The new place if `take`, otherwise the old one."""
    return jax.tree.map(lambda a, b: jnp.where(take, a, b), new, old)


def metropolis(
    key: Key[Array, ""],
    density: Tempered,
    place: Place,
    propose: Callable[[Key[Array, ""], Latent], Latent],
    num_updates: int,
) -> tuple[Place, Scalar]:
    """`num_updates` steps with symmetric proposals, accepted with probability min(1, f(z') / f(z)).

    Returns the last place and the mean acceptance probability. Proposals with density NaN are
    rejected.
    """

    def step(state: tuple[Place, Scalar], index: Array) -> tuple[tuple[Place, Scalar], None]:
        place, total = state
        key_propose, key_test = jax.random.split(jax.random.fold_in(key, index))
        new = density.at(propose(key_propose, place.z))
        ratio = density.value(new) - density.value(place)
        probability = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(ratio), -jnp.inf, ratio), 0.0))
        accept = jax.random.uniform(key_test, (), probability.dtype) < probability
        return (chosen(accept, new, place), total + probability), None

    start = (place, jnp.zeros_like(density.value(place)))
    (place, total), _ = jax.lax.scan(step, start, jnp.arange(num_updates))
    return place, total / num_updates


def _hamiltonian(
    key: Key[Array, ""],
    density: Tempered,
    place: Place,
    scale: Latent,
    step_size: Scalar,
    num_leapfrogs: int,
) -> tuple[Place, Scalar]:
    """One HMC move with masses 1 / scale^2: velocities v of z / scale with unit masses."""
    key_v, key_test = jax.random.split(key)
    flat, unravel = ravel_pytree(place.z)
    v = unravel(jax.random.normal(key_v, flat.shape, flat.dtype))
    steps = jax.tree.map(lambda unit, z: (step_size * unit).astype(z.dtype), scale, place.z)

    def kick(v: Latent, slope: Latent) -> Latent:
        return jax.tree.map(lambda v, e, g: v + 0.5 * e * g, v, steps, slope)

    def drift(z: Latent, v: Latent) -> Latent:
        return jax.tree.map(lambda z, e, v: z + e * v, z, steps, v)

    def leapfrog(_: Array, state: tuple[Latent, Latent]) -> tuple[Latent, Latent]:
        z, v = state
        slope = density.slope_at(z)
        v = kick(kick(v, slope), slope)
        return drift(z, v), v

    v_half = kick(v, density.slope(place))
    z = drift(place.z, v_half)
    if num_leapfrogs > 1:  # between the ends only the gradient is needed
        z, v_half = jax.lax.fori_loop(1, num_leapfrogs, leapfrog, (z, v_half))
    end = density.at(z)
    v_end = kick(v_half, density.slope(end))
    kinetic = [sum((0.5 * leaf**2).sum() for leaf in jax.tree.leaves(one)) for one in (v, v_end)]
    change = density.value(end) - density.value(place) + kinetic[0] - kinetic[1]
    chance = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(change), -jnp.inf, change), 0.0))
    return chosen(jax.random.bernoulli(key_test, chance), end, place), chance
