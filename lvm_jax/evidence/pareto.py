"""Pareto k-hat of importance weights, from their largest values (Vehtari et al. 2024).

k-hat estimates the shape of the tail of the weights: moments of order below 1/k are finite. Above
0.7 the estimate and its standard error cannot be trusted for any practical S.
"""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from lvm_jax.typing import Array, Float, Scalar

SHORTEST_TAIL = 5  # k-hat of fewer weights is inf
PRIOR_SIZE, PRIOR_SHAPE = 10, 0.5  # weight of the prior of k in observations, and its mean
SPREAD_OF_GRID = 3.0  # of Zhang and Stephens' grid of rates, in units of 1 / the first quartile


def tail_size(num_samples: int) -> int:
    """M = min(3 sqrt(S), S / 5), the number of largest weights for the fit of the tail."""
    return min(max(int(3 * num_samples**0.5), SHORTEST_TAIL), num_samples // 5)


def k_of_tail(tail: Float[Array, " M1"]) -> Scalar:
    """k-hat from the M + 1 largest log-weights, descending.

    The fit uses logarithms, so no weight underflows. The smallest of the M + 1 is the threshold;
    weights equal to it are left out of the fit.

    0 if no weight exceeds the threshold by more than rounding (sqrt(eps) relative). inf (not known)
    if fewer than 5 exceed it: M < 5, one weight has all the mass, or all weights are zero. NaN with
    a NaN or +inf.
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

    The rate b is the mean of b_j = 1 - c_j / (3 q), with q the first quartile, under the profile
    likelihood, and k = mean log(1 - b x). 1 - b x = (1 - x) + c x / (3 q) is a sum of positive
    terms, whose logarithm neither overflows nor cancels.

    Source: Zhang and Stephens (2009); the prior of k is that of Vehtari et al. (2024).
    """
    size = number.astype(log_x.dtype)
    # The index of the first quartile of the ascending sample, counted from its largest.
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

    # One rate at a time, to limit memory.
    found = jax.lax.map(profile, log_c)
    found = jnp.where((index <= points) & ~jnp.isnan(found), found, -jnp.inf)
    k = k_at(logsumexp(found - logsumexp(found) + log_c))
    return (size * k + PRIOR_SIZE * PRIOR_SHAPE) / (size + PRIOR_SIZE)


def _log_rate(log_c: Scalar) -> Scalar:
    """log |1 - exp(log_c)|, without overflow."""
    largest = jnp.maximum(log_c, 0.0)
    return largest + jnp.log1p(-jnp.exp(-jnp.abs(log_c)))
