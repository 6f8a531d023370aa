"""The Gaussian mixture with the lowest information criterion of a search."""

import time
import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from lvm_jax import em
from lvm_jax.em.selection import CRITERIA
from lvm_jax.sklearn.base import DTYPES, draw_seed
from lvm_jax.sklearn.fitted_mixture import FittedMixture
from lvm_jax.sklearn.gaussian_mixture import GaussianMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = [
    ("covariance_type", "U9"),
    ("n_components", np.int64),
    ("n_parameters", np.int64),
    ("log_likelihood", np.float64),
    ("aic", np.float64),
    ("bic", np.float64),
    ("icl", np.float64),
    ("converged", np.bool_),
    ("singular", np.bool_),
]


class GaussianMixtureIC(FittedMixture):
    """The Gaussian mixture with the lowest BIC, ICL or AIC over K and covariance types.

    The search of `em.select`: the covariance types share the k-means centres of each K and one
    compiled program for all K. `predict`, `score_samples`, `sample` and the other methods of
    `GaussianMixture` are those of `best_estimator_`.

    Parameters
    ----------
    n_components : int or array-like of int, default=(1, ..., 9)
        Numbers of components, such as `range(1, 10)`.
    covariance_type : array-like of str or 'all', default='all'
        Covariance types of `GaussianMixture`; 'all' are the fourteen of `em.COVARIANCE_FAMILIES`.
    criterion : {'bic', 'icl', 'aic'}, default='bic'
        The best fit has the lowest. A singular fit, one of whose components has a variance that is
        mostly `reg_covar`, is not the best unless all are singular.
    tol : float, default=1e-6
        Stop when the mean log-likelihood (nats per sample) changes by less.
    reg_covar : float, default=1e-6
        Added to every variance.
    max_iter : int, default=1000
        Maximum number of EM steps of a start.
    n_init : int, default=5
        Number of starts of each fit.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        Method of initialisation.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.

    Attributes
    ----------
    best_estimator_ : GaussianMixture
        The fit with the lowest criterion.
    criterion_table_ : structured ndarray
        A row for each fit: covariance_type, n_components, n_parameters, log_likelihood (total, in
        nats), aic, bic, icl, converged and singular.
    n_components_, covariance_type_, criterion_value_ : int, str, float
        Those of the best fit.
    weights_, means_, covariances_, precisions_ : ndarray
        Those of the best fit.
    n_features_in_ : int
        Number of columns of X in `fit`.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "covariance_type": ["array-like", StrOptions({"all"})],
        "criterion": [StrOptions(set(CRITERIA))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(em.STARTS))],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: Any = (1, 2, 3, 4, 5, 6, 7, 8, 9),
        *,
        covariance_type: Any = "all",
        criterion: str = "bic",
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 5,
        init_params: str = "kmeans",
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.criterion = criterion
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit every K in every covariance type; a weight of 2 is equivalent to a repeated row."""
        began = time.perf_counter()
        X = validate_data(
            self, X, dtype=DTYPES, ensure_min_samples=2, ensure_all_finite="allow-nan"
        )
        sizes, types = np.atleast_1d(self.n_components).tolist(), self.covariance_type
        types = list(em.COVARIANCE_FAMILIES if isinstance(types, str) else types)
        if sizes and X.shape[0] < max(sizes):
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {max(sizes)}, "
                f"n_samples = {X.shape[0]}"
            )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        key = jax.random.key(draw_seed(self.random_state))
        with jax.enable_x64(X.dtype == np.float64), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x: columns .* are constant", UserWarning)
            found = em.select(
                key, X, sizes, families=types, criterion=self.criterion,
                sample_weight=sample_weight, throw=False, tolerance=self.tol,
                regularization=self.reg_covar, max_steps=self.max_iter, num_restarts=self.n_init,
                start=self.init_params,
            )  # fmt: skip
            self._take(found, X.dtype, began)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, then return the most probable component of each sample."""
        return self.fit(X, y, sample_weight).predict(X)

    def _take(self, found: em.Selection, dtype: Any, began: float) -> None:
        """Set the attributes from a search; refuse one whose best fit has failed."""
        best = GaussianMixture(
            found.num_components, covariance_type=found.family, tol=self.tol,
            reg_covar=self.reg_covar, max_iter=self.max_iter, n_init=self.n_init,
            init_params=self.init_params, random_state=self.random_state,
        )  # fmt: skip
        best._online, best.n_features_in_ = None, self.n_features_in_
        if hasattr(self, "feature_names_in_"):
            best.feature_names_in_ = self.feature_names_in_
        best._take(em.MixtureFit(found.mixture, found.info), dtype, began)
        self.best_estimator_ = best
        self.n_components_, self.covariance_type_ = found.num_components, found.family
        own = found.criteria[found.num_components]
        self.criterion_value_ = float(getattr(own, self.criterion))
        self.criterion_table_ = np.array([row_of(one) for one in found.table], COLUMNS)
        for name in ("weights_", "means_", "covariances_", "precisions_"):
            setattr(self, name, getattr(best, name))

    def _current(self) -> em.Mixture:
        return self.best_estimator_._current()

    def plot(self, ax: "Axes | None" = None) -> "Figure":
        """The criterion against K, a line for each covariance type, the best marked."""
        from lvm_jax import plotting

        check_is_fitted(self)
        values: dict[str, dict[int, float]] = {}
        for row in self.criterion_table_:
            value = np.nan if row["singular"] else float(row[self.criterion])
            values.setdefault(str(row["covariance_type"]), {})[int(row["n_components"])] = value
        return plotting.selection(values, self.criterion.upper(), ax=ax)


def row_of(one: em.Candidate) -> tuple[Any, ...]:
    """A row of `criterion_table_`."""
    c = one.criteria
    converged = one.fit.info.outcome == em.Outcome.CONVERGED
    numbers = (c.num_parameters, c.log_likelihood, c.aic, c.bic, c.icl)
    return one.family, one.num_components, *numbers, converged, one.is_singular
