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

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.typing import Array, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

# (key, log-density, z, scale, step size) -> z, acceptance probability
Move = Callable[[Key[Array, ""], LogJoint, Latent, Latent, Scalar], tuple[Latent, Scalar]]


class Transition(NamedTuple):
    """A Markov kernel, reversible for any given density.

    `step_size` is the initial step size of tuning, in units of `scale`. `target` is the acceptance
    probability to tune for; None means no tuning. `cost` is the number of evaluations of the
    density or its gradient in a move.
    """

    move: Move
    step_size: float = 1.0
    target: float | None = None
    continuous: bool = True  # whether z must be real-valued
    cost: int = 1


@lru_cache
def hmc(num_leapfrogs: int = 10, jitter: float = 0.2) -> Transition:
    """Hamiltonian Monte Carlo with `num_leapfrogs` leapfrog steps and a Metropolis test.

    Each move draws its step size uniformly from step_size (1 +- jitter), to avoid resonance with
    periodic trajectories. A move costs `num_leapfrogs` + 1 gradients. The target acceptance is 0.65
    (Beskos et al. 2013). Equal arguments return the same object, which avoids recompilation.

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

    return Transition(move, step_size=0.5, target=0.65, cost=num_leapfrogs + 1)


@lru_cache
def mala() -> Transition:
    """The Metropolis-adjusted Langevin algorithm; as in BlackJAX, `step_size` is a variance / 2.

    It equals HMC with one leapfrog step of size sqrt(2 step_size). The target acceptance is 0.574
    (Roberts and Rosenthal 1998). A move costs two gradients.
    """

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        return _hamiltonian(key, log_density, z, scale, jnp.sqrt(2 * step_size), 1)

    return Transition(move, step_size=0.2, target=0.574, cost=2)


@lru_cache
def random_walk(num_updates: int = 1) -> Transition:
    """`num_updates` Metropolis steps with normal proposals of `step_size` standard deviations.

    The target acceptance is 0.234 (Roberts, Gelman and Gilks 1997). A step costs one density and no
    gradient. Raises ValueError for num_updates < 1.
    """
    num_updates = checks.integer(num_updates, "num_updates", 1)

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        def propose(key: Key[Array, ""], z: Latent) -> Latent:
            noise = normal_like(key, z)
            return jax.tree.map(lambda z, e, unit: z + step_size * unit * e, z, noise, scale)

        return metropolis(key, log_density, z, propose, num_updates)

    return Transition(move, step_size=1.0, target=0.234, cost=num_updates)


def normal_like(key: Key[Array, ""], z: Latent) -> Latent:
    """Standard normal noise with the structure, shapes and dtypes of z."""
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def metropolis(
    key: Key[Array, ""],
    log_density: LogJoint,
    z: Latent,
    propose: Callable[[Key[Array, ""], Latent], Latent],
    num_updates: int,
) -> tuple[Latent, Scalar]:
    """`num_updates` steps with symmetric proposals, accepted with probability min(1, f(z') / f(z)).

    Returns the last z and the mean acceptance probability. Proposals with density NaN are rejected.
    """

    def step(
        state: tuple[Latent, Scalar, Scalar], index: Array
    ) -> tuple[tuple[Latent, Scalar, Scalar], None]:
        z, log_f, total = state
        key_propose, key_test = jax.random.split(jax.random.fold_in(key, index))
        proposal = propose(key_propose, z)
        proposed_log_f = log_density(proposal)
        ratio = jnp.where(jnp.isnan(proposed_log_f - log_f), -jnp.inf, proposed_log_f - log_f)
        probability = jnp.exp(jnp.minimum(ratio, 0.0))
        accept = jax.random.uniform(key_test, (), probability.dtype) < probability
        z = jax.tree.map(lambda old, new: jnp.where(accept, new, old), z, proposal)
        return (z, jnp.where(accept, proposed_log_f, log_f), total + probability), None

    log_f = log_density(z)
    start = (z, log_f, jnp.zeros_like(log_f))
    (z, _, total), _ = jax.lax.scan(step, start, jnp.arange(num_updates))
    return z, total / num_updates


def _hamiltonian(
    key: Key[Array, ""],
    log_density: LogJoint,
    z: Latent,
    scale: Latent,
    step_size: Scalar,
    num_leapfrogs: int,
) -> tuple[Latent, Scalar]:
    """One HMC move with masses 1 / scale^2, equivalent to a move of z / scale with unit masses.

    Not rescaling z allows XLA to share density evaluations at z with the caller.
    """
    from blackjax.mcmc import hmc as kernels

    inverse_mass = ravel_pytree(scale)[0].astype(step_size.dtype) ** 2
    state = kernels.init(z, log_density)
    # Full precision of the matrix products in the kinetic energy makes the Metropolis test exact.
    step = precision.full(kernels.build_kernel())
    state, info = step(
        key, state, precision.as_set(log_density), step_size, inverse_mass, num_leapfrogs
    )
    return state.position, info.acceptance_rate
