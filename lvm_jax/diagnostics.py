"""Diagnostics: ESS and k-hat of log-weights, signal-to-noise of gradients, active units of z."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, for_points, num_rows
from lvm_jax._core.inputs import check_rows
from lvm_jax._core.moments import Moments, merge, moments
from lvm_jax.compiling import bounded_jit, bucket
from lvm_jax.distributions.kinds import mean_of_draws
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import pareto
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.typing import (
    Array,
    Bool,
    ConditionalDensity,
    Distribution,
    Float,
    Int,
    Key,
    Latent,
    Params,
    Scalar,
)

Gradient = Callable[[Key[Array, ""]], Params]  # one draw of a gradient, a pytree
THRESHOLD = 0.01  # of A_u, by Burda et al. (2016)


def effective_sample_size(log_w: Float[Array, " S"]) -> Scalar:
    """(sum_s w_s)^2 / sum_s w_s^2, between 1 and S: S of equal weights (Kong 1992).

    0 where every weight is 0. Raises ValueError for anything but [S].
    """
    checks.one_point(log_w)
    nothing = (log_w == -jnp.inf).all()
    rest = log_w - jnp.where(nothing, 0.0, log_w.max())
    found = jnp.exp(2 * logsumexp(rest) - logsumexp(2 * rest))
    return jnp.where(nothing, 0.0, found)


def pareto_k(log_w: Float[Array, " S"]) -> Scalar:
    """Pareto k-hat of the largest weights: distrust their mean above 0.7 (Vehtari et al. 2024).

    inf for S < 25 and if fewer than 5 weights exceed the threshold of the tail (one has all the
    mass, or all are zero); 0 if the largest are equal to rounding; NaN with a NaN or +inf. As in
    `Evidence`. Raises ValueError for anything but [S].
    """
    checks.one_point(log_w)
    return pareto.k_of_tail(jax.lax.top_k(log_w, pareto.tail_size(log_w.shape[0]) + 1)[0])


class Smoothed(NamedTuple):
    """Normalised log-weights, [S], whose exponentials add to 1, and their k-hat."""

    log_weights: Float[Array, " S"]
    k_hat: Scalar


def psis(log_w: Float[Array, " S"]) -> Smoothed:
    """Pareto-smoothed, self-normalised log-weights (Vehtari et al. 2024, algorithm 1).

    If k-hat is at least 1/3, quantiles of a generalised Pareto distribution replace the
    M = min(3 sqrt(S), S / 5) largest weights; then all are normalised. In self-normalised
    expectations such as E_posterior[f(z)] they have less variance than the raw weights and a small
    bias. Raises ValueError for anything but [S].
    """
    checks.one_point(log_w)
    from blackjax.diagnostics import psis_weights

    return Smoothed(psis_weights(log_w)[0], pareto_k(log_w))


class GradientStatistics(NamedTuple):
    """Statistics of R independent draws of a gradient, pytrees of its structure.

    `signal_to_noise` is |signal| / sd of each coordinate. `group_signal_to_noise` has one number
    per top-level entry (theta, phi): ||signal|| / sqrt(sum of the variances).
    """

    mean: Estimate
    variance: Params  # unbiased
    signal_to_noise: Params
    group_signal_to_noise: Params
    bias: Estimate | None  # mean - truth
    num_repeats: Int[Array, ""]


def gradient_statistics(
    key: Key[Array, ""],
    gradient: Gradient,
    num_repeats: int,
    *,
    truth: Params | None = None,
    signal: Params | None = None,
    chunk_size: int = 100,
) -> GradientStatistics:
    """Mean, variance, signal to noise and bias of `num_repeats` draws of gradient(key).

    Streamed over chunks of `chunk_size` draws: memory is that of one chunk. `truth`, a pytree of
    the gradient's structure, gives the bias. `signal`, of the same structure, replaces the mean in
    the signal-to-noise ratios. With the estimator's own mean, whose standard error is sd / sqrt(R),
    the ratio cannot be below about 1 / sqrt(R). Pass the truth, or the mean of a better estimator
    of the same expectation (DReG's, for IWAE's).

    An unjitted loop: jit around it. Raises ValueError for num_repeats < 2, chunk_size < 1, or a
    `truth` or `signal` of another structure than the gradient.
    """
    checks.key(key)
    num_repeats = checks.integer(num_repeats, "num_repeats", 2)
    traced = jax.jit(lambda key: gradient(key))  # once, for the shapes and for the loop
    one = jax.eval_shape(traced, key)
    for value, name in ((truth, "truth"), (signal, "signal")):
        _check_like(value, one, name)
    value, variance = _stream(key, traced, one, num_repeats, chunk_size)
    mean = Estimate(value, jax.tree.map(lambda v: jnp.sqrt(v / num_repeats), variance))
    off = None if truth is None else jax.tree.map(jnp.subtract, value, truth)
    seen = value if signal is None else signal
    power = jax.tree.map(jnp.square, seen)
    return GradientStatistics(
        mean=mean,
        variance=variance,
        signal_to_noise=jax.tree.map(_ratio, power, variance),
        group_signal_to_noise=jax.tree.map(_ratio, _by_group(power), _by_group(variance)),
        bias=None if off is None else mean._replace(value=off),
        num_repeats=jnp.int32(num_repeats),
    )


def gradient_blocks(
    key: Key[Array, ""],
    gradient: Gradient,
    num_blocks: int,
    num_repeats: int,
    *,
    chunk_size: int = 100,
) -> tuple[Params, Params]:
    """Mean and variance of `num_repeats` draws of gradient(key) in each of B blocks.

    Pytrees of the gradient's structure, leaves [B, ...]. The blocks are independent: the spread of
    a statistic over the blocks gives its standard error. An unjitted loop: jit around it. Raises
    ValueError as `gradient_statistics`, and for num_blocks < 1.
    """
    checks.key(key)
    num_blocks = checks.integer(num_blocks, "num_blocks", 1)

    def one(key: Key[Array, ""]) -> tuple[Params, Params]:
        found = gradient_statistics(key, gradient, num_repeats, chunk_size=chunk_size)
        return found.mean.value, found.variance

    return jax.lax.map(one, jax.random.split(key, num_blocks))


def _stream(
    key: Key[Array, ""], gradient: Gradient, one: Params, num_repeats: int, chunk_size: int
) -> tuple[Params, Params]:
    """Mean and variance over the repeats."""
    num_chunks = math.ceil(num_repeats / checks.integer(chunk_size, "chunk_size", 1))
    size = math.ceil(num_repeats / num_chunks)

    def step(index: Array, running: list[Moments]) -> list[Moments]:
        draws = jax.vmap(gradient)(jax.random.split(jax.random.fold_in(key, index), size))
        keep = index * size + jnp.arange(size) < num_repeats
        leaves = jax.tree.leaves(draws)
        return [merge(old, moments(new, keep)) for old, new in zip(running, leaves, strict=True)]

    leaves, structure = jax.tree.flatten(one)
    empty = [
        Moments(*(jnp.zeros(shape, leaf.dtype) for shape in ((), leaf.shape, leaf.shape)))
        for leaf in leaves
    ]
    found = jax.lax.fori_loop(0, num_chunks, step, empty)
    mean, variance = [m.mean for m in found], [m.variance for m in found]
    return jax.tree.unflatten(structure, mean), jax.tree.unflatten(structure, variance)


def _ratio(power: Array, variance: Array) -> Array:
    return jnp.sqrt(power / variance)


def _by_group(tree: Params) -> Params:
    """The sum over each top-level entry of a pytree."""
    groups, structure = jax.tree.flatten(tree, is_leaf=lambda node: node is not tree)
    sums = [sum(leaf.sum() for leaf in jax.tree.leaves(group)) for group in groups]
    return jax.tree.unflatten(structure, sums)


def _check_like(value: Params | None, one: Params, name: str) -> None:
    """Refuse a pytree of another structure or shape than the gradient."""
    if value is None:
        return
    expected = jax.tree.map(lambda leaf: tuple(leaf.shape), one)
    got = jax.tree.map(lambda leaf: tuple(jnp.shape(leaf)), value)
    if got != expected:
        raise ValueError(f"{name}: expected a pytree as the gradient, {expected}, got {got}")


def posterior_means(key: Key[Array, ""], q: ConditionalDensity, x: Any, num_samples: int) -> Latent:
    """E_q(z|x)[z] of every point of x [N, ...], as a z with leaves [N, ...].

    Exact if q is Gaussian or finite. For a chain z_1 -> z_2 -> ... the first part is exact; the
    others average their conditional means over `num_samples` draws of the part before. Any other q
    averages `num_samples` draws. The variance over x of such averages is too high by
    E_x[Var_q(z)] / num_samples: with 100 draws, a unit of variance 1 that ignores x is at the
    threshold of `active_units`. Point i uses fold_in(key, i). Compiled once per guide,
    `num_samples` and bucket of N.

    Raises ValueError or TypeError for num_samples < 1, and an x without rows or not finite.
    """
    checks.host("diagnostics.posterior_means", "q(x)", key, q, x)
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    x = check_rows(x)
    for leaf in jax.tree.leaves(x):
        checks.finite(leaf, "x")
    points = np.arange(num_rows(x)), x
    together = batch_size(CHUNK_SIZE, num_samples, bucket(num_rows(x)))
    return for_points(_mean_at, (num_samples,), key, (q,), points, together)


def _mean_at(key: Key[Array, ""], q: ConditionalDensity, x: Any, num_samples: int) -> Latent:
    return _mean(key, q(x), num_samples)


def _mean(key: Key[Array, ""], q: Distribution, num_samples: int) -> Latent:
    """E_q[z], exact where q is Gaussian or finite."""
    gaussian, values = distributions.gaussian_parts(q), distributions.support(q)
    if gaussian is not None:
        return gaussian[0]
    if values is not None:
        mass = jax.nn.softmax(jax.vmap(q.log_prob)(values))
        weighted = partial(jnp.tensordot, mass, axes=1, precision="highest")
        return jax.tree.map(lambda leaf: weighted(leaf.astype(mass.dtype)), values)
    return mean_of_draws(key, q, num_samples, _mean)


class ActiveUnits(NamedTuple):
    """The units of z that depend on the data; pytrees as z, one leaf for each stochastic layer."""

    variance: Latent  # A_u, leaves [K]
    active: Latent  # A_u > threshold, leaves [K]
    number: Latent  # of active units, leaves []


def active_units(means: Latent, threshold: float = THRESHOLD) -> ActiveUnits:
    """The units u of z with A_u = Var_x(E_q(z|x)[z_u]) > threshold.

    `means` are `posterior_means`, leaves [N, K]; the variance over the N points is unbiased. The
    posterior mean of an inactive unit hardly depends on x. NaN counts as inactive.

    Raises ValueError for leaves that are not [N, ...] with the same N >= 2, or a negative
    threshold. Source: Burda et al. (2016), section 5.2.
    """
    threshold = checks.number(threshold, "threshold")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(means)]
    if not shapes or any(s[:1] != shapes[0][:1] for s in shapes) or min(shapes[0][:1] or (0,)) < 2:
        raise ValueError(f"means: expected leaves [N, K] with one N >= 2, got shapes {shapes}")
    return _active_units(means, threshold)


@bounded_jit()
def _active_units(means: Latent, threshold: Scalar) -> ActiveUnits:
    variance = jax.tree.map(lambda leaf: jnp.var(jnp.asarray(leaf), axis=0, ddof=1), means)
    active: Bool[Array, " K"] = jax.tree.map(lambda leaf: leaf > threshold, variance)
    return ActiveUnits(variance, active, jax.tree.map(jnp.sum, active))
