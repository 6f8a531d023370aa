"""Validation of symmetries: functions of z that leave log p(x, z) invariant."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import weights
from lvm_jax._core.batching import num_rows, rows_of
from lvm_jax._core.trees import differences
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Generative, Key, Latent

DRAWS, POINTS = 16, 4  # of the prior, and of the data
ALLOWED = 1e-3  # nats, and relative to the size of log p(x, z)


def checked(
    key: Key[Array, ""], p: Generative, x: Any, symmetries: Sequence[Callable[[Latent], Latent]]
) -> tuple[Callable[[Latent], Latent], ...]:
    """The symmetries as a tuple; ValueError for one that changes log p(x, z) at a draw of z.

    TypeError for one that is no function, or that returns another structure than that of z.
    """
    symmetries = tuple(symmetries)
    for number, function in enumerate(symmetries):
        name = f"symmetries[{number}]"
        if not callable(function):
            raise TypeError(f"{name}: expected a function of z, got {type(function).__name__}")
        some = jax.tree.map(jnp.asarray, rows_of(x, slice(0, min(POINTS, num_rows(x)))))
        change, size = _change(key, p, some, function, name)
        worst = np.unravel_index(np.argmax(change - ALLOWED * size), change.shape)
        if not (change <= ALLOWED * np.maximum(size, 1)).all():
            raise ValueError(
                f"{name}: expected a function of z that leaves log p(x, z) invariant, got a change "
                f"of {change[worst]:.3g} nats at point {worst[0]} for a draw of the prior"
            )
    return symmetries


def _change(
    key: Key[Array, ""], p: Generative, x: Any, function: Callable[[Latent], Latent], name: str
) -> tuple[Float[np.ndarray, "N S"], Float[np.ndarray, "N S"]]:
    drawn = jax.eval_shape(lambda: p.prior(rows_of(x, 0)).sample(seed=jax.random.key(0)))
    found = differences(drawn, jax.eval_shape(function, drawn))
    if found is not None:
        raise TypeError(
            f"{name}: expected {found[0]} as the prior draws it, {found[1]}, got {found[2]}"
        )
    return jax.device_get(_changes(key, p, x, function))


@bounded_jit(3)
def _changes(
    key: Key[Array, ""], p: Generative, x: Any, function: Callable[[Latent], Latent]
) -> tuple[Float[Array, "N S"], Float[Array, "N S"]]:
    """|log p(x, s(z)) - log p(x, z)| and |log p(x, z)|; NaN, which fails, where either is NaN."""

    def one(x: Any) -> tuple[Array, Array]:
        joint, z = p.log_joint(x), weights.draw(key, p.prior(x), DRAWS)
        before, after = jax.vmap(joint)(z), jax.vmap(lambda z: joint(function(z)))(z)
        return jnp.where(before == after, 0.0, jnp.abs(after - before)), jnp.abs(before)

    found: tuple[Array, Array] = jax.vmap(one)(x)
    return found
