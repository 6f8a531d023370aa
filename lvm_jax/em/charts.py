"""Local coordinates of the covariances of a model, for standard errors.

    Sigma_k = lambda_k D_k A_k D_k^T,   D_k = D_k(0) (I + S_k + S_k^2 / 2),   S_k^T = -S_k

The coordinates are the changes of log lambda_k and log A_k (whose sum is 0) and the upper triangle
of S_k, each for all components or for one, by the letters of the model. The polynomial is
orthogonal up to terms of the fourth degree, so that its first and second derivatives at 0 are those
of a rotation.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import helmert

from lvm_jax.em import orientations
from lvm_jax.typing import Array, Float


class Coordinates(NamedTuple):
    """Zero at the mixture; V, S and O are K, 1, or 0 where a part is the identity."""

    means: Float[Array, "K D"]  # changes in units of the scales
    volumes: Float[Array, " V"]
    shapes: Float[Array, "S D-1"]
    angles: Float[Array, "O A"]  # A = D (D - 1) / 2


class Axes(NamedTuple):
    """Covariances as log-variances along axes."""

    logs: Float[Array, "K D"]  # log lambda_k A_k
    bases: Any  # D_k, [K, D, D] or [1, D, D]; None for the identity


def zeros(name: str, means: Float[Array, "K D"]) -> Coordinates:
    """The coordinates of a mixture itself."""
    number, dim = means.shape
    copies = {"E": 1, "V": number, "I": 0}
    volume, shape, orientation = (copies[letter] for letter in name)
    angles = dim * (dim - 1) // 2
    sizes = ((number, dim), (volume,), (shape, dim - 1), (orientation, angles))
    return Coordinates(*(jnp.zeros(size, means.dtype) for size in sizes))


def axes(name: str, covariances: Float[Array, "K D D"]) -> Axes:
    """Volumes, shapes and orientations of covariances of the model."""
    if name[2] == "V":
        values, bases = jnp.linalg.eigh(covariances)
        return Axes(jnp.log(values), bases)
    share = jnp.ones(len(covariances), covariances.dtype)
    basis = jnp.linalg.eigh(orientations.pooled(covariances, share))[1]
    values = jax.vmap(lambda s: jnp.diagonal(basis.T @ s @ basis))(covariances)
    return Axes(jnp.log(values), basis[None])


def log_variances(at: Axes, u: Coordinates) -> Float[Array, "K D"]:
    """The log-variances at the coordinates u."""
    logs = at.logs
    if u.volumes.size:
        logs = logs + u.volumes[:, None]
    if u.shapes.size:
        logs = logs + u.shapes @ jnp.asarray(contrasts(logs.shape[1]), logs.dtype)
    return logs


def matrices(at: Axes, u: Coordinates) -> Float[Array, "K D D"]:
    """The covariances at the coordinates u."""
    dim = at.logs.shape[1]
    upper = np.triu_indices(dim, 1)
    skew = jax.vmap(lambda angles: jnp.zeros((dim, dim)).at[upper].set(angles))(u.angles)
    skew = skew - jnp.swapaxes(skew, 1, 2)
    turned = at.bases @ (jnp.eye(dim)[None] + skew + skew @ skew / 2)
    return (turned * jnp.exp(log_variances(at, u))[:, None]) @ jnp.swapaxes(turned, 1, 2)


@lru_cache
def contrasts(dim: int) -> np.ndarray:
    """D - 1 orthonormal vectors with sum 0."""
    return helmert(dim) if dim > 1 else np.zeros((0, 1))
