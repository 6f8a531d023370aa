"""Pareto k-hat of importance weights from their tail alone (Vehtari et al. 2024), by blackjax.

k-hat estimates the shape of the tail of the weights: 1/k of their moments are finite. Up to 0.7
the estimate and its standard error can be trusted, beyond they cannot, however large S is.
"""

import jax.numpy as jnp

from lvm_jax.typing import Array, Float, Scalar

SHORTEST_TAIL = 5  # below it blackjax fits nothing and answers inf


def tail_size(num_samples: int) -> int:
    """M = min(3 sqrt(S), S / 5), the largest weights to which the tail is fitted."""
    return min(max(int(3 * num_samples**0.5), SHORTEST_TAIL), num_samples // 5)


def k_of_tail(tail: Float[Array, " M1"]) -> Scalar:
    """k-hat from the M + 1 largest log-weights, descending; inf for M < 5.

    0 where they agree to within rounding, sqrt(eps) relative, because then no weight stands out;
    NaN where only ties (few values of z) or zero weights leave nothing to fit, or where one is NaN.
    """
    size = tail.shape[0] - 1
    if size < SHORTEST_TAIL:
        return jnp.asarray(jnp.inf, tail.dtype)
    from blackjax.diagnostics import psis_weights

    # blackjax takes its M from the length of what it is given, and its k from the M + 1 largest.
    # So pad to 5 M with zero weights; a small r_eff makes its M = min(3 sqrt(n / r_eff), n // 5)
    # equal to n // 5 = M.
    padded = jnp.concatenate([tail, jnp.full(4 * size - 1, -jnp.inf, tail.dtype)])
    k = psis_weights(padded, r_eff=1.0 / size)[1]
    equal = tail[0] - tail[-1] <= jnp.sqrt(jnp.finfo(tail.dtype).eps)
    return jnp.where(equal, 0.0, k).astype(tail.dtype)
