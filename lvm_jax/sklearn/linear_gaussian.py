"""Probabilistic PCA and factor analysis with scikit-learn's parameters, attributes and errors."""

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from lvm_jax._core.outcome import Outcome
from lvm_jax._core.warn import warn
from lvm_jax.models import factor_analysis, ppca
from lvm_jax.models.factor_analysis import check_columns
from lvm_jax.sklearn.base import LinearGaussianEstimator
from lvm_jax.sklearn.rotation import ROTATIONS, canonical, rotate


class ProbabilisticPCA(LinearGaussianEstimator):
    """Probabilistic PCA, z ~ N(0, I), x | z ~ N(W z + mean_, s^2 I), by maximum likelihood.

    Likelihoods, covariance and noise equal those of `sklearn.decomposition.PCA`, with the divisor
    N - 1. Differences: `transform` returns the posterior means E[z | x], not projections;
    `n_components` leaves at least one dimension for the noise; `sample` is available; and with
    fewer samples than features s^2 is the mean of all n_features - n_components discarded
    eigenvalues, which maximises the likelihood (PCA omits those that are zero). The fit is in
    closed form, on the host in float64; the results have the dtype of X.

    Parameters
    ----------
    n_components : int, default=None
        L; None means the largest number that leaves one dimension for the noise.
    random_state : int, RandomState instance or None, default=None
        Seed of `sample`.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Principal directions, of length 1; the largest entry of each is positive.
    explained_variance_ : ndarray of shape (n_components,)
        Variance of the data along the principal directions, including s^2:
        W = components_.T (explained_variance_ - s^2)^1/2.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        `explained_variance_` as a share of the total variance.
    noise_variance_ : float
        s^2, the mean of the discarded eigenvalues.
    mean_ : ndarray of shape (n_features,)
        Mean of the data.
    n_components_, n_samples_, n_features_in_ : int
        L, N and D of the fit.

    References
    ----------
    Tipping and Bishop (1999), Probabilistic principal component analysis, equations 6-8.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(self, n_components: int | None = None, *, random_state: Any = None) -> None:
        self.n_components = n_components
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit in closed form."""
        X, self.n_components_ = self._read(X)
        with jax.enable_x64(X.dtype == np.float64):
            theta = jax.tree.map(np.asarray, _fit(ppca, X, self.n_components_))
        self.n_samples_ = X.shape[0]
        unbiased = self.n_samples_ / (self.n_samples_ - 1)
        lengths = np.linalg.norm(theta.loadings, axis=0)
        # A column of W is zero if its eigenvalue equals s^2; its direction is then arbitrary.
        self.components_ = (theta.loadings / np.where(lengths > 0, lengths, 1)).T
        self.noise_variance_ = np.exp(2 * theta.log_noise) * X.dtype.type(unbiased)
        self.explained_variance_ = lengths**2 * X.dtype.type(unbiased) + self.noise_variance_
        discarded = X.shape[1] - self.n_components_
        total = self.explained_variance_.sum() + discarded * self.noise_variance_
        self.explained_variance_ratio_ = self.explained_variance_ / total
        self.mean_ = theta.offset
        return self

    @property
    def _loadings(self) -> np.ndarray:
        signal = np.maximum(self.explained_variance_ - self.noise_variance_, 0)
        return self.components_.T * np.sqrt(signal)


