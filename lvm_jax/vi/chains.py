"""Markov chains of the density from weighted draws, which reach mass that the draws miss.

Hamiltonian Monte Carlo in the coordinates v of u = loc + factor v, in which the draws have unit
variance. The step size of a move is log-uniform, so that some moves fit the
narrowest part of a density whose scales differ, such as the neck of a funnel.

Source: Neal (2011), sections 3.2 and 4.2, for the moves and random step sizes.
"""

from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Key, Scalar

NUM_CHAINS = 256
LARGEST = 1.2  # step size, times D^(-1/4)


class Moves(NamedTuple):
    """The number and size of moves of each chain."""

    number: int
    leapfrogs: int  # of a move
    octaves: float  # between the largest and the smallest step size

    @property
    def cost(self) -> int:
        """Gradients of all chains."""
        return NUM_CHAINS * (self.number * self.leapfrogs + 1)


NARROW = Moves(24, 4, 6.0)  # into parts of other scales
LONG = Moves(40, 8, 3.0)  # to states that forget their start


def seed(key: Key[Array, ""]) -> np.ndarray:
    """A seed of NumPy's generators from a key."""
    return np.asarray(jax.random.key_data(key))


class States(NamedTuple):
    """The states of C chains after each of T moves."""

    u: Float[Array, "C T D"]
    log_p: Float[Array, "C T"]


class _State(NamedTuple):
    v: Float[Array, " D"]
    log_p: Scalar
    gradient: Float[Array, " D"]


@bounded_jit(5, lean=True)
def run_chains(
    key: Key[Array, ""],
    starts: Float[Array, "C D"],
    loc: Float[Array, " D"],
    factor: Float[Array, "D D"],
    density: Any,
    moves: Moves,
) -> States:
    """The states of chains from C starts; `factor` is lower."""
    run = partial(_chain, density, moves, loc, factor)
    return jax.vmap(run)(jax.random.split(key, len(starts)), starts)


def compile_ahead(key: Key[Array, ""], density: Any, moves: Moves, pool: Executor) -> None:
    """Compile `run_chains` of NUM_CHAINS starts in a thread of the pool."""
    dim, dtype = density.dim, density.dtype
    arrays = (np.zeros(shape, dtype) for shape in ((NUM_CHAINS, dim), (dim,), (dim, dim)))
    run_chains.compile_in(pool, key, *arrays, density, moves)


@precision.full
def _chain(
    density: Any,
    moves: Moves,
    loc: Float[Array, " D"],
    factor: Float[Array, "D D"],
    key: Key[Array, ""],
    start: Float[Array, " D"],
) -> States:
    place = lambda v: loc + factor @ v  # noqa: E731
    objective = jax.value_and_grad(lambda v: density(place(v)))
    largest = LARGEST * start.size**-0.25

    def move(now: _State, key: Key[Array, ""]) -> tuple[_State, tuple[Array, Scalar]]:
        key_step, key_turn, key_test = jax.random.split(key, 3)
        step = largest * 2 ** (-moves.octaves * jax.random.uniform(key_step, (), start.dtype))
        momentum = jax.random.normal(key_turn, start.shape, start.dtype)

        def leap(_: Any, both: tuple[_State, Array]) -> tuple[_State, Array]:
            at, momentum = both
            momentum = momentum + 0.5 * step * at.gradient
            v = at.v + step * momentum
            new = _State(v, *objective(v))
            return new, momentum + 0.5 * step * new.gradient

        end, turned = jax.lax.fori_loop(0, moves.leapfrogs, leap, (now, momentum))
        gain = end.log_p - now.log_p + 0.5 * (momentum @ momentum - turned @ turned)
        taken = jnp.log(jax.random.uniform(key_test, (), start.dtype)) < gain  # False for NaN
        now = jax.tree.map(lambda a, b: jnp.where(taken, a, b), end, now)
        return now, (place(now.v), now.log_p)

    v = jax.scipy.linalg.solve_triangular(factor, start - loc, lower=True)
    first = _State(v, *objective(v))
    return States(*jax.lax.scan(move, first, jax.random.split(key, moves.number))[1])
