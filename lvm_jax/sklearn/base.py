"""The common methods of estimators with latent vectors, and of linear-Gaussian ones."""

from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lvm_jax.compiling import bounded_jit, bucket, first_rows, pad_rows
from lvm_jax.models import LinearGaussian
from lvm_jax.models.linear_gaussian import likelihood, log_evidence, posterior, prior
from lvm_jax.typing import Array, Key

DTYPES = [np.float64, np.float32]
LARGEST_SEED = np.iinfo(np.int32).max


@bounded_jit()
def _log_evidence(theta: LinearGaussian, x: Array) -> Array:
    return jax.vmap(log_evidence, (None, 0))(theta, x)


@bounded_jit()
def _posterior_mean(theta: LinearGaussian, x: Array) -> Array:
    return jax.vmap(lambda one: posterior(theta, one).mean)(x)


@bounded_jit(2)
def _sample(key: Key[Array, ""], theta: LinearGaussian, num_samples: int) -> Array:
    key_z, key_x = jax.random.split(key)
    z = prior(theta).sample(seed=key_z, sample_shape=(num_samples,))
    keys = jax.random.split(key_x, num_samples)
    return jax.vmap(lambda k, one: likelihood(theta, one).sample(seed=k))(keys, z)


def draw_seed(random_state: Any) -> int:
    """A seed from scikit-learn's `random_state`."""
    return int(check_random_state(random_state).randint(LARGEST_SEED))


class LatentEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """The common methods of the estimators with a latent vector z."""

    @property
    @abstractmethod
    def _n_features_out(self) -> int:
        """L, the number of latent dimensions."""

    @abstractmethod
    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each sample, in nats."""

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log p(x) per sample, in nats."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def _check_latents(self, X: Any) -> np.ndarray:
        """Rows z of X; ValueError unless X has L columns."""
        check_is_fitted(self)
        z = check_array(X, dtype=DTYPES, input_name="X")
        if z.shape[1] != self._n_features_out:
            raise ValueError(
                f"X: expected {self._n_features_out} columns, one for each component, got "
                f"{z.shape[1]}"
            )
        return z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class LinearGaussianEstimator(LatentEstimator):
    """z ~ N(0, I), x | z ~ N(W z + mean_, Psi), from the attributes that `fit` sets.

    A subclass defines `n_components`, `random_state`, `mean_` [D], `components_` [L, D],
    `noise_variance_` (a number, or [D]) and `_loadings`, W [D, L].
    """

    @property
    @abstractmethod
    def _loadings(self) -> np.ndarray:
        """W, [D, L]."""

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def _theta(self) -> LinearGaussian:
        loadings = self._loadings
        log_noise = 0.5 * np.log(self.noise_variance_)
        fields = (np.zeros(loadings.shape[1]), loadings, self.mean_, log_noise)
        return LinearGaussian(*(jnp.asarray(field, self.mean_.dtype) for field in fields))

    def _read(self, X: Any) -> tuple[np.ndarray, int]:
        """The data and L: `n_components`, or the subclass's default for None."""
        X = validate_data(self, X, dtype=DTYPES, ensure_min_samples=3, ensure_min_features=2)
        most = min(X.shape[1], X.shape[0] - 1) - 1
        if self.n_components is None:
            return X, self._default_components(most, X.shape[1])
        if self.n_components > most:
            raise ValueError(
                f"n_components: expected 1 to {most} (fewer than the {X.shape[1]} features, and by "
                f"at least 2 than the {X.shape[0]} samples), got {self.n_components}"
            )
        return X, int(self.n_components)

    def _default_components(self, most: int, num_features: int) -> int:
        return most

    def _apply(self, function: Any, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        with jax.enable_x64(self.mean_.dtype == np.float64):
            rows = pad_rows(X.astype(self.mean_.dtype, copy=False), bucket(len(X)))
            return first_rows(function(self._theta(), rows), len(X))

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means E[z | x], [n_samples, n_components]."""
        return self._apply(_posterior_mean, X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """E[x | z] = W z + mean_ for rows z of X, [n_samples, n_features].

        This is not the inverse of `transform`: posterior means are shrunk towards 0, and
        transforming the result again shrinks them further.
        """
        z = self._check_latents(X).astype(self.mean_.dtype, copy=False)
        return z @ self._loadings.T + self.mean_

    def score_samples(self, X: Any) -> np.ndarray:
        """Exact log p(x) of each sample, in nats."""
        return self._apply(_log_evidence, X)

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draws of x from the fitted model, [n_samples, n_features]."""
        check_is_fitted(self)
        if isinstance(n_samples, bool) or not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples: expected an integer >= 1, got {n_samples!r}")
        seed = draw_seed(self.random_state)
        with jax.enable_x64(self.mean_.dtype == np.float64):
            size = bucket(int(n_samples))  # the first draws do not depend on the number
            draws = _sample(jax.random.key(seed), self._theta(), size)
            return first_rows(draws, int(n_samples))

    def get_covariance(self) -> np.ndarray:
        """The covariance of x, W W^T + Psi, [n_features, n_features]."""
        check_is_fitted(self)
        loadings = self._loadings
        noise = np.broadcast_to(self.noise_variance_, self.mean_.shape)
        return loadings @ loadings.T + np.diag(noise)

    def get_precision(self) -> np.ndarray:
        """The inverse of the covariance of x, computed in float64 by Woodbury's identity."""
        check_is_fitted(self)
        noise = np.broadcast_to(self.noise_variance_, self.mean_.shape).astype(np.float64)
        scale = np.sqrt(noise)[:, None]
        white = self._loadings / scale
        top = np.linalg.qr(np.concatenate([white, np.eye(white.shape[1])]))[0][: len(white)]
        precision = (np.eye(len(white)) - top @ top.T) / (scale * scale.T)
        return precision.astype(self.mean_.dtype)
