"""Transitions for a discrete z: integers, bits as floats, or one-hot rows."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.annealing.path import Place, Tempered
from lvm_jax.annealing.transitions import Transition, chosen, metropolis
from lvm_jax.typing import Array, Int, Key, Latent, Scalar


@lru_cache
def gibbs(num_values: int, num_updates: int = 1, one_hot: bool = False) -> Transition:
    """`num_updates` Gibbs updates, each of one variable chosen uniformly.

    z is one label or [K] integers or bits with values 0, ..., num_values - 1, or with `one_hot`
    [K, num_values] rows. An update draws the variable from its conditional distribution and costs
    `num_values` densities. A random scan is reversible; an ordered sweep is not.

    Raises ValueError for num_values < 2 or num_updates < 1.
    """
    num_values = checks.integer(num_values, "num_values", 2)
    num_updates = checks.integer(num_updates, "num_updates", 1)
    put = _put(num_values, one_hot)

    def move(
        key: Key[Array, ""], density: Tempered, place: Place, scale: Latent, step_size: Scalar
    ) -> tuple[Place, Scalar]:
        def update(place: Place, index: Array) -> tuple[Place, None]:
            key_variable, key_value = jax.random.split(jax.random.fold_in(key, index))
            variable = jax.random.randint(key_variable, (), 0, _num_variables(place.z, one_hot))
            every = jax.vmap(lambda value: density.at(put(place.z, variable, value)))(
                jnp.arange(num_values)
            )
            # z does not change if every value has density 0 (or NaN).
            log_f = jax.vmap(density.value)(every)
            log_f = jnp.where(jnp.isnan(log_f), -jnp.inf, log_f)
            value = jax.random.categorical(key_value, log_f)
            new = jax.tree.map(lambda leaf: leaf[value], every)
            return chosen(~jnp.isneginf(log_f).all(), new, place), None

        place, _ = jax.lax.scan(update, place, jnp.arange(num_updates))
        return place, jnp.ones_like(step_size)

    return Transition(move, continuous=False, cost=num_values * num_updates)


@lru_cache
def flip(num_values: int, num_updates: int = 1, one_hot: bool = False) -> Transition:
    """`num_updates` Metropolis steps that propose another value of one variable, uniformly.

    z as in `gibbs`. A step costs one density, half the cost of Gibbs for bits.

    Raises ValueError for num_values < 2 or num_updates < 1.
    """
    num_values = checks.integer(num_values, "num_values", 2)
    num_updates = checks.integer(num_updates, "num_updates", 1)
    put = _put(num_values, one_hot)

    def propose(key: Key[Array, ""], z: Latent) -> Latent:
        key_variable, key_shift = jax.random.split(key)
        variable = jax.random.randint(key_variable, (), 0, _num_variables(z, one_hot))
        row = z[variable] if one_hot else z.reshape(-1)[variable]
        value = row.argmax() if one_hot else row.astype(jnp.int32)
        shift = jax.random.randint(key_shift, (), 1, num_values)
        return put(z, variable, (value + shift) % num_values)

    def move(
        key: Key[Array, ""], density: Tempered, place: Place, scale: Latent, step_size: Scalar
    ) -> tuple[Place, Scalar]:
        return metropolis(key, density, place, propose, num_updates)

    return Transition(move, continuous=False, cost=num_updates)


def _num_variables(z: Latent, one_hot: bool) -> int:
    return z.shape[0] if one_hot else z.size


def _put(
    num_values: int, one_hot: bool
) -> Callable[[Latent, Int[Array, ""], Int[Array, ""]], Latent]:
    """The function (z, variable, value) -> z with a new value of one variable."""

    def put(z: Latent, variable: Int[Array, ""], value: Int[Array, ""]) -> Latent:
        if one_hot:
            return z.at[variable].set(jax.nn.one_hot(value, num_values, dtype=z.dtype))
        return z.reshape(-1).at[variable].set(value.astype(z.dtype)).reshape(z.shape)

    return put
