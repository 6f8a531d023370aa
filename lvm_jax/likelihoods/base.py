"""A likelihood as pure functions of a network's outputs, and the data that it can take."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lvm_jax._core import checks, support
from lvm_jax._core.support import REAL, Support, Supports
from lvm_jax.typing import Array, Distribution, Float, Key, Params


class Likelihood(NamedTuple):
    """p(x | outputs) of ONE data point x [D], with `outputs` from a decoder.

    Where one dimension of x takes several parameters, `outputs` has all the first ones first. What
    `build` returns has `log_prob(x)`, `sample(seed=key, sample_shape=())` and `mean()` [D].
    `build` raises ValueError for outputs of another shape: a broadcast would give a wrong
    density in silence.
    """

    num_outputs: int
    init: Callable[[Key[Array, ""]], Params]  # its own parameters, () if none
    build: Callable[[Params, Float[Array, " P"]], Distribution]
    support: Supports = REAL


def no_parameters(key: Key[Array, ""]) -> Params:
    """The `init` of a likelihood that learns nothing beside the decoder."""
    return ()


def split_outputs(outputs: Float[Array, " P"], parts: int, dim: int) -> Float[Array, "parts D"]:
    """`outputs` by parameter, [parts, D]; refuses another shape than [parts D]."""
    if jnp.shape(outputs) != (parts * dim,):
        raise ValueError(
            f"outputs: expected shape ({parts * dim},), {parts} for each of {dim} dimensions, got "
            f"{jnp.shape(outputs)}; map over rows with jax.vmap"
        )
    return outputs.reshape(parts, dim)


def check_support(likelihood: Likelihood, x: Any, name: str = "x") -> None:
    """Refuse data, [D] or [N, D], that have probability or density zero under `likelihood`.

    Of a likelihood with parts, such as `masked`, x is the tuple of them. The check of
    `models.Model.support`, which `training.fit`, `evidence.evaluate` and the other entry points
    make; see `support.check`.

    Raises ValueError naming the first value off the support, how many there are, and the cure;
    TypeError for data that are not numbers.
    """
    own = likelihood.support
    parts = ((own, x),) if isinstance(own, Support) else zip(own, x, strict=True)
    for each, part in parts:
        support.check(each, checks.real_array(part, name), name)
