"""Likelihoods p(x | outputs) of one data point, by the type of data.

    bits                    bernoulli
    numbers in [0, 1]       continuous_bernoulli
    real numbers            gaussian (one learned variance), gaussian_fixed,
                            gaussian_per_dimension, gaussian_output (variances from the network)
    levels of a grey image  discretized_logistic (on [0, 1]), categorical (integers)
    counts                  poisson, negative_binomial
    missing entries         masked(one of these); padded(one of these) for sequences

Log-likelihoods are in nats per data point, summed over its D dimensions. Real numbers have
densities; bits, levels and counts have probabilities. Do not compare values of the two kinds.
`LIKELIHOODS` maps names to functions of D (and options). All raise ValueError or TypeError for a D
that is not an integer >= 1.
"""

from collections.abc import Callable

from lvm_jax.likelihoods.base import REAL, Likelihood, Support, check_support
from lvm_jax.likelihoods.counts import NegativeBinomial, Poisson, negative_binomial, poisson
from lvm_jax.likelihoods.gaussian import (
    gaussian,
    gaussian_fixed,
    gaussian_output,
    gaussian_per_dimension,
)
from lvm_jax.likelihoods.levels import (
    CategoricalLevels,
    DiscretizedLogistic,
    categorical,
    discretized_logistic,
)
from lvm_jax.likelihoods.masked import Masked, masked, padded
from lvm_jax.likelihoods.unit_interval import (
    ContinuousBernoulli,
    bernoulli,
    continuous_bernoulli,
)

LIKELIHOODS: dict[str, Callable[[int], Likelihood]] = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "gaussian": gaussian,
    "gaussian_fixed": gaussian_fixed,
    "gaussian_per_dimension": gaussian_per_dimension,
    "gaussian_output": gaussian_output,
    "discretized_logistic": discretized_logistic,
    "poisson": poisson,
    "negative_binomial": negative_binomial,
    "categorical": categorical,
}

__all__ = [
    "LIKELIHOODS",
    "REAL",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Likelihood",
    "Masked",
    "NegativeBinomial",
    "Poisson",
    "Support",
    "bernoulli",
    "categorical",
    "check_support",
    "continuous_bernoulli",
    "discretized_logistic",
    "gaussian",
    "gaussian_fixed",
    "gaussian_output",
    "gaussian_per_dimension",
    "masked",
    "negative_binomial",
    "padded",
    "poisson",
]
