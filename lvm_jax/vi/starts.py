"""Several starts of a fit: draws around one start, or of a function of a key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Key, Latent
from lvm_jax.vi.constraints import Constraint, Named
from lvm_jax.vi.method import Task


def check_draw(key: Key[Array, ""], start: Any) -> tuple[Latent, Callable | None]:
    """A start, and the function that draws others: None for a `start` that is a pytree."""
    if not callable(start):
        return start, None
    try:
        return jax.jit(start)(key), start
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            "start: expected a pytree of numbers or a function of one key to a pytree, traceable "
            f"by JAX, but it fails ({type(error).__name__}: {error})"
        ) from error


def unconstrained(draw: Callable | None, constraint: Constraint | None) -> Callable | None:
    """The function that draws starts in unconstrained numbers.

    Starts are constrained where `constraint` has names, as a `start` that is a pytree.
    """
    if draw is None or not isinstance(constraint, Named):
        return draw
    return lambda key: constraint.inverse(draw(key))


def draw_starts(key: Key[Array, ""], task: Task, number: int, scale: float) -> Float[Array, "P D"]:
    """`number` starts u: of the task's own draws, or uniform on (-scale, scale)^D."""
    density, draw = task.density, task.draw_start
    if draw is None:
        return _uniform(key, number, density.dim, scale, density.dtype)
    origin = ravel_pytree(density.start)[0]
    keys = jax.random.split(key, number)
    drawn = jax.vmap(lambda key: ravel_pytree(draw(key))[0])(keys)
    return jnp.asarray(drawn, density.dtype) - origin[None]


@bounded_jit(1, 2, 3, 4, lean=True)
def _uniform(
    key: Key[Array, ""], number: int, dim: int, scale: float, dtype: Any
) -> Float[Array, "P D"]:
    return jax.random.uniform(key, (number, dim), dtype, minval=-scale, maxval=scale)
