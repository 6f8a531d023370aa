"""Gradient ascent on a function by an Optax optimiser, in one compiled loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lvm_jax._core import checks
from lvm_jax.typing import Array, Int, Params, Scalar


def ascend(
    objective: Callable[[Int[Array, ""], Params], Scalar],
    start: Params,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> Params:
    """The parameters after `num_steps` steps up the gradient of objective(step, parameters).

    step counts from 0: fold it into a key for an objective with noise. Parameters are any pytree.
    See `fit` for data sets, checkpoints and early stopping. Raises ValueError for num_steps < 0.
    """
    num_steps = checks.integer(num_steps, "num_steps", 0)

    def step(state: Any, index: Int[Array, ""]) -> tuple[Any, None]:
        parameters, inner = state
        gradient = jax.grad(lambda p: -objective(index, p))(parameters)
        updates, inner = optimizer.update(gradient, inner, parameters)
        return (optax.apply_updates(parameters, updates), inner), None

    @jax.jit
    def run(start: Params) -> Params:
        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(num_steps))[0][0]

    return run(start)
