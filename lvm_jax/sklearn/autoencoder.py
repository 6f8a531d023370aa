"""The methods of a fitted `VariationalAutoencoder`."""

from typing import Any

import jax
import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from lvm_jax import evidence
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax._core.warn import warn
from lvm_jax.compiling import bucket, first_rows, pad_rows
from lvm_jax.distributions.chain import positive_scale
from lvm_jax.evidence import Evidence
from lvm_jax.evidence.result import describe
from lvm_jax.likelihoods import Likelihood, check_support
from lvm_jax.models import Joint
from lvm_jax.sklearn import vae_programs
from lvm_jax.sklearn.base import DTYPES, LatentEstimator, draw_seed
from lvm_jax.sklearn.vae_programs import Units
from lvm_jax.training import Parameters
from lvm_jax.typing import Array, ConditionalDensity, Key, Params
from lvm_jax.vae import Architecture, build

MAX_LOW_SHARE = 0.05  # `score_samples` warns above this share of `likely_low` rows


class FittedAutoencoder(LatentEstimator):
    """p(x, z; theta_) and q(z | x; phi_), from the attributes that `fit` sets.

    A subclass defines `n_importance_samples`, `random_state`, `theta_`, `phi_`, `mean_` [D],
    `scale_` [D], `seed_` and `_architecture`.
    """

    theta_: Params
    phi_: Params
    mean_: np.ndarray
    scale_: np.ndarray
    seed_: int
    _architecture: Architecture

    @property
    def p_(self) -> Joint:
        """p(x, z; theta_), of x in the model's units."""
        return build(self._architecture)(Parameters(self.theta_, self.phi_))[0]

    @property
    def q_(self) -> ConditionalDensity:
        """q(z | x; phi_), of x in the model's units."""
        return build(self._architecture)(Parameters(self.theta_, self.phi_))[1]

    @property
    def noise_variance_(self) -> Any:
        """The learned noise variance of a Gaussian likelihood, in squared units of X."""
        likelihood = self._architecture.likelihood
        if likelihood not in ("gaussian", "gaussian_per_dimension"):
            raise AttributeError(f"a {likelihood} likelihood has no noise_variance_")
        with jax.enable_x64(self._dtype == np.float64):
            noise = (self.scale_ * np.asarray(positive_scale(self.theta_.likelihood))) ** 2
        return float(noise[0]) if likelihood == "gaussian" else noise

    @property
    def _n_features_out(self) -> int:
        return self._architecture.latent_dims[0]

    @property
    def _dtype(self) -> np.dtype:
        return self.mean_.dtype

    @property
    def _units(self) -> Units:
        return Units(self.mean_, self.scale_)

    def _keys(self) -> tuple[Key[Array, ""], Key[Array, ""]]:
        """The keys of `evidence` and `transform`."""
        key_evidence, key_transform = split(jax.random.key(self.seed_))
        return key_evidence, key_transform

    def _measure(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """X in the model's units, and the label of each row."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        check_data(build(self._architecture).likelihood, self._architecture.likelihood, X)
        u = self._units.measure(X.astype(self._dtype, copy=False))
        return u, vae_programs.labels(u)

    def transform(self, X: Any) -> np.ndarray:
        """E[z | x] under q, [n_samples, n_components].

        Exact for a Gaussian q; for a flow the mean of `n_importance_samples` draws, which depend
        only on `seed_` and the row.
        """
        u, labels = self._measure(X)
        with jax.enable_x64(self._dtype == np.float64):
            rows = pad_rows((labels, u), bucket(len(u)))
            z = vae_programs.encode(self._keys()[1], self.q_, rows, self.n_importance_samples)
            return first_rows(z, len(u))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """E[x | z] for rows z of X, [n_samples, n_features].

        This is the mean of the likelihood: a probability for bits, a rate for counts.

        Raises ValueError if the number of columns is not n_components.
        """
        z = self._check_latents(X)
        with jax.enable_x64(self._dtype == np.float64):
            rows = pad_rows(z.astype(self._dtype, copy=False), bucket(len(z)))
            means = vae_programs.decode(self.p_, rows)
            return self._units.restore(first_rows(means, len(z)))

    def evidence(self, X: Any) -> Evidence:
        """log p(x) of each sample by importance sampling from q, with its error: leaves [N].

        log (1/S) sum_s p(x, z_s) / q(z_s | x), S = `n_importance_samples`, in nats, of x in the
        units of X. The result has the standard error, the ess and Pareto k-hat; `reliable` and
        `verdict()` say whether to trust them. The draws of a row depend only on `seed_` and the
        row, so that equal rows have equal estimates and equal errors.

        Source: Burda et al. (2016), section 5.1.
        """
        u, labels = self._measure(X)
        with jax.enable_x64(self._dtype == np.float64):
            found = evidence.evaluate(
                self._keys()[0], self.p_, self.q_, u, self.n_importance_samples, index=labels
            )
            found = jax.tree.map(np.asarray, found)
        volume = self._dtype.type(self._units.log_volume)
        return found._replace(log_evidence=found.log_evidence - volume)

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each sample, in nats, as `evidence` estimates it.

        A log-density for real data, a log-probability for bits, levels and counts. The bias is
        about minus half the squared standard error. Warns if more than 5% of the rows are
        `likely_low` (k-hat above 0.7 or NaN, or too few effective draws): their log p(x), and
        means over rows such as `score`, are likely to be too low by more than their standard
        errors.
        """
        found = self.evidence(X)
        low = np.asarray(found.likely_low)
        if low.mean() > MAX_LOW_SHARE:
            verdict = describe(np.where(low, found.failed, 0))
            warn(
                f"score_samples: {verdict}. These estimates from "
                f"{self.n_importance_samples} draws are likely to be low, by more than their "
                "standard errors: raise n_importance_samples, train a wider guide, or leave out "
                "the rows where evidence(X).likely_low is True",
            )
        return np.asarray(found.log_evidence)

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draws of x from p(x), the noise of the likelihood included, [n_samples, n_features]."""
        check_is_fitted(self)
        n_samples = checks.integer(n_samples, "n_samples", 1)
        seed = draw_seed(self.random_state)
        with jax.enable_x64(self._dtype == np.float64):
            size = bucket(n_samples)  # the first draws do not depend on the number
            draws = vae_programs.sample(jax.random.key(seed), self.p_, size)
            return self._units.restore(first_rows(draws, n_samples))


def check_data(likelihood: Likelihood, name: str, X: np.ndarray) -> None:
    """Raise ValueError for data outside the support of the named likelihood."""
    try:
        check_support(likelihood, X, "X")
    except ValueError as error:
        raise ValueError(f"likelihood={name!r}: {error}") from error
