"""Log-sums over more terms than memory holds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, Float, Int, Scalar


def log_sum(terms: Callable[[Int[Array, ""]], Float[Array, " M"]], num_chunks: int) -> Scalar:
    """log sum_c sum_m exp(terms(c)_m) for c = 0, ..., num_chunks - 1, one chunk at a time.

    Memory is that of one chunk, for the gradient too: the backward pass computes each chunk again.
    NaN is kept, and so is -inf where every term is.
    """
    terms = jax.jit(terms)  # traced once, for the dtype and for the loop
    shape = jax.eval_shape(terms, jnp.int32(0))

    @jax.checkpoint
    def add(carry: tuple[Scalar, Scalar], chunk: Int[Array, ""]) -> tuple[tuple, None]:
        largest, total = carry
        values = terms(chunk)
        # The shift cancels in log(total) + shift, so that no gradient need flow through it.
        new = jax.lax.stop_gradient(jnp.maximum(largest, values.max()))
        shift = jnp.where(jnp.isfinite(new), new, 0.0)
        total = total * jnp.exp(largest - shift) + jnp.exp(values - shift).sum()
        return (new, total), None

    start = (jnp.array(-jnp.inf, shape.dtype), jnp.zeros((), shape.dtype))
    (largest, total), _ = jax.lax.scan(add, start, jnp.arange(num_chunks, dtype=jnp.int32))
    return jnp.log(total) + jnp.where(jnp.isfinite(largest), largest, 0.0)
