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
