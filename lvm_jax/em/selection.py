"""Choosing the number of components: AIC, BIC, ICL and the entropy of the assignment."""

import math
from typing import NamedTuple

import numpy as np

from lvm_jax.em.mixture import Mixture
from lvm_jax.em.statistics import Evaluation
from lvm_jax.typing import ArrayLike


class Criteria(NamedTuple):
    """Information criteria; of AIC, BIC and ICL the lower is the better.

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


def criteria(mixture: Mixture, x: ArrayLike, sample_weight: ArrayLike | None = None) -> Criteria:
    """All criteria of a fitted mixture on x [N, D], in one pass over the data."""
    total = x.shape[0] if sample_weight is None else float(np.sum(np.asarray(sample_weight)))
    return from_evaluation(mixture.evaluate(x, sample_weight), mixture.num_parameters, total)


def from_evaluation(evaluation: Evaluation, num_parameters: int, total_weight: float) -> Criteria:
    """All criteria from what `Mixture.evaluate` found, p and W."""
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
    """The smallest variance of a component in any direction, as a share of the data's there.

    A component that has collapsed onto a few points has one near 0: the likelihood is unbounded
    there, and the criteria mean nothing. Directions in which x [N, D] does not vary are left out.
    NaN for a mixture that is not finite, and for data that do not vary. Gaussians only.
    """
    covariances = np.asarray(mixture.covariances, np.float64)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(np.asarray(x, np.float64).T)))
    kept = values > 1e-12 * values.max()
    if not np.isfinite(covariances).all() or not kept.any():
        return float("nan")
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    return float(np.linalg.eigvalsh(whiten.T @ covariances @ whiten).min())
