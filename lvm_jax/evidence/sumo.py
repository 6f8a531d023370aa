"""SUMO: an unbiased estimate of log p(x) by a randomised telescope (Luo et al. 2020)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import weights
from lvm_jax._core import checks
from lvm_jax.bounds import iwae
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar
from lvm_jax.weights import LogJoint

LAST_HARMONIC, TAIL_RATIO = 80, 0.9


class Telescope(NamedTuple):
    """One unbiased draw of log p(x), and its cost."""

    log_evidence: Float[Array, "..."]
    num_terms: Int[Array, "..."]  # K
    num_samples: Int[Array, "..."]  # start + K


class _State(NamedTuple):
    terms: Int[Array, ""]  # k
    bound: Scalar  # IWAE of the first start + k weights
    value: Scalar  # the telescope up to term k
    alive: Array  # K >= k + 1


def sumo(key: Key[Array, ""], log_joint: LogJoint, q: Distribution, *, start: int = 1) -> Telescope:
    """One draw of log p(x) whose expectation is log p(x) itself, in nats: no bound, no bias.

        L_m + sum_{k=1}^{K} (L_{m+k} - L_{m+k-1}) / P(K >= k),    m = `start`

    L_j is IWAE's bound of the first j weights; P(K >= k) = 1/k up to k = 80, then
    0.9^(k - 80) / 80 (Luo et al. 2020, section 4). A maximum of K would bias.

    Cost: start + 5.1 evaluations on average, with a long tail, in a while_loop: a vmap over draws
    takes the time of the longest. Variance: in theory infinite. A difference of order 1/k is
    divided by P(K >= k), so the harmonic part adds a term of log 80, and the geometric part
    diverges. Draws with K > 150 are rare (once in 10^5) but large, and heavy-tailed weights make
    the variance worse. Average many draws, check their spread, and increase `start`. -inf if the
    first m weights are all 0; the expectation is then -inf. Not differentiable in reverse mode.

    Raises ValueError for start < 1, or a log-joint that does not fit q.
    """
    checks.key(key)
    start = checks.integer(start, "start", 1)
    key_first, key_terms = jax.random.split(key)
    bound = iwae(weights.log_weights(key_first, log_joint, q, start))

    def step(state: _State) -> _State:
        k = state.terms + 1
        key_weight, key_stop = jax.random.split(jax.random.fold_in(key_terms, k))
        log_w = weights.log_weights(key_weight, log_joint, q, 1)[0]
        term = _growth(log_w - state.bound, start + k)
        term = jnp.where(state.bound == -jnp.inf, 0.0, term)  # the telescope stays at L_m
        # One coin a term draws K exactly; one float32 uniform would limit K to 190.
        alive = jax.random.bernoulli(key_stop, _survival(k + 1) / _survival(k))
        value = state.value + term / _survival(k).astype(term.dtype)
        return _State(k, state.bound + term, value, alive)

    first = _State(jnp.int32(0), bound, bound, jnp.asarray(True))
    last = jax.lax.while_loop(lambda state: state.alive, step, first)
    return Telescope(last.value, last.terms, start + last.terms)


def _growth(excess: Scalar, size: Int[Array, ""]) -> Scalar:
    """L_j - L_{j-1}, j = `size`, where log w_j = L_{j-1} + `excess`.

    log1p avoids the rounding of a difference of logarithms, which the division by a small P(K >= k)
    would amplify; the other form is for an excess that overflows.
    """
    near = jnp.log1p(jnp.expm1(jnp.minimum(excess, 30.0)) / size)
    far = excess - jnp.log(size.astype(excess.dtype))
    return jnp.where(excess > 30.0, far, near)


def _survival(k: Int[Array, ""]) -> Scalar:
    """P(K >= k), k = 1, 2, ..."""
    harmonic = 1 / jnp.minimum(k, LAST_HARMONIC)
    return harmonic * TAIL_RATIO ** jnp.maximum(k - LAST_HARMONIC, 0)
