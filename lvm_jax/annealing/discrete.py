"""Moves for a discrete z: integers, bits as floats, or one-hot rows."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.annealing.transitions import Transition, metropolis
from lvm_jax.typing import Array, Int, Key, Latent, Scalar
from lvm_jax.weights import LogJoint


@lru_cache
def gibbs(num_values: int, num_updates: int = 1, one_hot: bool = False) -> Transition:
    """`num_updates` Gibbs updates, each of one variable chosen uniformly.

    z is one label or [K] integers or bits with values 0, ..., num_values - 1, or with `one_hot`
    [K, num_values] rows. The variable is drawn from its conditional, at the cost of
    `num_values` densities. A random scan is reversible, which an ordered sweep is not.

    Raises ValueError for num_values < 2 or num_updates < 1.
    """
    num_values = checks.integer(num_values, "num_values", 2)
    num_updates = checks.integer(num_updates, "num_updates", 1)
    put = _put(num_values, one_hot)

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        def update(z: Latent, index: Array) -> tuple[Latent, None]:
            key_place, key_value = jax.random.split(jax.random.fold_in(key, index))
            place = jax.random.randint(key_place, (), 0, _num_variables(z, one_hot))
            log_f = jax.vmap(lambda value: log_density(put(z, place, value)))(
                jnp.arange(num_values)
            )
            # Where every value has density 0 (or NaN), z stays.
            good = jnp.where(jnp.isnan(log_f), -jnp.inf, log_f)
            value = jax.random.categorical(key_value, good)
            stay = jnp.isneginf(good).all()
            return jnp.where(stay, z, put(z, place, value)), None

        z, _ = jax.lax.scan(update, z, jnp.arange(num_updates))
        return z, jnp.ones_like(step_size)

    return Transition(move, continuous=False)


@lru_cache
def flip(num_values: int, num_updates: int = 1, one_hot: bool = False) -> Transition:
    """`num_updates` Metropolis steps: one variable, chosen uniformly, to another of its values.

    z as in `gibbs`. One density a step, which for bits is half the cost of Gibbs.

    Raises ValueError for num_values < 2 or num_updates < 1.
    """
    num_values = checks.integer(num_values, "num_values", 2)
    num_updates = checks.integer(num_updates, "num_updates", 1)
    put = _put(num_values, one_hot)

    def propose(key: Key[Array, ""], z: Latent) -> Latent:
        key_place, key_by = jax.random.split(key)
        place = jax.random.randint(key_place, (), 0, _num_variables(z, one_hot))
        row = z[place] if one_hot else z.reshape(-1)[place]
        here = row.argmax() if one_hot else row.astype(jnp.int32)
        by = jax.random.randint(key_by, (), 1, num_values)
        return put(z, place, (here + by) % num_values)

    def move(
        key: Key[Array, ""], log_density: LogJoint, z: Latent, scale: Latent, step_size: Scalar
    ) -> tuple[Latent, Scalar]:
        return metropolis(key, log_density, z, propose, num_updates)

    return Transition(move, continuous=False)


def _num_variables(z: Latent, one_hot: bool) -> int:
    return z.shape[0] if one_hot else z.size


def _put(
    num_values: int, one_hot: bool
) -> Callable[[Latent, Int[Array, ""], Int[Array, ""]], Latent]:
    """(z, place, value) -> z with another value of one variable."""

    def put(z: Latent, place: Int[Array, ""], value: Int[Array, ""]) -> Latent:
        if one_hot:
            return z.at[place].set(jax.nn.one_hot(value, num_values, dtype=z.dtype))
        return z.reshape(-1).at[place].set(value.astype(z.dtype)).reshape(z.shape)

    return put
