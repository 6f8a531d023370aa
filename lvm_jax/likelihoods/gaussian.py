"""Gaussian likelihoods with fixed, learned or network-given variances.

A learned standard deviation is s = exp(8 tanh(u / 8)) of an unconstrained number u. Its minimum of
3e-4 bounds the likelihood: with s -> 0 it is unbounded for a constant dimension, such as the border
of an image, or for a perfectly reconstructed data point (Mattei and Frellsen 2018). Scale data to
[0, 1] or unit variance, where 3e-4 is small.
"""

import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions import normal
from lvm_jax.distributions.chain import positive_scale
from lvm_jax.likelihoods.base import Likelihood, no_parameters, split_outputs
from lvm_jax.typing import Array, Distribution, Float, Params


def gaussian(dim: int) -> Likelihood:
    """x ~ N(outputs, s^2 I) with ONE learned standard deviation s; its scalar u starts at 0.

    The optimal s^2 is the mean squared error per dimension, so the weight between reconstruction
    and KL is learned (Rybkin et al. 2021). Log-density in nats per data point.
    """
    return _learned(dim, ())


def gaussian_per_dimension(dim: int) -> Likelihood:
    """x ~ N(outputs, diag(s)^2) with a learned s_d per dimension; u [D] starts at 0.

    With a linear decoder the model is factor analysis; with `gaussian` it is probabilistic PCA.
    Log-density in nats per data point.
    """
    return _learned(dim, (checks.integer(dim, "dim", 1),))


def gaussian_fixed(dim: int, scale: float = 0.1) -> Likelihood:
    """x ~ N(outputs, scale^2 I), `scale` a fixed standard deviation in the units of x.

    The default of 0.1 is for data in [0, 1]. A smaller scale gives less weight to the KL, like
    beta < 1. Bounds for two scales belong to two models and are not comparable. Log-density in
    nats per data point.

    Raises ValueError for a scale that is not positive.
    """
    dim = checks.integer(dim, "dim", 1)
    scale = checks.number(scale, "scale")
    if scale == 0:
        raise ValueError("scale: expected a positive standard deviation, got 0")

    def build(params: Params, outputs: Float[Array, " D"]) -> Distribution:
        loc = split_outputs(outputs, 1, dim)[0]
        return normal(loc, jnp.full_like(loc, scale))

    return Likelihood(dim, no_parameters, build)


def gaussian_output(dim: int) -> Likelihood:
    """x ~ N(m, diag(s)^2) with both from the network: outputs [2 D] are m, then u.

    The variances are functions of z. Log-density in nats per data point.
    """
    dim = checks.integer(dim, "dim", 1)

    def build(params: Params, outputs: Float[Array, " O"]) -> Distribution:
        loc, free = split_outputs(outputs, 2, dim)
        return normal(loc, positive_scale(free))

    return Likelihood(2 * dim, no_parameters, build)


def _learned(dim: int, shape: tuple[int, ...]) -> Likelihood:
    dim = checks.integer(dim, "dim", 1)

    def build(free: Float[Array, "..."], outputs: Float[Array, " D"]) -> Distribution:
        loc = split_outputs(outputs, 1, dim)[0]
        return normal(loc, jnp.broadcast_to(positive_scale(free), (dim,)))

    return Likelihood(dim, lambda key: jnp.zeros(shape), build)
