"""Importance sampling of log p(x) in chunks: memory does not grow with the number of samples."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import weights
from lvm_jax._core import checks
from lvm_jax._core.moments import Moments, merge, moments
from lvm_jax.evidence import pareto
from lvm_jax.evidence.result import Evidence, failed_checks
from lvm_jax.typing import Array, Bool, Distribution, Float, Int, Key, Scalar
from lvm_jax.weights import LogJoint

CHUNK_SIZE = 1_000  # rows of z that fit in the cache; twice as fast as 25,000 on two CPU cores

BOUNDED = 6.0  # weights below so many times their mean have no tail to speak of


class Running(NamedTuple):
    """Running statistics of the log-weights."""

    largest: Scalar
    scaled: Moments  # of w exp(-largest)
    tail: Float[Array, " M1"]  # the M + 1 largest log-weights, descending
    counts: Int[Array, " 3"]  # of NaN, +inf, -inf


def importance(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_samples: int,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> Evidence:
    """log p(x) = log E_q[p(x, z) / q(z)] by the mean of S weights, of one data point, in nats.

        log (1/S) sum_s p(x, z_s) / q(z_s),    z_s ~ q

    Exact, with standard error 0, if q is the posterior. Streams chunks of at most `chunk_size`
    draws, so memory grows only by the sqrt(S) largest weights for k-hat. `num_samples` and
    `chunk_size` are static: another value compiles again, and another `chunk_size` changes the
    draws. The function is unjitted: jit it, or use `evidence.evaluate`.

    Raises ValueError for num_samples or chunk_size < 1, or a log-joint that does not fit q.
    """
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    num_chunks = math.ceil(num_samples / checks.integer(chunk_size, "chunk_size", 1))
    size = math.ceil(num_samples / num_chunks)  # equal chunks; the last is masked

    # Traced once, for the dtype and for the loop.
    chunk = jax.jit(lambda key: weights.log_weights(key, log_joint, q, size))

    def step(index: Array, running: Running) -> Running:
        keep = index * size + jnp.arange(size) < num_samples
        return _add(running, chunk(jax.random.fold_in(key, index)), keep)

    start = _nothing(pareto.tail_size(num_samples), jax.eval_shape(chunk, key).dtype)
    return _conclude(jax.lax.fori_loop(0, num_chunks, step, start), num_samples)


def streamed(
    key: Key[Array, ""],
    chunk: Callable[[Key[Array, ""]], tuple[Float[Array, " S"], Any]],
    num_chunks: Int[Array, ""],
    tail: Int[Array, ""],
    longest: int,
) -> tuple[Evidence, Scalar, Any]:
    """`importance` of num_chunks chunks of S weights by one program for every number.

    `chunk` makes the log-weights of one chunk and any other result. Returns the estimate, the
    largest log-weight, and the other result of the last chunk. The traced `tail` is
    `pareto.tail_size` of all weights, at most `longest`, the number of weights kept. k-hat is 0
    where no weight exceeds BOUNDED times the mean: the largest weights of a mixture that fits are
    those of one component, nearly equal, and k-hat is the shape of their rounding.
    """
    chunk = jax.jit(chunk)  # traced once, for the shapes and for the loop
    shapes = jax.eval_shape(chunk, key)
    size, dtype = shapes[0].shape[0], shapes[0].dtype

    def step(index: Array, state: tuple[Running, Any]) -> tuple[Running, Any]:
        log_w, last = chunk(jax.random.fold_in(key, index))
        return _add(state[0], log_w, jnp.ones(size, bool)), last

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[1])
    start = _nothing(longest, dtype), nothing
    running, last = jax.lax.fori_loop(0, num_chunks, step, start)
    found = _conclude(running, num_chunks * size, tail)
    k_hat = jnp.where(running.scaled.mean >= 1 / BOUNDED, 0.0, found.k_hat)
    failed = failed_checks(found.ess, k_hat, found.num_samples, running.counts[:2].sum())
    return found._replace(k_hat=k_hat, failed=failed), running.largest, last


def from_first(
    log_w: Float[Array, " S"], used: Bool[Array, " S"], number: Int[Array, ""], tail: Int[Array, ""]
) -> Evidence:
    """`from_log_weights` of the `number` weights in use; `tail` is `pareto.tail_size(number)`."""
    start = _nothing(pareto.tail_size(log_w.shape[0]), log_w.dtype)
    return _conclude(_add(start, log_w, used), number, tail)


def from_log_weights(log_w: Float[Array, " S"]) -> Evidence:
    """The Evidence of S independent log-weights with E[w] = p(x), from any proposal.

    Raises ValueError for anything but [S], the weights of one data point.
    """
    checks.one_point(log_w)
    start = _nothing(pareto.tail_size(log_w.shape[0]), log_w.dtype)
    return _conclude(_add(start, log_w, jnp.ones(log_w.shape[0], bool)), log_w.shape[0])


def _nothing(tail_size: int, dtype: jnp.dtype) -> Running:
    zero, least = jnp.zeros((), dtype), jnp.asarray(-jnp.inf, dtype)
    tail = jnp.full(tail_size + 1, -jnp.inf, dtype)
    return Running(least, Moments(zero, zero, zero), tail, jnp.zeros(3, jnp.int32))


def _add(running: Running, log_w: Float[Array, " S"], keep: Bool[Array, " S"]) -> Running:
    """The state after one more chunk."""
    kept = jnp.where(keep, log_w, -jnp.inf)
    largest = jnp.maximum(running.largest, kept.max())
    # Equal infinities must leave a scale of 1, not exp(inf - inf).
    same = running.largest == largest
    scale = jnp.where(same, 1.0, jnp.exp(running.largest - jnp.where(same, 0.0, largest)))
    before = running.scaled
    before = Moments(before.number, before.total * scale, before.squared * scale**2)
    tail = jax.lax.top_k(jnp.concatenate([running.tail, kept]), running.tail.shape[0])[0]
    odd = jnp.stack([jnp.isnan(log_w), jnp.isposinf(log_w), jnp.isneginf(log_w)])
    return Running(
        largest,
        merge(before, moments(jnp.exp(kept - _shift(largest)), keep)),
        tail,
        running.counts + (odd & keep[None]).sum(1, dtype=jnp.int32),
    )


def _shift(largest: Scalar) -> Scalar:
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def _conclude(
    running: Running, num_samples: int | Int[Array, ""], tail: Int[Array, ""] | None = None
) -> Evidence:
    """The estimate and its diagnostics; k-hat of the `tail` largest weights, or of all kept."""
    scaled = running.scaled
    ess = scaled.total**2 / (scaled.total * scaled.mean + scaled.squared)
    ess = jnp.where(scaled.total == 0, 0.0, ess)  # all weights are zero
    largest = running.tail
    if tail is not None:  # weights equal to the threshold do not count
        largest = jnp.where(jnp.arange(largest.size) <= tail, largest, largest[tail])
    k_hat = pareto.k_of_tail(largest)
    return Evidence(
        log_evidence=_shift(running.largest) + jnp.log(scaled.mean),
        standard_error=jnp.sqrt(scaled.variance / num_samples) / scaled.mean,
        ess=ess,
        k_hat=k_hat,
        num_samples=jnp.int32(num_samples),
        num_nan=running.counts[0],
        num_positive_infinite=running.counts[1],
        num_negative_infinite=running.counts[2],
        failed=failed_checks(ess, k_hat, num_samples, running.counts[:2].sum()),
    )
