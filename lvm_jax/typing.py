"""The few types that every room shares, and the letters of the axes.

Axes: N data points, D data dimensions, K mixture components, R restarts, S Monte-Carlo samples,
L values of a discrete latent variable, F sufficient statistics.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt

ArrayLike = np.ndarray | jax.Array
Params = Any  # a pytree of arrays
Latent = Any  # a pytree of arrays
Distribution = Any  # a distrax distribution
Scalar = Float[Array, ""]

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Distribution",
    "Float",
    "Int",
    "Key",
    "Latent",
    "PRNGKeyArray",
    "Params",
    "Scalar",
    "UInt",
]
