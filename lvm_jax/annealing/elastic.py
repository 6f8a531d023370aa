"""Annealing with a traced number of temperatures: one compiled program for any number.

Arrays have capacity for M temperatures; loops use the first T.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lvm_jax import weights
from lvm_jax.annealing.path import STEEPNESS, Path, Place
from lvm_jax.annealing.transitions import Transition
from lvm_jax.annealing.tuning import MOST, Schedule, equalize, pilot, spread
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Latent, Scalar

Number = Int[Array, ""]
# (key, log-weights) -> rows to keep, and their log-weights
Resampling = Callable[[Key[Array, ""], Float[Array, " C"]], tuple[Int[Array, " C"], Array]]


def tuned(
    key: Key[Array, ""],
    path: Path,
    q: Distribution,
    number: Number,
    capacity: int,
    transition: Transition,
    num_chains: int,
) -> Schedule:
    """The schedule of `annealing.tune` with `adaptive`, for T = `number` sigmoid temperatures.

    Temperatures are [M + 1] and step sizes [M], M = `capacity`; temperatures beyond T are 1.
    """
    key_scale, key_start, key_moves = jax.random.split(key, 3)
    scale = spread(key_scale, q)
    z = weights.draw(key_start, q, num_chains)
    dtype = path.dtype(z)
    few = jnp.minimum(number, MOST)
    visited = jnp.arange(min(MOST, capacity) + 1, dtype=dtype) * (number / few)
    own = _sigmoid(jnp.round(visited) / number)
    steps, _, deviation = pilot(key_moves, path, z, own, transition, scale, few)
    even = jnp.minimum(jnp.arange(capacity + 1, dtype=dtype) / number, 1.0)
    temperatures = equalize(own, deviation, even)
    steps = jnp.exp(jnp.interp(temperatures[1:], own[1:], jnp.log(steps)))
    return Schedule(temperatures, steps, scale)


def _sigmoid(parts: Float[Array, " P"]) -> Float[Array, " P"]:
    """The temperatures of `annealing.sigmoid` at t / T = `parts`, and 1 for parts > 1."""
    raw, ends = (jax.nn.sigmoid(STEEPNESS * (2 * part - 1)) for part in (parts, jnp.arange(2.0)))
    betas = (raw - ends[0]) / (ends[1] - ends[0])
    return jnp.where(parts >= 1, 1.0, jnp.where(parts <= 0, 0.0, betas)).astype(parts.dtype)


def anneal(
    keys: Key[Array, " C"],
    path: Path,
    z: Latent,
    schedule: Schedule,
    number: Number,
    transition: Transition,
    resample: Resampling | None = None,
) -> tuple[Latent, Float[Array, " C"], Float[Array, " M"]]:
    """`annealing.anneal` of C chains z [C, ...] over the first T = `number` temperatures.

    Returns the final z, the log-weights and the mean acceptance at each temperature. `resample`
    chooses the chains that go on, before the moves of each temperature.
    """
    betas = schedule.temperatures

    def step(index: Array, state: tuple) -> tuple:
        before, beta = betas[index], betas[index + 1]

        def one(key: Key[Array, ""], place: Place) -> tuple[Place, Scalar]:
            step_key, size = jax.random.fold_in(key, index), schedule.step_sizes[index]
            return transition.apply(step_key, path, beta, place, schedule.scale, size)

        places, log_w, acceptance = state
        log_w = log_w + (beta - before) * places.log_weight
        if resample is not None:
            rows, log_w = resample(jax.random.fold_in(keys[0], number + index), log_w)
            places = jax.tree.map(lambda leaf: leaf[rows], places)
        places, accepted = jax.vmap(one)(keys, places)
        return places, log_w, acceptance.at[index].set(accepted.mean())

    places = jax.vmap(lambda z: path.place(z, transition.slopes))(z)
    start = (places, jnp.zeros(keys.shape[0], betas.dtype), jnp.zeros_like(schedule.step_sizes))
    places, log_w, acceptance = jax.lax.fori_loop(0, number, step, start)
    return places.z, log_w, acceptance
