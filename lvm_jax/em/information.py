"""Information criteria of a mixture: AIC, BIC and ICL; and how far a covariance has collapsed."""

import math
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.em import scoring, sources
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.statistics import Evaluation
from lvm_jax.typing import ArrayLike


class Criteria(NamedTuple):
    """Information criteria; lower values of AIC, BIC and ICL are better.

    With W = sum_n w_n (N without weights), p free parameters and l = sum_n w_n log p(x_n):

        AIC = -2 l + 2 p                                                  (Akaike 1974)
        BIC = -2 l + p log W                                              (Schwarz 1978)
        ICL = BIC - 2 sum_n w_n log max_k r_nk    (Biernacki, Celeux and Govaert 2000, as mclust)
        entropy = -sum_n w_n sum_k r_nk log r_nk
    """

    log_likelihood: float  # total, nats
    aic: float
    bic: float
    icl: float
    entropy: float  # total, nats
    num_parameters: int


def criteria(mixture: Mixture, x: Any, sample_weight: ArrayLike | None = None) -> Criteria:
    """Information criteria of a fitted mixture in one pass over x, [N, D] or data that stream."""
    source = sources.as_source(x)
    if source is not None:
        evaluation, total = scoring.evaluate(mixture, source, sample_weight)
        return from_evaluation(evaluation, mixture.num_parameters, total)
    total = x.shape[0] if sample_weight is None else float(np.sum(np.asarray(sample_weight)))
    return from_evaluation(mixture.evaluate(x, sample_weight), mixture.num_parameters, total)


def from_evaluation(evaluation: Evaluation, num_parameters: int, total_weight: float) -> Criteria:
    """Information criteria from the result of `Mixture.evaluate`, p and W."""
    log_likelihood, entropy, classification = map(float, evaluation)
    bic = -2 * log_likelihood + num_parameters * math.log(total_weight)
    return Criteria(
        log_likelihood=log_likelihood,
        aic=-2 * log_likelihood + 2 * num_parameters,
        bic=bic,
        icl=bic - 2 * classification,
        entropy=entropy,
        num_parameters=num_parameters,
    )


def smallest_spread(mixture: Mixture, x: ArrayLike) -> float:
    """The smallest ratio of a component's variance to the data's variance, over all directions.

    A value near 0 means that a component has collapsed onto a few points: the likelihood is
    unbounded there, and the criteria are meaningless. Directions in which x [N, D] does not vary
    are omitted; a covariance of columns with missing entries is that of the rows with both. NaN for
    a mixture that is not finite and for constant data. Gaussians only.
    """
    covariances = np.asarray(mixture.covariances, np.float64)
    rows = np.asarray(x, np.float64)
    spread = np.cov(rows.T)
    if np.isnan(rows).any():
        spread = np.ma.cov(np.ma.masked_invalid(rows).T).filled(0)
    values, vectors = np.linalg.eigh(np.atleast_2d(spread))
    kept = values > 1e-12 * values.max()
    if not np.isfinite(covariances).all() or not kept.any():
        return float("nan")
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    return float(np.linalg.eigvalsh(whiten.T @ covariances @ whiten).min())
