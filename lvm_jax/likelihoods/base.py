"""A likelihood as pure functions of a network's outputs, and the data that it can take."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lvm_jax import checks
from lvm_jax.typing import Array, Distribution, Float, Key, Params

SLACK = 1e-3  # of a step: k / 255 in float32 is off by 2e-5 of one


class Support(NamedTuple):
    """What one number of x may be: low <= x <= high, in steps of `step` from low (0: any)."""

    low: float
    high: float
    step: float
    expected: str  # in words, for an error
    cure: str


REAL = Support(-math.inf, math.inf, 0.0, "finite numbers", "drop or impute the others")


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
    support: Support = REAL


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


def check_support(likelihood: Likelihood, x: object, name: str = "x") -> None:
    """Refuse data, [D] or [N, D], that have probability or density zero under `likelihood`.

    Runs on the host, before training: inside a compiled step such data would show as a bound of
    -inf, or, for a Bernoulli fed with grey levels, not at all. A grid of levels is met to a
    thousandth of its step, whole numbers exactly.

    Raises ValueError naming the first value off the support, how many there are, and the cure;
    TypeError for data that are not numbers.
    """
    low, high, step, expected, cure = likelihood.support
    array = np.asarray(checks.float_array(np.asarray(x), name))
    checks.finite(array, name)
    bad = (array < low) | (array > high)
    if step:
        places = (array - low) / step
        bad |= np.abs(places - np.round(places)) > (0.0 if step == 1 else SLACK)
    if not bad.any():
        return
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    where = f"row {first[0]}, column {first[1]}" if len(first) == 2 else f"index {first}"
    raise ValueError(
        f"{name}: expected {expected}, got {array[first]:g} at {where} ({int(bad.sum()):,} of "
        f"{bad.size:,} numbers are not); {cure}"
    )
