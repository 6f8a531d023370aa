"""A likelihood as pure functions of a network's outputs, and the support of its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lvm_jax._core import checks, support
from lvm_jax._core.support import REAL, Support, Supports
from lvm_jax.typing import Array, Distribution, Float, Key, Params


class Likelihood(NamedTuple):
    """p(x | outputs) of ONE data point x [D], with `outputs` from a decoder.

    If a dimension of x has several parameters, `outputs` has the first parameter of all dimensions,
    then the second. `build` returns a distribution with `log_prob(x)`,
    `sample(seed=key, sample_shape=())` and `mean()` [D]. It raises ValueError for outputs of a
    wrong shape, because broadcasting would give a wrong density.
    """

    num_outputs: int
    init: Callable[[Key[Array, ""]], Params]  # learned parameters of the likelihood, () if none
    build: Callable[[Params, Float[Array, " P"]], Distribution]
    support: Supports = REAL


def no_parameters(key: Key[Array, ""]) -> Params:
    """The `init` of a likelihood without learned parameters."""
    return ()


def split_outputs(outputs: Float[Array, " P"], parts: int, dim: int) -> Float[Array, "parts D"]:
    """`outputs` by parameter, [parts, D]; ValueError for a shape other than [parts D]."""
    if jnp.shape(outputs) != (parts * dim,):
        raise ValueError(
            f"outputs: expected shape ({parts * dim},), {parts} for each of {dim} dimensions, got "
            f"{jnp.shape(outputs)}; map over rows with jax.vmap"
        )
    return outputs.reshape(parts, dim)


def check_support(likelihood: Likelihood, x: Any, name: str = "x") -> None:
    """Check that data, [D] or [N, D], lie in the support of `likelihood`.

    For a likelihood with parts, such as `masked`, x is a tuple of the parts. `training.fit`,
    `evidence.evaluate` and the other entry points make the same check by `models.Model.support`.

    Raises ValueError with the first value outside the support, the number of such values and a
    remedy; TypeError for data that are not numbers.
    """
    own = likelihood.support
    parts = ((own, x),) if isinstance(own, Support) else zip(own, x, strict=True)
    for each, part in parts:
        support.check(each, checks.real_array(part, name), name)