class FactorAnalysis(LinearGaussianEstimator):
    """Factor analysis, z ~ N(0, I), x | z ~ N(W z + mean_, Psi), Psi diagonal, by EM.

    The parameters and attributes have the meaning of `sklearn.decomposition.FactorAnalysis`.
    Differences: the fit is EM (Rubin and Thayer) from the PPCA optimum on standardised columns, so
    that the units of X do not matter. Its steps are cheaper and smaller, and the same `tol` stops
    it earlier. A noise variance that converges to zero and a constant column are errors, because
    the likelihood has no maximum there. `inverse_transform` and `sample` are available. The
    computation uses the dtype of X (float32 or float64).

    Parameters
    ----------
    n_components : int, default=None
        L, less than the number of features; None means the Ledermann bound, the largest L with no
        more free parameters than a full covariance (at least 1).
    tol : float, default=1e-2
        Stop when a step increases the total log-likelihood by less [nats].
    max_iter : int, default=1000
        Maximum number of EM steps.
    rotation : {'varimax', 'quartimax'}, default=None
        Rotate the loadings to simple structure; None makes the posterior covariance diagonal.
    random_state : int, RandomState instance or None, default=None
        Seed of `sample`.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        W^T, the loadings; the largest entry of each row is positive.
    noise_variance_ : ndarray of shape (n_features,)
        The diagonal of Psi.
    mean_ : ndarray of shape (n_features,)
        Mean of the data.
    loglike_ : list of float
        Total log-likelihood [nats] after each EM step, for the first 65,536 steps.
    n_iter_ : int
        Number of EM steps.
    n_features_in_ : int
        D of the fit.

    References
    ----------
    Rubin and Thayer (1982), EM algorithms for ML factor analysis; Kaiser (1958) for the rotations.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "rotation": [StrOptions(set(ROTATIONS)), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = 1e-2,
        max_iter: int = 1000,
        rotation: str | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.rotation = rotation
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit by EM."""
        X, num_components = self._read(X)
        check_columns(X)
        options = {"max_steps": self.max_iter, "tolerance": self.tol / len(X), "throw": False}
        with jax.enable_x64(X.dtype == np.float64):
            theta, info = _fit(factor_analysis, X, num_components, **options)
            theta = jax.tree.map(np.asarray, theta)
        self._report(info.outcome, X, np.exp(2 * theta.log_noise))
        noise = np.exp(2 * theta.log_noise.astype(np.float64))
        loadings = canonical(theta.loadings.astype(np.float64), noise)
        if self.rotation is not None:
            loadings = rotate(loadings, self.rotation)
        self.components_ = loadings.T.astype(X.dtype)
        self.noise_variance_ = noise.astype(X.dtype)
        self.mean_ = theta.offset
        self.loglike_ = (len(X) * info.trace).tolist()
        self.n_iter_ = info.num_steps
        return self

    def _report(self, outcome: Outcome, X: np.ndarray, noise: np.ndarray) -> None:
        """Raise ValueError for a failed fit; warn at the step limit."""
        if outcome >= Outcome.DEGENERATE:
            smallest = int((noise / X.var(0)).argmin())
            advice = ", or pass float64 data" if X.dtype == np.float32 else ""
            raise ValueError(
                f"Fitting the factor analysis failed: the noise variance of column {smallest} "
                "falls to zero (a Heywood case), where the likelihood has no maximum. Lower "
                "n_components, raise tol, use more samples, or drop columns that others "
                f"determine{advice}."
            )
        if outcome == Outcome.MAX_STEPS:
            warn(
                f"FactorAnalysis did not converge in {self.max_iter} steps; increase max_iter or "
                "tol.",
                ConvergenceWarning,
            )

    def _default_components(self, most: int, num_features: int) -> int:
        """The largest L with (D - L)^2 >= D + L."""
        bound = int(num_features + 0.5 - np.sqrt(2 * num_features + 0.25))
        return max(min(bound, most), 1)

    @property
    def _loadings(self) -> np.ndarray:
        return self.components_.T


def _fit(fit: Any, X: np.ndarray, num_components: int, **options: Any) -> Any:
    """The model's fit; after validation its only ValueError is for data of too low a rank."""
    try:
        return fit(X, num_components, **options)
    except ValueError as error:
        raise ValueError(
            f"X: expected samples that span more than n_components = {num_components} dimensions, "
            "or the likelihood has no bound; lower n_components or use more distinct samples"
        ) from error
