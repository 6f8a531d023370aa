"""Reductions of log p(x_n, z=k) over the components, row by row."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import IMPOSSIBLE, ExponentialFamily
from lvm_jax.em.statistics import Data, MixtureParameters, log_joint, map_rows
from lvm_jax.typing import Array, Float

# Rows times components (with padding) up to which one program computes all reductions, in tens of
# microseconds; another program would take 100 ms to compile. The results have the same bits.
TOGETHER = 2**11


def log_total(log_joint: Float[Array, "n K"]) -> Float[Array, " n"]:
    """log p(x_n); -inf for rows that no component can have."""
    total = jax.nn.logsumexp(log_joint, axis=1)
    return jnp.where(total < 0.1 * IMPOSSIBLE, -jnp.inf, total)


REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "log_joint": lambda log_joint: log_joint,
    "log_prob": log_total,
    "responsibilities": partial(jax.nn.softmax, axis=1),
    "assign": partial(jnp.argmax, axis=1),
}


def reduced(
    name: str, parameters: MixtureParameters, data: Data, family: ExponentialFamily, rows: int
) -> Array:
    """A reduction of each row; for few rows it shares its program with the other reductions."""
    few = data.x.shape[0] * parameters.log_weights.shape[0] <= TOGETHER
    names = tuple(REDUCTIONS) if few else (name,)
    return _reduce(parameters, data, family, rows, names)[name]


@over_data(2, 3, 4)
def _reduce(
    parameters: MixtureParameters,
    data: Data,
    family: ExponentialFamily,
    rows: int,
    names: tuple[str, ...],
) -> dict[str, Array]:
    def reduce(x: Array, begin: Array) -> dict[str, Array]:
        joint = log_joint(family, parameters, x, data.shift)
        return {name: REDUCTIONS[name](joint) for name in names}

    return map_rows(reduce, data, rows)
