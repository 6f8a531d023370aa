"""Variational Bayes for Gaussian mixtures, with the interface of scikit-learn."""

import time
import warnings
from numbers import Real
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from lvm_jax import em
from lvm_jax.em import loop
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.mixing import WEIGHTS
from lvm_jax.em.normal_wishart import NormalWishart, VariationalPrior
from lvm_jax.em.plug_in import Posterior
from lvm_jax.em.preparation import Request, conclude
from lvm_jax.em.variational import set_up
from lvm_jax.sklearn import arrays, bayesian_priors
from lvm_jax.sklearn.base import DTYPES, draw_seed
from lvm_jax.sklearn.fitted_mixture import FittedDensity
from lvm_jax.sklearn.gaussian_mixture import ILL_DEFINED, GaussianMixture

KINDS = {"dirichlet_distribution": "dirichlet", "dirichlet_process": "dirichlet_process"}
FITTED = (
    "weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_",
    "precisions_cholesky_",
)  # fmt: skip


class BayesianGaussianMixture(FittedDensity):
    """Variational Gaussian mixture with the interface of scikit-learn's class of this name.

    The parameters and attributes have scikit-learn's meaning, and every step computes the same
    posterior. Differences: the bounds have all constants, so that they are lower bounds of
    log p(X); one compiled program runs all `n_init` starts; k-means is lvm_jax's; `k-means++`
    and `random_from_data` assign each point to its nearest seed; NaN is an entry missing at
    random. The computation uses the dtype of X (float32 or float64).

    The model of all types has a Wishart law of a full precision matrix for each component;
    covariance_type is the shape of the scale matrix of its posterior. `em.variational` has tied,
    diagonal and spherical models, predictive densities and samples of mixtures.

    Parameters
    ----------
    n_components : int, default=1
        K; components that the data do not need get a small weight.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.
    tol : float, default=1e-3
        Stop when the lower bound (nats, of all samples) changes by less.
    reg_covar : float, default=1e-6
        Added to every variance.
    max_iter : int, default=100
        Maximum number of steps; 0 keeps the initial parameters.
    n_init : int, default=1
        Number of starts, of which `fit` keeps the best.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        Method of initialisation.
    weight_concentration_prior_type : {'dirichlet_process', 'dirichlet_distribution'}
        Prior of the weights: the sticks of a Dirichlet process (default), or a Dirichlet law.
    weight_concentration_prior : float, default=None
        Concentration of the Dirichlet process, or of each component; 1 / K if None.
    mean_precision_prior : float, default=None
        Strength of the prior of the means, in samples; 1 if None.
    mean_prior : array-like of shape (n_features,), default=None
        Prior mean; the mean of X if None.
    degrees_of_freedom_prior : float, default=None
        Degrees of freedom of the Wishart prior; D if None.
    covariance_prior : float or array-like, default=None
        Scale of the Wishart prior, in the shape of `covariance_type`; the covariance of X if None.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `sample`.
    warm_start : bool, default=False
        Start the next `fit` from the posterior of the previous fit.
    verbose : int, default=0
        Print progress.
    verbose_interval : int, default=10
        Steps between two progress lines.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Expected weights.
    means_, covariances_, precisions_, precisions_cholesky_ : ndarray
        Means m_k of the posterior, E[Lambda_k]^-1 and E[Lambda_k], in scikit-learn's shapes.
    weight_concentration_, mean_precision_, degrees_of_freedom_ : ndarray
        The other parameters of the posterior; the first is a tuple for a Dirichlet process.
    weight_concentration_prior_, mean_precision_prior_, mean_prior_ : float or ndarray
        The priors of the weights and of the means.
    degrees_of_freedom_prior_, covariance_prior_ : float or ndarray
        The prior of the precisions.
    converged_ : bool
        Whether the best start converged.
    n_iter_ : int
        Number of steps of the best start.
    lower_bound_ : float
        Lower bound of log p(X) after the last step of the best start, in nats.
    lower_bounds_ : list of float
        Lower bound after each step of the best start.
    n_features_in_ : int
        Number of columns of X in `fit`.
    """

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: GaussianMixture._parameter_constraints[name]
            for name in (
                "n_components", "covariance_type", "tol", "reg_covar", "max_iter", "n_init",
                "init_params", "random_state", "warm_start", "verbose", "verbose_interval",
            )
        },
        "weight_concentration_prior_type": [StrOptions(set(KINDS))],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [
            None, "array-like", Interval(Real, 0.0, None, closed="neither"),
        ],
    }  # fmt: skip

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
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
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None) -> Self:
        """Compute the posterior of the mixture."""
        self.fit_predict(X, y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, then return the most probable component of each sample."""
        X = validate_data(
            self, X, dtype=DTYPES, ensure_min_samples=2, ensure_all_finite="allow-nan"
        )
        if X.shape[0] < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {X.shape[0]}"
            )
        priors = bayesian_priors.read(self, X)
        seed = draw_seed(self.random_state)
        with jax.enable_x64(X.dtype == np.float64), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x: columns .* are constant", UserWarning)
            return self._run(jax.random.key(seed), X, priors)

    def _family(self) -> NormalWishart:
        kind = KINDS[self.weight_concentration_prior_type]
        return NormalWishart(em.GAUSSIANS[self.covariance_type], WEIGHTS[kind], restricted=True)

    def _run(self, key: jax.Array, X: np.ndarray, priors: bayesian_priors.Priors) -> np.ndarray:
        """Fit, set the attributes, and return the most probable component of each sample."""
        began = time.perf_counter()
        warm = self.warm_start and hasattr(self, "converged_")
        request = Request(
            X, self.n_components, self._family(), self._current() if warm else self.init_params,
            self.n_init, self.reg_covar, None, None, self.tol / len(X),
        )  # fmt: skip
        alpha = np.full(self.n_components, float(priors.concentration))
        prepared, _ = set_up(key, request, priors.components(self.reg_covar), alpha)
        state, trace, conclusion = loop.run(
            prepared.problem,
            self.max_iter,
            self._print_step if self.verbose else None,
            self.verbose_interval,
            assign=True,
            previous_objective=self.lower_bound_ / len(X) if warm else -np.inf,
        )
        self._take(conclude(state, trace, conclusion, prepared), X, began)
        self._set_priors(priors)
        labels = np.asarray(conclusion.labels)
        kept = labels[: len(X)] if prepared.places is None else labels[prepared.places]
        return kept.astype(np.int64)

    def _take(self, fit: em.MixtureFit, X: np.ndarray, began: float) -> None:
        """Set the attributes of a fit; refuse a failed one."""
        info, leaves = fit.info, jax.tree.leaves(fit.mixture.components)
        failed = info.outcome in (em.Outcome.DEGENERATE, em.Outcome.DIVERGED)
        if failed or not all(np.isfinite(leaf).all() for leaf in leaves):
            raise ValueError(ILL_DEFINED)
        self.converged_ = info.outcome == em.Outcome.CONVERGED
        self.n_iter_ = info.num_steps
        self.lower_bound_: float = float(info.restart_objectives[info.best_restart]) * len(X)
        self.lower_bounds_ = (info.trace * len(X)).tolist()
        self._report(time.perf_counter() - began)
        self._set(fit.mixture)

    # The progress and the warning of GaussianMixture.
    _report: Any = GaussianMixture._report
    _print_step: Any = GaussianMixture._print_step

    def _set_priors(self, priors: bayesian_priors.Priors) -> None:
        self.weight_concentration_prior_ = priors.concentration
        self.mean_precision_prior_ = priors.strength
        self.mean_prior_ = priors.mean
        self.degrees_of_freedom_prior_ = priors.degrees
        self.covariance_prior_ = priors.covariance

    def _set(self, mixture: em.Mixture) -> None:
        """Set the attributes of the posterior."""
        mixture = jax.tree.map(np.asarray, mixture)
        gaussians, strength, degrees, concentration = mixture.components
        weights = np.asarray(self._family().weights.mean(concentration))[: len(strength)]
        self.weights_ = weights / weights.sum()
        self.means_ = np.asarray(mixture.means)
        self.mean_precision_ = strength
        self.degrees_of_freedom_ = degrees[0] if self.covariance_type == "tied" else degrees
        pair = concentration.ndim == 2
        self.weight_concentration_ = tuple(concentration.T) if pair else concentration
        self.covariances_, self.precisions_, self.precisions_cholesky_ = arrays.covariances(
            gaussians.scale, self.covariance_type
        )
        self._mixture = mixture
        self._fitted = tuple(getattr(self, name) for name in FITTED)

    def _current(self) -> em.Mixture:
        """The fitted posterior, rebuilt from the attributes if the user has replaced any."""
        current = tuple(getattr(self, name) for name in FITTED)
        fitted = getattr(self, "_fitted", (None,) * len(FITTED))
        if all(now is then for now, then in zip(current, fitted, strict=True)):
            return self._mixture
        concentration, strength, means, degrees, factors = map(np.asarray, current)
        origin, family = means.mean(0), self._family()
        scale = arrays.scale_of(factors, self.covariance_type)
        degrees = np.broadcast_to(degrees, strength.shape)
        alpha = concentration.T if concentration.ndim == 2 else concentration
        gaussians = Gaussians(*jax.device_put((means - origin, scale)))
        components = Posterior(gaussians, *jax.device_put((strength, degrees, alpha)))
        settings = em.Settings(0.0, VariationalPrior(None, jnp.ones(len(means))))  # type: ignore[arg-type]
        log_weights = family.log_weights(components.strength, components, settings)
        return em.Mixture(log_weights, components, jax.device_put(origin), family)

    def _sampled(self) -> em.Mixture:
        """The Gaussian mixture of the expected parameters."""
        given = arrays.Given(self.weights_, self.means_, self.precisions_cholesky_)
        return arrays.from_arrays(given, self.covariance_type)
