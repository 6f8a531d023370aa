"""The priors of `BayesianGaussianMixture`: scikit-learn's defaults, shapes and messages."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array

from lvm_jax import em
from lvm_jax._core import checks
from lvm_jax.sklearn.base import DTYPES


class Priors(NamedTuple):
    """The values of the attributes that end in `_prior_`."""

    concentration: float
    strength: float
    mean: np.ndarray  # [D]
    degrees: float
    covariance: Any  # [D, D], [D], or a number

    def components(self, regularization: float) -> em.NormalInverseWishart:
        """The prior of the components; a singular covariance gets `regularization` added."""
        scale = np.asarray(self.covariance, np.float64)
        if scale.ndim == 2 and np.linalg.eigvalsh(scale)[0] <= 1e-12 * np.trace(scale):
            scale = scale + regularization * np.eye(len(scale))
        elif scale.ndim < 2:
            scale = np.where(scale > 0, scale, regularization)
        return em.NormalInverseWishart(self.mean, self.strength, self.degrees, scale)


def read(estimator: Any, X: np.ndarray) -> Priors:
    """The priors from an estimator's parameters and data [N, D].

    Of columns with NaN the defaults are the mean and the variances of the observed entries.
    Raises ValueError with scikit-learn's messages.
    """
    kind, dim = estimator.covariance_type, X.shape[1]
    mean, degrees = estimator.mean_prior, estimator.degrees_of_freedom_prior
    if mean is None:
        mean = np.nanmean(X, axis=0)
    else:
        mean = check_array(mean, dtype=DTYPES, ensure_2d=False)
        _check_shape(mean, (dim,), "means")
    if degrees is None:
        degrees = dim
    elif degrees <= dim - 1:
        raise ValueError(
            f"The parameter 'degrees_of_freedom_prior' should be greater than {dim - 1}, but got "
            f"{degrees:.3f}."
        )
    return Priors(
        _or(estimator.weight_concentration_prior, 1 / estimator.n_components),
        _or(estimator.mean_precision_prior, 1.0),
        mean,
        degrees,
        _covariance(estimator.covariance_prior, kind, X),
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _covariance(value: Any, kind: str, X: np.ndarray) -> Any:
    """The prior of the covariances: the given one, or the data's covariance."""
    dim = X.shape[1]
    if value is None:
        variance = np.nanvar(X, axis=0, ddof=1)
        if kind in ("full", "tied"):
            return np.diag(variance) if np.isnan(X).any() else np.atleast_2d(np.cov(X.T))
        return variance if kind == "diag" else variance.mean()
    if kind == "spherical":
        return value
    array = check_array(value, dtype=DTYPES, ensure_2d=False)
    _check_shape(array, (dim,) if kind == "diag" else (dim, dim), f"{kind} covariance_prior")
    if kind == "diag":
        if (array <= 0).any():
            raise ValueError("'diag precision' should be positive")
        return array
    try:
        checks.symmetric_positive_definite(array, "covariance_prior")
    except ValueError as error:
        raise ValueError(f"'{kind} precision' should be symmetric, positive-definite") from error
    return array


def _check_shape(array: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )
