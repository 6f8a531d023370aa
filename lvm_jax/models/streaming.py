"""Log-sum-exp over more terms than fit in memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, Float, Int, Scalar


def log_sum(terms: Callable[[Int[Array, ""]], Float[Array, " M"]], num_chunks: int) -> Scalar:
    """log sum_c sum_m exp(terms(c)_m) for c = 0, ..., num_chunks - 1, one chunk at a time.

    Memory use is one chunk, also for the gradient: the backward pass recomputes each chunk. NaN is
    propagated; the result is -inf if every term is.
    """
    terms = jax.jit(terms)  # one trace for the dtype and the loop
    shape = jax.eval_shape(terms, jnp.int32(0))

    @jax.checkpoint
    def add(carry: tuple[Scalar, Scalar], chunk: Int[Array, ""]) -> tuple[tuple, None]:
        largest, total = carry
        values = terms(chunk)
        # The shift cancels in log(total) + shift, so it needs no gradient.
        new = jax.lax.stop_gradient(jnp.maximum(largest, values.max()))
        shift = jnp.where(jnp.isfinite(new), new, 0.0)
        total = total * jnp.exp(largest - shift) + jnp.exp(values - shift).sum()
        return (new, total), None

    start = (jnp.array(-jnp.inf, shape.dtype), jnp.zeros((), shape.dtype))
    (largest, total), _ = jax.lax.scan(add, start, jnp.arange(num_chunks, dtype=jnp.int32))
    return jnp.log(total) + jnp.where(jnp.isfinite(largest), largest, 0.0)
