"""Expectations and draws of the missing entries of rows given the observed ones."""

from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax.em.compiling import over_data
from lvm_jax.em.statistics import Data, MixtureParameters, map_rows
from lvm_jax.typing import Array, Float, Key


@over_data(2, 3)
def expected(
    parameters: MixtureParameters, data: Data, family: Any, rows: int
) -> Float[Array, "N D"]:
    """E[x | x_observed] for rows with missing entries."""
    components = family.translate(parameters.components, data.shift)

    def one(x: Array, _: Array) -> Array:
        logits = family.exact_log_prob(components, x) + parameters.log_weights[None]
        return family.expected(components, x, jax.nn.softmax(logits, axis=1))

    return map_rows(one, data, rows)


@over_data(3, 4)
def conditional(
    key: Key[Array, ""], parameters: MixtureParameters, data: Data, family: Any, rows: int
) -> Float[Array, "N D"]:
    """Draws of p(x | x_observed) for rows with missing entries."""
    components = family.translate(parameters.components, data.shift)

    def one(x: Array, begin: Array) -> Array:
        logits = family.exact_log_prob(components, x) + parameters.log_weights[None]
        numbers = begin + jnp.arange(len(x))
        keys = jax.vmap(lambda n: jax.random.split(jax.random.fold_in(key, n)))(numbers)
        z = jax.vmap(jax.random.categorical)(keys[:, 0], logits)
        draws = jax.vmap(lambda k, z: family.sample_one(k, family.select(components, z)))(
            keys[:, 1], z
        )
        return family.conditional(components, x, z, draws)

    return map_rows(one, data, rows)
