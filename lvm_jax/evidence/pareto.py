"""Pareto k-hat of importance weights from their tail alone (Vehtari et al. 2024).

k-hat estimates the shape of the tail of the weights: 1/k of their moments are finite. Up to 0.7
the estimate and its standard error can be trusted, beyond they cannot, however large S is.
"""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from lvm_jax.typing import Array, Float, Scalar

SHORTEST_TAIL = 5  # below it no shape is fitted, and k-hat is inf
PRIOR_SIZE, PRIOR_SHAPE = 10, 0.5  # observations that the prior of k counts for, and its mean
SPREAD_OF_GRID = 3.0  # of Zhang and Stephens' grid of rates, in units of 1 / the first quartile


def tail_size(num_samples: int) -> int:
    """M = min(3 sqrt(S), S / 5), the largest weights to which the tail is fitted."""
    return min(max(int(3 * num_samples**0.5), SHORTEST_TAIL), num_samples // 5)


def k_of_tail(tail: Float[Array, " M1"]) -> Scalar:
    """k-hat from the M + 1 largest log-weights, descending, relative to the largest and in logs.

    Log-weights may spread by any finite amount: no weight underflows. The smallest of the M + 1 is
    the threshold; weights equal to it do not exceed it and are left out of the fit.

    0 where no weight exceeds the threshold by more than rounding (sqrt(eps) relative): the largest
    weight occurs M + 1 times. inf, the shape is not known, where fewer than 5 exceed it: M < 5, or
    one weight has all the mass and the others are zero, or all are zero. NaN with a NaN or +inf.
    """
    if tail.shape[0] <= SHORTEST_TAIL:
        return jnp.asarray(jnp.inf, tail.dtype)
    threshold = tail[-1]
    exceeds = tail[:-1] > threshold
    number = exceeds.sum()
    # log of the exceedances w - threshold, 0 for the largest.
    below = jnp.where(exceeds & jnp.isfinite(threshold), threshold - tail[:-1], -jnp.inf)
    log_x = jnp.where(exceeds, tail[:-1] + jnp.log1p(-jnp.exp(below)), -jnp.inf)
    k = _shape(jnp.where(exceeds, log_x - log_x[0], -jnp.inf), number)
    equal = tail[0] - threshold <= jnp.sqrt(jnp.finfo(tail.dtype).eps)
    k = jnp.where(number < SHORTEST_TAIL, jnp.inf, k)
    odd = jnp.isnan(tail).any() | jnp.isposinf(tail[0])
    return jnp.where(odd, jnp.nan, jnp.where(equal, 0.0, k)).astype(tail.dtype)


def _shape(log_x: Float[Array, " M"], number: Array) -> Scalar:
    """The generalised Pareto shape of exceedances x, descending, `number` of them above 0, max 1.

    Rates b_j = 1 - c_j / (3 q), q the first quartile, are averaged under their profile
    likelihood, and k = mean log(1 - b x). Here 1 - b x = (1 - x) + c x / (3 q) adds positive terms,
    so that its logarithm neither overflows nor cancels.

    Source: Zhang and Stephens (2009); the prior of k is that of Vehtari et al. (2024).
    """
    size = number.astype(log_x.dtype)
    # The first quartile of an ascending sample, counted from its largest.
    place = number - (number / 4 + 0.5).astype(jnp.int32)
    log_q = log_x[jnp.clip(place, 0, log_x.shape[0] - 1)]
    most = 30 + int(log_x.shape[0] ** 0.5)
    points = 30 + jnp.floor(jnp.sqrt(size))
    index = jnp.arange(1, most + 1, dtype=log_x.dtype)
    steps = jnp.sqrt(points / jnp.where(index <= points, index - 0.5, 0.5)) - 1
    log_c = jnp.log(steps / SPREAD_OF_GRID) - log_q  # log c / (3 q)

    def k_at(log_c: Scalar) -> Scalar:
        terms = jnp.logaddexp(jnp.log1p(-jnp.exp(log_x)), log_c + log_x)
        return jnp.where(jnp.isneginf(log_x), 0.0, terms).sum() / size

    def profile(log_c: Scalar) -> Scalar:
        k = k_at(log_c)
        return size * (_log_rate(log_c) - jnp.log(jnp.abs(k)) - k - 1)

    # One rate at a time: the memory of a tail, not of the grid.
    found = jax.lax.map(profile, log_c)
    found = jnp.where((index <= points) & ~jnp.isnan(found), found, -jnp.inf)
    k = k_at(logsumexp(found - logsumexp(found) + log_c))
    return (size * k + PRIOR_SIZE * PRIOR_SHAPE) / (size + PRIOR_SIZE)


def _log_rate(log_c: Scalar) -> Scalar:
    """log |1 - exp(log_c)|, without overflow."""
    largest = jnp.maximum(log_c, 0.0)
    return largest + jnp.log1p(-jnp.exp(-jnp.abs(log_c)))
