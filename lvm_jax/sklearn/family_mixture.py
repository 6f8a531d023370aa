"""Mixtures of Student-t components and of factor analysers with scikit-learn's interface."""

import warnings
from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from lvm_jax import em
from lvm_jax.em.labels import check_labels
from lvm_jax.em.result import report
from lvm_jax.sklearn.base import DTYPES, draw_seed
from lvm_jax.sklearn.fitted_mixture import FittedMixture

COMMON: dict[str, list] = {
    "n_components": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0.0, None, closed="left")],
    "reg_covar": [Interval(Real, 0.0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "n_init": [Interval(Integral, 1, None, closed="left")],
    "init_params": [StrOptions(set(em.STARTS))],
    "random_state": ["random_state"],
}


class FamilyMixture(FittedMixture):
    """The fit of a mixture of one family; its options are those of `GaussianMixture`.

    Attributes: weights_, means_, converged_, n_iter_, lower_bound_ (mean log-likelihood per sample
    of the fit), and the family's.
    """

    fewest_features: ClassVar[int] = 1
    n_components: int
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: str

    @abstractmethod
    def _family(self) -> em.ExponentialFamily:
        """The family of the components."""

    def _takes_nan(self) -> bool:
        """Whether entries may be missing."""
        return False

    @abstractmethod
    def _set(self, components: Any) -> None:
        """Set the family's attributes from its components."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, labels: Any = None) -> Self:
        """Fit by EM; y is ignored, `sample_weight` and `labels` are as in `GaussianMixture`."""
        X = validate_data(
            self, X, dtype=DTYPES, ensure_min_samples=2, ensure_min_features=self.fewest_features,
            ensure_all_finite="allow-nan" if self._takes_nan() else True,
        )  # fmt: skip
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        if labels is not None:
            labels = check_labels(labels, len(X), self.n_components, sample_weight, "labels")
        key = jax.random.key(draw_seed(self.random_state))
        with jax.enable_x64(X.dtype == np.float64), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x: columns .* are constant", UserWarning)
            fitted = em.fit(
                key, X, self.n_components, self._family(), start=self.init_params,
                num_restarts=self.n_init, max_steps=self.max_iter, tolerance=self.tol,
                regularization=self.reg_covar, sample_weight=sample_weight, y=labels,
                throw=False,
            )  # fmt: skip
        report(fitted)
        self._mixture = jax.tree.map(np.asarray, fitted.mixture)
        self.converged_ = fitted.info.outcome == em.Outcome.CONVERGED
        self.n_iter_ = max(fitted.info.num_steps, 1)
        self.lower_bound_ = fitted.info.log_likelihood
        self.weights_ = np.exp(self._mixture.log_weights)
        self.means_ = np.asarray(self._mixture.means)
        self._set(self._mixture.components)
        return self

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, labels: Any = None
    ) -> np.ndarray:
        """Fit, then return the most probable component of each sample."""
        return self.fit(X, y, sample_weight, labels).predict(X)

    def _current(self) -> em.Mixture:
        return self._mixture

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._takes_nan()
        return tags


class StudentMixture(FamilyMixture):
    """Mixture of Student-t components (`em.Student`), for clusters with outliers.

    NaN is an entry missing at random, for full scale matrices.

    Parameters
    ----------
    n_components : int, default=1
        K.
    covariance_type : {'full', 'diag', 'spherical'}, default='full'
        Shape of the scale matrices.
    degrees : {'free', 'tied'} or float, default='free'
        Degrees of freedom: one for each component, one for all, or given.
    tol, reg_covar, max_iter, n_init, init_params, random_state
        Those of `GaussianMixture`.

    Attributes
    ----------
    weights_, means_ : ndarray
        [K] and [K, D].
    degrees_ : ndarray
        Degrees of freedom, [K].
    scales_ : ndarray
        Scale matrices, [K, D, D]; the covariance is degrees / (degrees - 2) times them.
    converged_, n_iter_, lower_bound_
        As in `GaussianMixture`; `lower_bound_` is that of the result.
    """

    _parameter_constraints: ClassVar[dict] = {
        **COMMON,
        "covariance_type": [StrOptions({"full", "diag", "spherical"})],
        "degrees": [StrOptions({"free", "tied"}), Interval(Real, 0.0, None, closed="neither")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        degrees: float | str = "free",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        init_params: str = "kmeans",
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.degrees = degrees
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state

    def _family(self) -> em.Student:
        return em.Student(self.covariance_type, self.degrees)

    def _takes_nan(self) -> bool:
        return self.covariance_type == "full"

    def _set(self, components: em.Students) -> None:
        self.degrees_ = components.degrees
        with jax.enable_x64(self.means_.dtype == np.float64):
            self.scales_ = np.asarray(self._family().scales(jax.device_put(components)))


class MixtureOfFactorAnalyzers(FamilyMixture):
    """Mixture of factor analysers or of probabilistic PCA (`em.FactorAnalyzers`).

    Parameters
    ----------
    n_components : int, default=1
        K.
    n_factors : int, default=1
        q, the number of factors of each component, less than the number of features.
    noise : {'diagonal', 'isotropic'}, default='diagonal'
        Factor analysis, or probabilistic PCA.
    reg_covar : float, default=1e-6
        The floor of the noise variances.
    tol, max_iter, n_init, init_params, random_state
        Those of `GaussianMixture`.

    Attributes
    ----------
    weights_, means_ : ndarray
        [K] and [K, D].
    loadings_ : ndarray
        [K, D, q].
    noise_variances_ : ndarray
        [K, D], or [K] for isotropic noise.
    converged_, n_iter_, lower_bound_
        As in `GaussianMixture`; `lower_bound_` is that of the result.
    """

    fewest_features: ClassVar[int] = 2
    _parameter_constraints: ClassVar[dict] = {
        **COMMON,
        "n_factors": [Interval(Integral, 1, None, closed="left")],
        "noise": [StrOptions({"diagonal", "isotropic"})],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_factors: int = 1,
        noise: str = "diagonal",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        init_params: str = "kmeans",
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.n_factors = n_factors
        self.noise = noise
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state

    def _family(self) -> em.FactorAnalyzers:
        return em.FactorAnalyzers(self.n_factors, self.noise)

    def _set(self, components: em.Factors) -> None:
        self.loadings_ = components.loadings
        self.noise_variances_ = components.normal.scale**2
