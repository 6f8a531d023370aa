"""Natural-gradient steps on several Gaussians at once, each on its own ELBO."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Int, Key, Scalar
from lvm_jax.vi import natural
from lvm_jax.vi.method import Task
from lvm_jax.vi.natural import Averaged, Gaussian
from lvm_jax.vi.start import elbo_of

FIRST_RATE = 0.4
FIRST_STEPS = 16  # of a round; a round has twice the steps of the one before, of half the rate
MIN_DRAWS, MAX_DRAWS = 16, 256  # of a step; D / 2 between them
MAX_ROUNDS = 8


class Refined(NamedTuple):
    """K Gaussians, and how far they are from the best."""

    normals: Gaussian  # leaves [K, ...]
    elbo: Float[np.ndarray, " K"]  # nats
    noise: Float[np.ndarray, " K"]  # nats that the Monte-Carlo error of the average loses
    evaluations: int


def refine(key: Key[Array, ""], task: Task, normals: Gaussian, max_evaluations: int) -> Refined:
    """Rounds of steps on each of K Gaussians, until the noise of all is below the tolerance.

    A round averages the second half of its steps. Its result replaces a Gaussian whose ELBO it
    improves, or matches up to the tolerance.
    """
    number, dim = normals.mean.shape
    draws = int(np.clip(2 * (dim // 4), MIN_DRAWS, MAX_DRAWS))
    result = Refined(normals, np.zeros(number), np.full(number, np.inf), 0)
    steps, rate = FIRST_STEPS, FIRST_RATE
    for index in range(MAX_ROUNDS):
        room = (max_evaluations - result.evaluations) // (number * draws) - 2
        if room < 4:
            break
        count = min(steps, room) // 2 * 2
        keys = jax.random.split(jax.random.fold_in(key, index), number)
        args = np.float32(rate), np.int32(count // 2), np.float32(task.tolerance)
        found, elbo, noise = _round(keys, task.density, result.normals, *args, draws)
        spent = result.evaluations + number * draws * (count + 2)
        result = Refined(found, np.asarray(elbo), np.asarray(noise), spent)
        if result.noise.max() <= task.tolerance:
            break
        steps, rate = 2 * steps, rate / 2
    return result


@bounded_jit(6)
def _round(
    keys: Key[Array, " K"],
    density: Any,
    normals: Gaussian,
    rate: Scalar,
    half: Int[Array, ""],
    tolerance: Scalar,
    draws: int,
) -> tuple[Gaussian, Array, Array]:
    rate = jnp.asarray(rate, normals.mean.dtype)
    # In sequence: batched factorisations that run at the same time can deadlock in jaxlib.
    one = partial(_round_of_one, density, rate, half, tolerance, draws)
    return jax.lax.map(lambda row: one(*row), (keys, normals))


@precision.full
def _round_of_one(
    density: Any,
    rate: Scalar,
    half: Int[Array, ""],
    tolerance: Scalar,
    draws: int,
    key: Key[Array, ""],
    start: Gaussian,
) -> tuple[Gaussian, Scalar, Scalar]:
    """The better of the start and of an average of steps, its ELBO, and the average's noise."""
    key, key_elbo = jax.random.split(key)

    def step(index: Int[Array, ""], state: Gaussian) -> Gaussian:
        key_step = jax.random.fold_in(key, index)
        return natural.full_rank_step(draws, density, key_step, state, rate).state

    def add(index: Int[Array, ""], carry: tuple[Gaussian, Averaged]) -> tuple[Gaussian, Averaged]:
        state = step(index, carry[0])
        total = jax.tree.map(jnp.add, carry[1], natural.average_of(state))
        return state, total

    state = jax.lax.fori_loop(0, half, step, start)
    zero = jax.tree.map(jnp.zeros_like, natural.average_of(start))
    middle = half + half // 2
    state, first = jax.lax.fori_loop(half, middle, add, (state, zero))
    state, second = jax.lax.fori_loop(middle, 2 * half, add, (state, zero))
    both = jax.tree.map(lambda a, b: (a + b) / half, first, second)
    parts = [
        jax.tree.map(lambda leaf, n=number: leaf / n, total)
        for total, number in ((first, half // 2), (second, half - half // 2))
    ]
    noise = natural.full_rank_distance(*parts) / 4
    average = Gaussian(both.mean, jnp.linalg.cholesky(both.precision))

    old, new = (elbo_of(key_elbo, one, density, False) for one in (start, average))
    better = (new >= old - tolerance) & jnp.isfinite(noise)
    normal = jax.tree.map(lambda a, b: jnp.where(better, a, b), average, start)
    return normal, jnp.where(better, new, old), jnp.where(better, jnp.abs(noise), jnp.inf)
