"""log p(x) with little or no bias: the multilevel estimator and the jackknife."""

import math

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from lvm_jax import bounds, weights
from lvm_jax._core import checks
from lvm_jax._core.moments import moments
from lvm_jax.evidence.importance import from_log_weights
from lvm_jax.evidence.result import Evidence, failed_checks
from lvm_jax.evidence.sumo import Telescope
from lvm_jax.typing import Array, Distribution, Float, Int, Key
from lvm_jax.weights import LogJoint

RATIO = 2**-1.5  # P(level l + 1) / P(level l): between the ratios 1/4 of variances, 1/2 of costs
MAX_SAMPLES = 2**30  # weights of one draw, whose count is an int32


def multilevel(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, *, base: int = 8
) -> Telescope:
    """One draw of log p(x) whose expectation is log p(x) itself, in nats: no bound, no bias.

        log mean(w_1..M) + Delta_l / P(l),    P(l) = (1 - r) r^(l - 1), l = 1, 2, ...,  r = 2^-1.5

    M = `base`; Delta_l is the log-mean-exp of 2^l M fresh weights minus the mean of the
    log-mean-exps of its two halves. E[Delta_l^2] falls as 4^-l if the weights have four moments, so
    that the variance is finite (unlike SUMO's, in theory), and so is the expected cost, 5.4 M
    weights. With heavier tails the variance diverges. A draw takes at most 2^30 weights: the last
    level, 27 for M = 8, also has the probability of all later levels, 1e-12. The resulting bias is
    that of IWAE with 2^30 weights.

    -inf if all M or all 2^(l - 1) M weights of one of the terms are 0; the expectation is then
    -inf.

    `num_terms` is l and `num_samples` the cost. Weights are streamed, M at a time, in a loop of
    random length. A vmap over draws takes the time of the longest, so use `jax.lax.map` over keys,
    and see `average`. Not differentiable in reverse mode.

    Raises ValueError for a base outside 1, ..., 2^28, or a log-joint that does not fit q.

    Source: Shi and Cornish (2021), for bounds of latent-variable models; the single-term estimator
    of Rhee and Glynn (2015).
    """
    base = checks.integer(base, "base", 1)
    last = int(math.log2(MAX_SAMPLES / base))
    if last < 2:
        raise ValueError(f"base: expected at most {MAX_SAMPLES // 4:,} weights, got {base:,}")
    key_first, key_level, key_rest = jax.random.split(checks.key(key), 3)
    first = bounds.iwae(weights.log_weights(key_first, log_joint, q, base))
    level = _draw_level(key_level, last)
    half = 2 ** (level - 1)

    def block(index: Int[Array, ""], sums: Float[Array, " 2"]) -> Float[Array, " 2"]:
        log_w = weights.log_weights(jax.random.fold_in(key_rest, index), log_joint, q, base)
        which = (index >= half).astype(jnp.int32)
        return sums.at[which].set(jnp.logaddexp(sums[which], logsumexp(log_w)))

    sums = jax.lax.fori_loop(0, 2 * half, block, jnp.full(2, -jnp.inf, first.dtype))
    # The log-mean of the whole minus the mean of the halves' log-means; their sizes cancel.
    difference = logsumexp(sums) - jnp.log(2.0).astype(first.dtype) - sums.mean()
    difference = jnp.where((sums == -jnp.inf).any(), -jnp.inf, difference)
    return Telescope(first + difference / _chance(level, last), level, base * (1 + 2 * half))


def _draw_level(key: Key[Array, ""], last: int) -> Int[Array, ""]:
    """l = 1, ..., `last` by one coin a level; one float32 uniform cannot resolve 1e-7."""
    return 1 + jnp.cumprod(jax.random.bernoulli(key, RATIO, (last - 1,))).sum(dtype=jnp.int32)


def _chance(level: Int[Array, "..."], last: int) -> Float[Array, "..."]:
    """P(l); the last level has the remaining probability."""
    return jnp.where(level == last, 1.0, 1 - RATIO) * RATIO ** (level - 1)


def average(draws: Telescope) -> Evidence:
    """The mean of R unbiased draws, [R] leaves of `sumo` or `multilevel`, with its standard error.

    `standard_error` is sd / sqrt(R) of the draws of log p(x), and `ess` is R, as there are no
    weights. `k_hat` is that of the draws' distances from the median: above 0.5 the standard error
    cannot be trusted, and `failed` has VARIANCE. `num_samples` is R; the cost is the sum of
    `draws.num_samples`.

    Raises ValueError for leaves that are not [R].
    """
    values = draws.log_evidence
    if values.ndim != 1:
        raise ValueError(f"draws: expected leaves of shape [R], got {values.shape}")
    found = moments(values)
    distance = jnp.log(jnp.abs(values - jnp.median(values)))
    number = jnp.asarray(values.shape[0], values.dtype)
    k_hat = from_log_weights(distance).k_hat
    flags = [jnp.isnan(values), jnp.isposinf(values), jnp.isneginf(values)]
    nan, plus, minus = (flag.sum(dtype=jnp.int32) for flag in flags)
    return Evidence(
        found.mean,
        jnp.sqrt(found.variance / number),
        number,
        k_hat,
        jnp.int32(values.shape[0]),
        nan,
        plus,
        minus,
        failed_checks(number, k_hat, values.shape[0], nan + plus + minus),
    )


def jackknife(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int, *, order: int = 1
) -> Evidence:
    """Importance sampling with a bias of O(S^-(order + 1)), of ONE data point.

    `bounds.jackknife` of S log-weights; neither a lower nor an upper bound. All S weights are in
    memory. The standard error is that of log-mean-exp, equal at first order in 1/S.

    Raises ValueError for num_samples <= order, or a log-joint that does not fit q.
    Source: Nowozin (2018), as `bounds.jackknife`.
    """
    checks.key(key)
    log_w = weights.log_weights(key, log_joint, q, num_samples)
    return from_log_weights(log_w)._replace(log_evidence=bounds.jackknife(order)(log_w))
