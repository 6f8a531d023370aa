"""Reversible moves that leave a density invariant, for one chain; by blackjax's kernels.

Every move works in units of `scale`, q's standard deviation of each coordinate, so that one step
size serves all coordinates; it is then of the order of 1.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.typing import Array, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

# (key, log-density, z, scale, step size) -> z, acceptance probability
Move = Callable[[Key[Array, ""], LogJoint, Latent, Latent, Scalar], tuple[Latent, Scalar]]


class Transition(NamedTuple):
    """A reversible Markov kernel, whatever the density that it is given.

    `step_size` is where tuning starts, in units of `scale`, and `target` the acceptance that it
    aims at; without a target there is nothing to tune.
    """

    move: Move
    step_size: float = 1.0
    target: float | None = None
    continuous: bool = True  # does it need real-valued z?


@lru_cache
def hmc(num_leapfrogs: int = 10, jitter: float = 0.2) -> Transition:
    """Hamiltonian Monte Carlo with a Metropolis test, of `num_leapfrogs` steps.

    The step size of each move is drawn uniformly within `jitter` of its share about the given one,
    so that no period of the density resonates with the trajectory. Costs one gradient a leapfrog
    step, and one more. Tuned to accept 0.65 (Beskos et al. 2013). The same arguments give the
    same object, so that nothing compiles again.

    Raises ValueError for num_leapfrogs < 1 or a jitter outside [0, 1).
    """
    num_leapfrogs = checks.integer(num_leapfrogs, "num_leapfrogs", 1)
    if not checks.number(jitter, "jitter") < 1:
        raise ValueError(f"jitter: expected a share in [0, 1), got {jitter}")

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        key_step, key_move = jax.random.split(key)
        around = jax.random.uniform(key_step, (), step_size.dtype, 1 - jitter, 1 + jitter)
        return _hamiltonian(key_move, log_density, z, scale, step_size * around, num_leapfrogs)

    return Transition(move, step_size=0.5, target=0.65)


@lru_cache
def mala() -> Transition:
    """The Metropolis-adjusted Langevin algorithm; its `step_size` is blackjax's, a variance / 2.

    It is HMC with one leapfrog step of sqrt(2 step_size), which needs no jitter. Tuned to accept
    0.574 (Roberts and Rosenthal 1998). Two gradients a move.
    """

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        return _hamiltonian(key, log_density, z, scale, jnp.sqrt(2 * step_size), 1)

    return Transition(move, step_size=0.2, target=0.574)


@lru_cache
def random_walk(num_updates: int = 1) -> Transition:
    """`num_updates` Metropolis steps with normal proposals of `step_size` standard deviations.

    Tuned to accept 0.234 (Roberts, Gelman and Gilks 1997). One density a step, no gradients.
    Raises ValueError for num_updates < 1.
    """
    num_updates = checks.integer(num_updates, "num_updates", 1)

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        def propose(key: Key[Array, ""], z: Latent) -> Latent:
            leaves, structure = jax.tree.flatten(z)
            keys = jax.random.split(key, len(leaves))
            noise = [
                jax.random.normal(key, leaf.shape, leaf.dtype)
                for key, leaf in zip(keys, leaves, strict=True)
            ]
            walk = jax.tree.unflatten(structure, noise)
            return jax.tree.map(lambda at, by, unit: at + step_size * unit * by, z, walk, scale)

        return metropolis(key, log_density, z, propose, num_updates)

    return Transition(move, step_size=1.0, target=0.234)


def metropolis(
    key: Key[Array, ""],
    log_density: LogJoint,
    z: Latent,
    propose: Callable[[Key[Array, ""], Latent], Latent],
    num_updates: int,
) -> tuple[Latent, Scalar]:
    """`num_updates` steps of symmetric proposals, accepted with min(1, f(z') / f(z)).

    Returns the last z and the mean acceptance probability. A density that is NaN at the proposal
    rejects it.
    """

    def step(
        state: tuple[Latent, Scalar, Scalar], index: Array
    ) -> tuple[tuple[Latent, Scalar, Scalar], None]:
        z, here, accepted = state
        key_propose, key_test = jax.random.split(jax.random.fold_in(key, index))
        other = propose(key_propose, z)
        there = log_density(other)
        ratio = jnp.where(jnp.isnan(there - here), -jnp.inf, there - here)
        chance = jnp.exp(jnp.minimum(ratio, 0.0))
        take = jax.random.uniform(key_test, (), chance.dtype) < chance
        z = jax.tree.map(lambda old, new: jnp.where(take, new, old), z, other)
        return (z, jnp.where(take, there, here), accepted + chance), None

    here = log_density(z)
    start = (z, here, jnp.zeros_like(here))
    (z, _, accepted), _ = jax.lax.scan(step, start, jnp.arange(num_updates))
    return z, accepted / num_updates


def _hamiltonian(
    key: Key[Array, ""],
    log_density: LogJoint,
    z: Latent,
    scale: Latent,
    step_size: Scalar,
    num_leapfrogs: int,
) -> tuple[Latent, Scalar]:
    """One HMC move with masses 1 / scale^2: the move of z / scale with masses of 1.

    z itself is not rescaled, so that whoever prices it at the same place pays once.
    """
    from blackjax.mcmc import hmc as kernels

    inverse_mass = ravel_pytree(scale)[0].astype(step_size.dtype) ** 2
    state = kernels.init(z, log_density)
    # The kinetic energy is a product of its own, and the Metropolis test is to be exact.
    step = precision.full(kernels.build_kernel())
    state, info = step(
        key, state, precision.as_set(log_density), step_size, inverse_mass, num_leapfrogs
    )
    return state.position, info.acceptance_rate
