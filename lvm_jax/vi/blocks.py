"""Blocks of steps at one rate: the average of their states and their ELBO."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Params, Scalar
from lvm_jax.vi.density import Density


class Step(NamedTuple):
    """The result of one step: the new state, and the log-weights of its draws."""

    state: Any
    log_weights: Float[Array, " S"]


class Iteration(NamedTuple):
    """A stochastic fit by steps of a fixed rate.

    `products` is given for steps along the natural gradient: the inner products [G, G] of
    averages - centre by the Fisher information at the centre.
    """

    step: Callable[..., Step]  # of (density, key, state, rate)
    average_of: Callable[[Any], Params]  # of a state: what is averaged
    build: Callable[[Params], Distribution]  # q of u from averages
    distance: Callable[[Params, Params], Scalar]  # of two averages, in nats
    num_samples: int  # evaluations of a step
    refresh: Callable[..., Any] | None = None  # (density, key, state) -> state, between blocks
    refresh_cost: int = 0  # evaluations of a refresh
    products: Callable[..., Array] | None = None  # of averages [G, ...] and a centre, see below


class Block(NamedTuple):
    """The result of some steps at one rate."""

    state: Any
    average: Params
    elbo: Scalar
    standard_error: Scalar


def mean_of(trees: Any) -> Params:
    """The average of some pytrees, on the host."""
    return jax.tree.map(lambda *leaves: np.mean([np.asarray(one) for one in leaves], 0), *trees)


@bounded_jit(2, lean=True)
def distance_of(first: Params, second: Params, iteration: Iteration) -> Scalar:
    """The iteration's distance of two averages, in nats."""
    return iteration.distance(first, second)


@bounded_jit(2, lean=True)
def products_of(averages: Params, centre: Params, iteration: Iteration) -> Array:
    """The iteration's inner products [G, G] of averages [G, ...] - centre."""
    return jnp.zeros(()) if iteration.products is None else iteration.products(averages, centre)


@bounded_jit(3, lean=True)
def refresh(density: Density, key: Key[Array, ""], state: Any, iteration: Iteration) -> Any:
    """The state that the iteration's refresh returns."""
    return state if iteration.refresh is None else iteration.refresh(density, key, state)


@bounded_jit(6)
def run_block(
    density: Any,  # a Density, or one in other coordinates
    key: Key[Array, ""],
    state: Any,
    rate: Scalar,
    first_step: Int[Array, ""],
    num_steps: Int[Array, ""],
    iteration: Iteration,
) -> Block:
    """`num_steps` steps at one rate; the block's average and ELBO."""

    def step(index: Int[Array, ""], state: Any) -> Any:
        return iteration.step(density, jax.random.fold_in(key, first_step + index), state, rate)

    def body(index: Int[Array, ""], carry: tuple) -> tuple:
        state, total, sums = carry
        done = step(index, state)
        average = iteration.average_of(done.state)
        total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, average)
        return done.state, total, sums + _sums(done.log_weights)

    zero = jax.tree.map(jnp.zeros_like, iteration.average_of(state))
    rate = rate.astype(jnp.result_type(*jax.tree.leaves(zero)))
    log_w = jax.eval_shape(step, first_step, state).log_weights
    none = jnp.zeros(3, log_w.dtype)
    state, total, (count, number, square) = jax.lax.fori_loop(
        0, num_steps, body, (state, zero, none)
    )
    elbo = number / count
    error = jnp.sqrt(jnp.maximum(square / count - elbo**2, 0) / count)
    return Block(state, jax.tree.map(lambda leaf: leaf / num_steps, total), elbo, error)


def _sums(log_w: Float[Array, " S"]) -> Float[Array, " 3"]:
    """Number, sum, and sum of squares of log-weights."""
    return jnp.stack([jnp.ones_like(log_w).sum(), log_w.sum(), (log_w**2).sum()])
