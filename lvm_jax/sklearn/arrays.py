"""Conversion between scikit-learn's arrays of a mixture and `em.Mixture`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular
from sklearn.utils import check_array

from lvm_jax import em
from lvm_jax._core import checks
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.inputs import as_family


class Given(NamedTuple):
    """The user's initial parameters; None where the user gives none."""

    weights: Any
    means: Any
    factors: Any  # U of the precisions U U^T


def check_given(
    given: Given, num_components: int, covariance_type: str, dim: int, dtype: Any
) -> Given:
    """Validate initial parameters, cast them to `dtype`, and factorise the precisions.

    Raises ValueError with scikit-learn's messages for wrong shapes, weights outside the simplex
    and precisions that are not positive definite.
    """
    weights, means, precisions = given
    if weights is not None:
        weights = _check_weights(check_array(weights, dtype=dtype, ensure_2d=False), num_components)
    if means is not None:
        means = check_array(means, dtype=dtype, ensure_2d=False)
        _check_shape(means, (num_components, dim), "means")
    if precisions is not None:
        array = check_array(precisions, dtype=dtype, ensure_2d=False, allow_nd=True)
        kind = kind_of(covariance_type)
        precisions = _check_precisions(array, num_components, kind, dim)
    return Given(weights, means, precisions)


def kind_of(covariance_type: str) -> str:
    """The one of full, tied, diag and spherical whose arrays a covariance type has."""
    family: Any = as_family(covariance_type)
    return str(family.covariance_type)


def from_arrays(given: Given, covariance_type: str) -> em.Mixture:
    """The mixture of given weights, means and precision factors."""
    origin = given.means.mean(0)
    components = Gaussians(given.means - origin, scale_of(given.factors, covariance_type))
    with np.errstate(divide="ignore"):
        log_weights = np.log(given.weights)
    log_weights, components, origin = jax.device_put((log_weights, components, origin))
    return em.Mixture(log_weights, components, origin, as_family(covariance_type))


def override(start: em.Mixture, given: Given, covariance_type: str) -> em.Mixture:
    """Replace the parameters of each restart by those that the user gives."""
    restarts = start.log_weights.shape[0]
    log_weights, (deviations, scale, remainder) = start.log_weights, start.components

    def spread(value: Any) -> Any:
        return jnp.broadcast_to(jnp.asarray(value), (restarts, *np.shape(value)))

    if given.weights is not None:
        log_weights = jnp.log(spread(given.weights))
    if given.means is not None:
        deviations, remainder = spread(given.means - np.asarray(start.origin)), None
    if given.factors is not None:
        scale = spread(scale_of(given.factors, covariance_type))
    components = Gaussians(deviations, scale, remainder)
    return em.Mixture(log_weights, components, start.origin, start.family)


def covariances(scale: np.ndarray, covariance_type: str) -> tuple[np.ndarray, ...]:
    """Covariances, precisions, and the factors U of the precisions U U^T."""
    if kind_of(covariance_type) in ("full", "tied"):
        factors = _inverse_transpose(scale)
        return scale @ np.swapaxes(scale, -1, -2), factors @ np.swapaxes(factors, -1, -2), factors
    factors = 1 / scale
    return scale**2, factors**2, factors


def scale_of(factors: np.ndarray, covariance_type: str) -> np.ndarray:
    """The scale of the covariance, from the factors U of the precision P = U U^T.

    U may be any factor, as in scikit-learn; the result is the Cholesky factor of U^-T U^-1.
    """
    factors = np.asarray(factors)
    if kind_of(covariance_type) in ("diag", "spherical"):
        return 1 / factors
    # QR, because forming U^-T U^-1 would square the condition number.
    upper = np.linalg.qr(np.linalg.inv(factors), mode="r")
    lower = np.swapaxes(upper, -1, -2)
    return lower * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[..., None, :]


def _check_weights(weights: np.ndarray, num_components: int) -> np.ndarray:
    _check_shape(weights, (num_components,), "weights")
    if (weights < 0).any() or (weights > 1).any():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.max():.5f}, min value {weights.min():.5f}"
        )
    if abs(1 - weights.sum()) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{weights.sum():.5f}"
        )
    return weights


def _check_precisions(array: np.ndarray, k: int, kind: str, dim: int) -> np.ndarray:
    shapes = {"full": (k, dim, dim), "tied": (dim, dim), "diag": (k, dim), "spherical": (k,)}
    _check_shape(array, shapes[kind], f"{kind} precision")
    if kind in ("diag", "spherical"):
        if (array <= 0).any():
            raise ValueError(f"'{kind} precision' should be positive")
        return np.sqrt(array)
    try:
        checks.symmetric_positive_definite(array, "precisions_init")
    except ValueError as error:
        raise ValueError(f"'{kind} precision' should be symmetric, positive-definite") from error
    # P = U U^T with U upper triangular: the Cholesky factor of P with both axes reversed.
    return np.linalg.cholesky(array[..., ::-1, ::-1])[..., ::-1, ::-1]


def _check_shape(array: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )


def _inverse_transpose(triangle: np.ndarray) -> np.ndarray:
    """L^-T for lower triangles L [..., D, D]."""
    if triangle.ndim == 3:
        return np.stack([_inverse_transpose(one) for one in triangle])
    identity = np.eye(len(triangle), dtype=triangle.dtype)
    return solve_triangular(triangle, identity, lower=True).T
