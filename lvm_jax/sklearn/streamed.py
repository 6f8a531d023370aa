"""`fit` of data that stream, and `partial_fit`, for GaussianMixture."""

import time
import warnings
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import _check_sample_weight, validate_data

from lvm_jax import em
from lvm_jax.em import streaming
from lvm_jax.em.fit import fit_stream
from lvm_jax.em.preparation import Request
from lvm_jax.em.sources import Source
from lvm_jax.sklearn import arrays
from lvm_jax.sklearn.base import DTYPES, draw_seed


class StreamedFits:
    """The part of GaussianMixture that reads its data in batches."""

    _online: em.Online | None

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The attributes of GaussianMixture."""

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Update by online EM with a batch (`em.partial_fit`); `fit` begins again.

        The attributes are those of the averaged estimate once `n_components` distinct rows were
        seen; `lower_bound_` is the mean log-likelihood of the last step's rows before it, and
        `n_iter_` counts the batches.
        """
        online = getattr(self, "_online", None)
        if any(v is not None for v in (self.weights_init, self.means_init, self.precisions_init)):
            raise ValueError(
                "partial_fit starts from init_params; weights_init, means_init and precisions_init "
                "have to be None"
            )
        X = validate_data(
            self, X, dtype=DTYPES, reset=online is None, ensure_all_finite="allow-nan"
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        if online is None:
            online = em.online(
                jax.random.key(draw_seed(self.random_state)), self.n_components,
                self.covariance_type, start=self.init_params, regularization=self.reg_covar,
            )  # fmt: skip
            self.n_iter_, self._dtype = 0, X.dtype
        X = X.astype(self._dtype, copy=False)
        with jax.enable_x64(X.dtype == np.float64):
            self._online = em.partial_fit(online, X, sample_weight)
            self.n_iter_ += 1
            self.converged_, self.lower_bound_ = False, self._online.log_likelihood
            if (mixture := self._online.mixture) is not None:
                self._set(mixture)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a mixture; `partial_fit` waits for `n_components` distinct rows."""
        return hasattr(self, "weights_")

    def _fit_source(self, source: Source, sample_weight: Any) -> None:
        """Fit to data that stream, without labels."""
        self._online, self.n_features_in_ = None, source.dim
        began = time.perf_counter()
        given = arrays.Given(self.weights_init, self.means_init, self.precisions_init)
        sizes = (self.n_components, self.covariance_type, source.dim)
        given = arrays.check_given(given, *sizes, source.dtype)
        key = jax.random.key(draw_seed(self.random_state))

        def begin(x: np.ndarray, weight: np.ndarray | None) -> em.Mixture:
            start = self._initial(key, x, given, weight)
            if isinstance(start, em.Mixture):
                return start
            return em.initialize(
                key, x, self.n_components, self.covariance_type, start=start,
                num_restarts=self.n_init, regularization=self.reg_covar, sample_weight=weight,
            )  # fmt: skip

        with jax.enable_x64(source.dtype == np.float64), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x: column", UserWarning)
            objective = self.lower_bound_ if self._warm() else -np.inf
            request = Request(
                source, self.n_components, self.covariance_type,
                self._current() if self._warm() else self.init_params, self.n_init,
                self.reg_covar, None, sample_weight, self.tol,
            )  # fmt: skip
            note = self._print_step if self.verbose else None
            options = streaming.Options(self.max_iter, note, previous_objective=objective)
            self._take(fit_stream(key, request, options, begin), source.dtype, began)
