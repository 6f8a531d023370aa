"""The methods of fitted mixtures: prediction, scores, criteria, imputation, samples."""

import math
from abc import ABC, abstractmethod
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lvm_jax import em
from lvm_jax.em.sources import as_source
from lvm_jax.sklearn.base import DTYPES, draw_seed


class FittedDensity(DensityMixin, BaseEstimator, ABC):
    """Methods of an estimator whose `_current` is a fitted mixture, without criteria."""

    means_: np.ndarray
    random_state: Any

    @abstractmethod
    def _current(self) -> em.Mixture:
        """The fitted mixture."""

    def _sampled(self) -> em.Mixture:
        """The mixture of `sample`."""
        return self._current()

    def _apply(self, method: str, X: Any) -> np.ndarray:
        check_is_fitted(self)
        if (source := as_source(X)) is not None:
            with jax.enable_x64(self.means_.dtype == np.float64):
                mixture = jax.device_put(self._current())
                return np.concatenate([*em.stream(mixture, source, method)])
        X = validate_data(self, X, dtype=DTYPES, reset=False, ensure_all_finite="allow-nan")
        with jax.enable_x64(X.dtype == np.float64 or self.means_.dtype == np.float64):
            mixture = jax.device_put(self._current())
            return np.asarray(getattr(mixture, method)(X.astype(mixture.origin.dtype, copy=False)))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each sample."""
        return self._apply("assign", X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Responsibilities, [n_samples, n_components]."""
        return self._apply("responsibilities", X)

    def impute(self, X: Any) -> np.ndarray:
        """X with E[x_missing | x_observed] for NaN, [n_samples, n_features]."""
        return self._apply("impute", X)

    def standard_errors(self, X: Any, sample_weight: Any = None, kind: str = "sandwich") -> Any:
        """Standard errors of the fit to X: `em.StandardErrors`."""
        check_is_fitted(self)
        if as_source(X) is None:
            X = validate_data(self, X, dtype=DTYPES, reset=False, ensure_all_finite="allow-nan")
        return em.standard_errors(self._current(), X, sample_weight, kind=kind)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-likelihood of each sample, in nats."""
        return self._apply("log_prob", X)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood per sample, in nats."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw (X, y), sorted by component as in scikit-learn."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
                "sample."
            )
        seed = draw_seed(self.random_state)
        with jax.enable_x64(self.means_.dtype == np.float64):
            mixture = jax.device_put(self._sampled())
            X, y = map(np.asarray, mixture.sample(jax.random.key(seed), n_samples))
        order = np.argsort(y, kind="stable")
        return X[order], y[order].astype(np.int64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class FittedMixture(FittedDensity):
    """`FittedDensity` with information criteria."""

    def _n_parameters(self) -> int:
        return self._current().num_parameters

    def aic(self, X: Any) -> float:
        """Akaike information criterion on X; lower is better."""
        return -2 * self._total(X)[0] + 2 * self._n_parameters()

    def _total(self, X: Any) -> tuple[float, int]:
        """The log-likelihood of X, and its number of rows."""
        scores = self.score_samples(X)
        return float(scores.mean(dtype=np.float64)) * len(scores), len(scores)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X; lower is better."""
        total, number = self._total(X)
        return -2 * total + self._n_parameters() * math.log(number)

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood on X: BIC - 2 sum_n log max_k r_nk."""
        with np.errstate(divide="ignore"):
            assigned = np.log(self.predict_proba(X).max(1)).sum(dtype=np.float64)
        return self.bic(X) - 2 * float(assigned)
