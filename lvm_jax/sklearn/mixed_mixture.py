"""Mixtures of mixed columns: categories, counts, positive and real numbers."""

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from lvm_jax import em
from lvm_jax._core.warn import warn
from lvm_jax.em.assigned import assigned, clusters
from lvm_jax.em.labels import check_labels, matched
from lvm_jax.sklearn.base import draw_seed
from lvm_jax.sklearn.fitted_mixture import FittedMixture
from lvm_jax.sklearn.mixed_columns import describe


class MixedMixture(FittedMixture):
    """Mixture with a family for each column, by EM: latent classes, counts and numbers together.

    Columns are independent given the component, except for those of one 'full' or 'tied' block. X
    is a data frame or an array. Text and categories have levels, which `fit` stores: another level
    is an error of the methods that follow. NaN and None are entries missing at random. The
    computation is in float64.

    Parameters
    ----------
    n_components : int, default=1
        K.
    columns : dict, list or None, default=None
        The family of each column: a dict of a family's name to its columns (names or positions), or
        a list with a name for each column. Names are 'categorical', 'bernoulli', 'poisson',
        'negative_binomial', 'multinomial', 'exponential', 'gamma', 'von_mises_fisher', 'gaussian'
        (or 'diag'), 'full', 'tied' and 'spherical'; an `em.ExponentialFamily` is accepted too.
        None: 'categorical' for text, booleans and categories, 'gaussian' for numbers.
    tol : float, default=1e-6
        Stop when the mean log-likelihood (nats per sample) changes by less.
    reg_covar : float, default=1e-6
        Added to every variance of Gaussian columns.
    max_iter : int, default=1000
        Maximum number of EM steps.
    n_init : int, default=10
        Number of starts, of which `fit` keeps the best.
    init_params : {'kmeans', 'random'}, default='kmeans'
        k-means on standardised numbers and indicators of levels, or random responsibilities.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        The weights of the components.
    means_ : ndarray of shape (n_components, n_features)
        E[x | z=k] of each column; of the codes of the levels for categories.
    levels_ : dict
        The levels of each categorical column, in the order of their codes.
    probabilities_ : dict
        p(level | z=k) of each categorical column, [n_components, number of levels].
    boundary_ : tuple of str
        Estimates on the boundary, such as probabilities of 0.
    mixture_ : em.Mixture
        The fitted mixture, of numbers and codes.
    converged_, n_iter_, lower_bound_, lower_bounds_ : bool, int, float, list of float
        As of `GaussianMixture`.
    n_features_in_ : int
        Number of columns of X in `fit`.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "columns": [dict, list, tuple, None],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({"kmeans", "random"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        columns: Any = None,
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 10,
        init_params: str = "kmeans",
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.columns = columns
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, labels: Any = None) -> Self:
        """Fit by EM. y is ignored, as in scikit-learn.

        `labels` [n_samples] are the known components of some samples, -1 for the others: their
        responsibilities are fixed. A `sample_weight` of 2 is equivalent to duplicating the row.
        """
        table = validate_data(self, X, dtype=None, ensure_all_finite=False, ensure_min_samples=2)
        if len(table) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {len(table)}"
            )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, table, dtype=np.float64, ensure_non_negative=True
            )
        names = list(getattr(self, "feature_names_in_", range(table.shape[1])))
        self._columns = describe(self.columns, X, table, names)
        x = self._columns.encode(table)
        with jax.enable_x64(True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x: columns .* are constant", UserWarning)
            self._take(self._run(x, sample_weight, labels))
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, then return the most probable component of each sample."""
        return self.fit(X, y, sample_weight).predict(X)

    def _run(self, x: np.ndarray, weight: Any, labels: Any) -> em.MixtureFit:
        family, seed = self._columns.product(x), draw_seed(self.random_state)
        start: Any = self.init_params
        if labels is not None:
            labels = check_labels(labels, len(x), self.n_components, weight, "labels")
        if start == "kmeans":
            start = self._starts(family, x, weight, seed)
            if labels is not None:
                start = matched(start, x, labels, weight)
        return em.fit(
            jax.random.key(seed), x, self.n_components, family, start=start,
            num_restarts=self.n_init, max_steps=self.max_iter, tolerance=self.tol,
            regularization=self.reg_covar, sample_weight=weight, y=labels, throw=False,
        )  # fmt: skip

    def _starts(self, family: em.Product, x: np.ndarray, weight: Any, seed: int) -> em.Mixture:
        """Mixtures of the clusters of `n_init` runs of k-means."""
        points, number = self._columns.spread_out(x), self.n_components
        found = clusters(jax.random.key(seed), points, number, self.n_init, weight)
        filled, sizes = self._columns.filled(x), (number, weight, self.reg_covar)
        return assigned(family, filled, found, *sizes)

    def _take(self, fit: em.MixtureFit) -> None:
        """Set the attributes from a fit; refuse a failed one."""
        info = fit.info
        if info.outcome in (em.Outcome.DEGENERATE, em.Outcome.DIVERGED):
            raise ValueError(
                f"Fitting the mixture model failed ({info.outcome.name.lower()}): raise reg_covar, "
                "or decrease n_components"
            )
        self.mixture_ = jax.tree.map(np.asarray, fit.mixture)
        self.weights_ = np.asarray(fit.mixture.weights)
        self.means_ = np.asarray(fit.mixture.means)
        self.levels_ = dict(self._columns.levels)
        self.probabilities_ = self._probabilities()
        self.boundary_ = info.boundary
        self.converged_ = info.outcome == em.Outcome.CONVERGED
        self.n_iter_ = info.num_steps
        self.lower_bound_: float = float(info.restart_objectives[info.best_restart])
        self.lower_bounds_ = info.trace.tolist()
        if not self.converged_:
            warn(
                "Best performing initialization did not converge. Increase max_iter or tol.",
                ConvergenceWarning,
            )

    def _probabilities(self) -> dict[Any, np.ndarray]:
        found = {}
        for (family, columns), part in zip(
            self.mixture_.family.blocks, self.mixture_.components, strict=True
        ):
            if isinstance(family, em.Categorical):
                ends = np.cumsum(family.sizes(len(columns)))[:-1]
                for d, own in zip(columns, np.split(part, ends, axis=1), strict=True):
                    found[self._columns.names[d]] = own
        return found

    def _current(self) -> em.Mixture:
        return self.mixture_

    def _apply(self, method: str, X: Any) -> np.ndarray:
        check_is_fitted(self)
        table = validate_data(self, X, dtype=None, ensure_all_finite=False, reset=False)
        with jax.enable_x64(True):
            mixture = jax.device_put(self.mixture_)
            return np.asarray(getattr(mixture, method)(self._columns.encode(table)))

    def impute(self, X: Any) -> np.ndarray:
        """X with E[x_missing | x_observed] for missing numbers, and the most probable levels."""
        return self._columns.decode(self._apply("impute", X))

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw (X, y) with the levels of the data, sorted by component."""
        X, y = super().sample(n_samples)
        return self._columns.decode(X), y
