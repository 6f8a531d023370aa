"""Problems with discrete z, exact by enumeration."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions, models
from lvm_jax._core import checks
from lvm_jax.guides.base import Guide
from lvm_jax.problems.base import Problem, changed, host
from lvm_jax.problems.changes import marginals
from lvm_jax.problems.gaussian import check_positive, mixing
from lvm_jax.typing import ArrayLike, Distribution


def discrete(logits: ArrayLike, coupling: float = 0.5, noise: float = 0.5) -> Problem:
    """z_k in {0, ..., L - 1} with prior logits [K, L], x | z ~ N(W v(z), s^2 I).

    v(l) = l - (L - 1) / 2, W = `mixing`(K, coupling), s = noise. The guide has independent factors:
    the posterior's marginals, mixed with a uniform of weight 0.1.

    Raises ValueError for logits of another shape or with L < 2, or a noise that is not positive.
    """
    table = host(checks.float_array(logits, "logits"))
    checks.finite(table, "logits")
    shape = table.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2:
        raise ValueError(f"logits: expected shape [K, L] with L >= 2, got {shape}")
    num_variables, num_values = shape
    theta = models.Discrete(
        table,
        {
            "weight": mixing(num_variables, coupling),
            "values": np.arange(num_values) - (num_values - 1) / 2,
            "noise": np.asarray(check_positive(noise, "noise")),
        },
    )

    def likelihood(parameters: Any, z: Any) -> Distribution:
        mean = parameters["weight"] @ jnp.asarray(parameters["values"])[z]
        return distributions.normal(mean, jnp.broadcast_to(parameters["noise"], mean.shape))

    model = models.categorical(num_variables, num_values, likelihood, lambda key: theta.likelihood)
    guide = changed(model, theta, partial(marginals, num_values=num_values))
    discrepancy = "posterior marginals mixed with a uniform, no correlations"
    return Problem("discrete", model, theta, guide, (), discrepancy)


def gaussian_mixture() -> Problem:
    """Four Gaussians in the plane; z is the component of x, and the guide is the prior p(z).

    Weights 0.4, 0.3, 0.2, 0.1, means (0, 0), (2, 1), (-1, 2), (1, -1.5), covariances s^2 I with
    s = 1, 0.7, 1.4, 0.9.
    """
    theta = models.GaussianMixture(
        host(np.log([0.4, 0.3, 0.2, 0.1])),
        host([[0.0, 0.0], [2.0, 1.0], [-1.0, 2.0], [1.0, -1.5]]),
        host(np.array([1.0, 0.7, 1.4, 0.9])[:, None, None] * np.eye(2)),
    )
    model = models.gaussian_mixture(4, 2)
    guide = Guide(lambda key: (), lambda phi, x: model.prior(theta))
    return Problem("Gaussian mixture, K = 4", model, theta, guide, (), "prior")
