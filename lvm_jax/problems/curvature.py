"""The curvature of a function along a direction, by differentiation in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax.typing import Params, Scalar


class Curvature(NamedTuple):
    """First and second derivatives of a function at a point, along a unit direction d."""

    slope: float  # largest absolute entry of the gradient
    value: float  # d^T H d
    residual: float  # |H d - (d^T H d) d| / |d^T H d|, 0 for an eigenvector of the Hessian H


@partial(jax.jit, static_argnums=0)
def _gradient_and_product(
    function: Callable[..., Scalar], at: Params, direction: Params, fixed: tuple[Any, ...]
) -> tuple[Params, Params]:
    return jax.jvp(jax.grad(lambda point: function(point, *fixed)), (at,), (direction,))


def along(function: Callable[..., Scalar], at: Params, direction: Params, *fixed: Any) -> Curvature:
    """The curvature of `function(at, *fixed)` in its first argument, along `direction`.

    `at` and `direction` are pytrees of equal structure; the length of `direction` does not matter.
    Raises ValueError for a direction of length 0.
    """
    with jax.enable_x64(True):
        at, direction, fixed = jax.tree.map(jnp.asarray, (at, direction, fixed))
        parts = (*_gradient_and_product(function, at, direction, fixed), direction)
        gradient, product, d = (np.asarray(ravel_pytree(part)[0]) for part in parts)
    length = np.linalg.norm(d)
    if not length > 0:
        raise ValueError("direction: expected a nonzero vector, got zeros")
    value = float(d @ product / (d @ d))
    residual = np.linalg.norm(product - value * d) / length
    with np.errstate(divide="ignore", invalid="ignore"):
        return Curvature(float(np.abs(gradient).max()), value, float(residual / abs(value)))
