"""Gaussian mixtures with scikit-learn's parameters, attributes, warnings and errors."""

import time
import warnings
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from lvm_jax import em
from lvm_jax._core.warn import warn
from lvm_jax.em import loop
from lvm_jax.em.labels import check_labels
from lvm_jax.em.preparation import Request, conclude, prepare
from lvm_jax.em.sources import as_source
from lvm_jax.sklearn import arrays
from lvm_jax.sklearn.base import DTYPES, draw_seed
from lvm_jax.sklearn.fitted_mixture import FittedMixture
from lvm_jax.sklearn.streamed import StreamedFits

ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)


class GaussianMixture(StreamedFits, FittedMixture):
    """Gaussian mixture by EM, with the interface of `sklearn.mixture.GaussianMixture`.

    The parameters and attributes have scikit-learn's meaning. Differences: one compiled program
    runs all `n_init` starts; k-means is lvm_jax's; `k-means++` and `random_from_data` assign
    each point to its nearest seed; `fit` accepts `sample_weight`; and `icl` is available. NaN is an
    entry missing at random: every method uses the likelihood of the observed entries, and `impute`
    computes the expectation of the missing ones. The computation uses the dtype of X (float32 or
    float64).

    Parameters
    ----------
    n_components : int, default=1
        K.
    covariance_type : {'full', 'tied', 'diag', 'spherical'} or a mclust name, default='full'
        Shape of the covariances. Names of `em.COVARIANCE_FAMILIES`, such as 'VEV', have the arrays
        of 'diag' (the last letter is I) or 'full'; VII, VVI, EEE and VVV are scikit-learn's.
    tol : float, default=1e-3
        Stop when the mean log-likelihood (nats per sample) changes by less.
    reg_covar : float, default=1e-6
        Added to every variance.
    max_iter : int, default=100
        Maximum number of EM steps; 0 keeps the initial parameters.
    n_init : int, default=1
        Number of starts, of which `fit` keeps the best.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        Method of initialisation.
    weights_init, means_init, precisions_init : array-like, default=None
        Initial parameters, in scikit-learn's shapes.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.
    warm_start : bool, default=False
        Start the next `fit` from the parameters of the previous fit.
    verbose : int, default=0
        Print progress.
    verbose_interval : int, default=10
        Steps between two progress lines.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_ : ndarray
        The fitted mixture, in scikit-learn's shapes.
    converged_ : bool
        Whether the best start converged.
    n_iter_ : int
        Number of EM steps of the best start.
    lower_bound_ : float
        Mean log-likelihood per sample at the last E-step of the best start.
    lower_bounds_ : list of float
        Mean log-likelihood per sample at each E-step of the best start.
    n_features_in_ : int
        Number of columns of X in `fit`.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions({*em.GAUSSIANS, *em.COVARIANCE_FAMILIES})],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(em.STARTS))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, labels: Any = None) -> Self:
        """Fit by EM. y is ignored, as in scikit-learn.

        A `sample_weight` [n_samples] of 2 is equivalent to duplicating the row. `labels`
        [n_samples] are the known components of some samples, -1 for the others: their
        responsibilities are fixed, and `lower_bound_` is the likelihood of samples and labels.
        X may be data that stream, as in `em.fit`, such as a memory map or the path of a file;
        labels are for an array.
        """
        if labels is None and (source := as_source(X)) is not None:
            self._fit_source(source, sample_weight)
        else:
            self.fit_predict(X, y, sample_weight, labels)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, labels: Any = None
    ) -> np.ndarray:
        """Fit, then return the most probable component of each sample: its label if it has one."""
        if (source := as_source(X)) is not None:
            if labels is not None:
                raise TypeError("labels: expected None with data that stream")
            self._fit_source(source, sample_weight)
            return self.predict(source)
        self._online = None
        X = validate_data(
            self, X, dtype=DTYPES, ensure_min_samples=2, ensure_all_finite="allow-nan"
        )
        if X.shape[0] < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {X.shape[0]}"
            )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        given = arrays.Given(self.weights_init, self.means_init, self.precisions_init)
        sizes = (self.n_components, self.covariance_type, X.shape[1])
        given = arrays.check_given(given, *sizes, X.dtype)
        seed = draw_seed(self.random_state)
        with jax.enable_x64(X.dtype == np.float64), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x: columns .* are constant", UserWarning)
            run = self._run if labels is None else partial(self._run_labelled, np.asarray(labels))
            return run(jax.random.key(seed), X, given, sample_weight)

    def _initial(self, key: jax.Array, X: np.ndarray, given: Any, weight: Any) -> Any:
        """The initial mixture, or `init_params`."""
        if self._warm():
            return self._current()
        if all(value is not None for value in given):
            return arrays.from_arrays(given, self.covariance_type)
        if all(value is None for value in given):
            return self.init_params
        start = em.initialize(
            key, X, self.n_components, self.covariance_type, start=self.init_params,
            num_restarts=self.n_init, regularization=self.reg_covar, sample_weight=weight,
        )  # fmt: skip
        return arrays.override(start, given, self.covariance_type)

    def _warm(self) -> bool:
        return self.warm_start and hasattr(self, "converged_")

    def _run(self, key: jax.Array, X: np.ndarray, given: Any, weight: Any) -> np.ndarray:
        """Fit, set the attributes, and return the most probable component of each sample."""
        began = time.perf_counter()
        prepared = prepare(key, Request(
            X, self.n_components, self.covariance_type, self._initial(key, X, given, weight),
            self.n_init, self.reg_covar, None, weight, self.tol,
        ))  # fmt: skip
        state, trace, conclusion = loop.run(
            prepared.problem,
            self.max_iter,
            self._print_step if self.verbose else None,
            self.verbose_interval,
            assign=True,
            # As in scikit-learn, a warm start may converge at its first step.
            previous_objective=self.lower_bound_ if self._warm() else -np.inf,
        )
        self._take(conclude(state, trace, conclusion, prepared), X.dtype, began)
        labels = np.asarray(conclusion.labels)
        kept = labels[: len(X)] if prepared.places is None else labels[prepared.places]
        return kept.astype(np.int64)

    def _run_labelled(
        self, labels: np.ndarray, key: jax.Array, X: np.ndarray, given: Any, weight: Any
    ) -> np.ndarray:
        """`_run` with known components."""
        began = time.perf_counter()
        labels = check_labels(labels, len(X), self.n_components, weight, "labels")
        fit = em.fit(
            key, X, self.n_components, self.covariance_type, y=labels,
            start=self._initial(key, X, given, weight), num_restarts=self.n_init,
            max_steps=self.max_iter, tolerance=self.tol, regularization=self.reg_covar,
            sample_weight=weight, on_progress=self._print_step if self.verbose else None,
            throw=False,
        )  # fmt: skip
        self._take(fit, X.dtype, began)
        return np.where(labels >= 0, labels, np.asarray(fit.mixture.assign(X))).astype(np.int64)

    def _take(self, fit: em.MixtureFit, dtype: Any, began: float) -> None:
        """Set the attributes from a fit; refuse a failed one."""
        info, leaves = fit.info, jax.tree.leaves(fit.mixture.components)
        failed = info.outcome in (em.Outcome.DEGENERATE, em.Outcome.DIVERGED)
        if failed or not all(np.isfinite(leaf).all() for leaf in leaves):
            advice = " The numerical accuracy can also be improved by passing float64 data."
            raise ValueError(ILL_DEFINED + (advice if dtype == np.float32 else ""))
        self.converged_ = info.outcome == em.Outcome.CONVERGED
        self.n_iter_ = info.num_steps
        self.lower_bound_: float = float(info.restart_objectives[info.best_restart])
        self.lower_bounds_ = info.trace.tolist()
        self._report(time.perf_counter() - began)
        self._set(fit.mixture)

    def _report(self, seconds: float) -> None:
        """Print the outcome, if verbose, and warn if the fit did not converge."""
        if self.verbose:
            ended = "converged" if self.converged_ else "did not converge"
            print(  # noqa: T201
                f"Initialization {ended}. time lapse {seconds:.5f}s\t "
                f"lower bound {self.lower_bound_:.5f}."
            )
        if not self.converged_ and self.max_iter > 0:
            warn(
                "Best performing initialization did not converge. Try different init parameters, "
                "or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
            )

    def _print_step(self, progress: dict[str, Any]) -> None:
        bound = f"\t best lower bound {progress['objective']:.5f}" if self.verbose >= 2 else ""
        print(f"  Iteration {progress['step']}{bound}")  # noqa: T201

    def _set(self, mixture: em.Mixture) -> None:
        """Set the attributes from the mixture."""
        mixture = jax.tree.map(np.asarray, mixture)
        self.weights_ = np.exp(mixture.log_weights)
        self.weights_ /= self.weights_.sum()
        self.means_ = np.asarray(mixture.means)
        self.covariances_, self.precisions_, self.precisions_cholesky_ = arrays.covariances(
            mixture.components.scale, self.covariance_type
        )
        self._mixture = mixture
        self._fitted = (self.weights_, self.means_, self.precisions_cholesky_)

    def _current(self) -> em.Mixture:
        """The fitted mixture, rebuilt from the attributes if the user has replaced any."""
        current = (self.weights_, self.means_, self.precisions_cholesky_)
        fitted = getattr(self, "_fitted", (None,) * 3)
        if all(now is then for now, then in zip(current, fitted, strict=True)):
            return self._mixture
        return arrays.from_arrays(arrays.Given(*map(np.asarray, current)), self.covariance_type)
