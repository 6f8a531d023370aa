"""Bayesian logistic regression on published data, with both "credit" targets of the literature."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from lvm_jax._core import extras
from lvm_jax.data import store
from lvm_jax.data.published import GERMAN_CREDIT
from lvm_jax.problems.target import Target
from lvm_jax.typing import Array, Float, Scalar

PRIOR_SCALE = 10.0  # w ~ N(0, 10^2)


def credit() -> Target:
    """German credit (1,000 x 24) by logistic regression, w ~ N(0, 10^2) in 25 dimensions.

    The columns are divided by their standard deviations (not centred) and preceded by a column of
    1s, the intercept; y = 1 for a bad risk. This is "Credit" of the papers DBS, CMCD and MCD. log Z
    is an estimate by importance sampling in float64; the ELBOs are from deterministic optimisation.

    The file is read from $LVM_JAX_DATA, the cache or the UCI repository (`lvm_jax.data.store`).
    Raises FileNotFoundError if it cannot be found, ValueError if it is not the published file.
    Source: Hofmann (1994), doi:10.24432/C5NC77.
    """
    return Target(
        "credit", 25, _log_density(*_read_credit(), PRIOR_SCALE), -585.101, 0.002,
        mean_field_elbo=-605.666, full_rank_elbo=-585.125,
    )  # fmt: skip


def credit_likelihood() -> Target:
    """`credit` without its prior (a flat, improper prior); log Z is 80.6 nats higher.

    This is "Credit" of the papers SCLD, DDS and PIS. Errors as for `credit`.
    """
    return Target(
        "credit, likelihood only", 25, _log_density(*_read_credit(), None), -504.485, 0.002,
        mean_field_elbo=-525.063, full_rank_elbo=-504.513,
    )  # fmt: skip


def breast_cancer() -> Target:
    """Breast cancer Wisconsin (569 x 30) by logistic regression, w ~ N(0, 10^2) in 31 dimensions.

    Columns as in `credit`; y = 1 for a malignant tumour. Raises ModuleNotFoundError without
    scikit-learn, which has the data. Source: Wolberg et al. (1995), doi:10.24432/C5DW2B.
    """
    with extras.needed("sklearn"):
        from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    x, y = design(found.data), 1.0 - found.target  # scikit-learn has 1 for a benign one
    return Target(
        "breast cancer", 31, _log_density(x, y, PRIOR_SCALE), -77.561, 0.010,
        mean_field_elbo=-147.716, full_rank_elbo=-78.911,
    )  # fmt: skip


def design(columns: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D+1"]:
    """A column of 1s, then the columns divided by their standard deviation (over N)."""
    return np.concatenate([np.ones((len(columns), 1)), columns / columns.std(0)], axis=1)


def _read_credit() -> tuple[np.ndarray, np.ndarray]:
    rows = np.loadtxt(store.read_text(GERMAN_CREDIT).splitlines())
    return design(rows[:, :-1]), rows[:, -1] - 1


def _log_density(
    x: np.ndarray, y: np.ndarray, prior_scale: float | None
) -> Callable[[Array], Scalar]:
    """w -> sum_n log Bernoulli(y_n; sigmoid(x_n w)) + log N(w; 0, prior_scale^2 I)."""
    signed = (2 * y - 1)[:, None] * x

    def log_density(w: Float[Array, " D"]) -> Scalar:
        log_likelihood = -jnp.logaddexp(0.0, -(signed @ w)).sum()
        if prior_scale is None:
            return log_likelihood
        constant = w.size * (math.log(prior_scale) + 0.5 * math.log(2 * math.pi))
        return log_likelihood - 0.5 * ((w / prior_scale) ** 2).sum() - constant

    return log_density
