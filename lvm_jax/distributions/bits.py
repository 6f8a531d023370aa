"""Independent bits, with a fast log-probability.

The log-probability takes one logarithm for 16 bits, of the product of 16 factors 1 + exp(-|l|),
each in (1, 2]. One logarithm for each bit would cost as much as the last layer of the decoder.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lvm_jax import precision
from lvm_jax._core import checks, keys
from lvm_jax._core.support import BITS, Support
from lvm_jax.typing import Array, Float, Key, Scalar

FEW = 64  # below this number of bits, softplus is as fast
GROUP = 16  # factors in one product, whose maximum 2^16 does not overflow


class Bernoulli(NamedTuple):
    """K independent bits, as floats 0.0 and 1.0 for relaxable densities."""

    logits: Float[Array, " K"]

    @property
    def support(self) -> Support:
        """0 and 1: data must be bits, although `log_prob` also accepts values between them."""
        return BITS

    def log_prob(self, value: Float[Array, " K"]) -> Scalar:
        """sum_k z_k l_k - log(1 + exp(l_k)), in nats."""
        checks.one_value(value, self.logits.shape, "logits")
        return _log_prob(value, self.logits)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Bits, [*sample_shape, K]."""
        shape = (*sample_shape, *self.logits.shape)
        noise = jax.random.logistic(keys.unrolled(seed), shape, self.logits.dtype)
        return (noise + jnp.broadcast_to(self.logits, shape) > 0).astype(noise.dtype)

    def mean(self) -> Float[Array, " K"]:
        """E[z_k] = sigmoid(l_k)."""
        return jax.nn.sigmoid(self.logits)

    def entropy(self) -> Scalar:
        """sum_k log(1 + exp(l_k)) - l_k sigmoid(l_k), in nats."""
        return -self.log_prob(self.mean())


@jax.custom_jvp
def _log_prob(value: Float[Array, " K"], logits: Float[Array, " K"]) -> Scalar:
    """sum_k z_k l_k - log(1 + exp(l_k)), in nats, to K / 2 units of roundoff, in one reduction.

    With several reductions, XLA stores the logits in memory instead of fusing their computation.
    """
    if logits.shape[0] < FEW:
        return _log_prob_by_sums(value, logits)
    factors = _rows(1 + jnp.exp(-jnp.abs(logits)), 1)
    terms = _rows(value * logits - jnp.maximum(logits, 0), 0)
    products, sums = jax.lax.reduce(
        (factors, terms),
        (jnp.ones((), factors.dtype), jnp.zeros((), terms.dtype)),
        lambda left, right: (left[0] * right[0], left[1] + right[1]),
        (0,),
    )
    return (sums - jnp.log(products)).sum()


@partial(_log_prob.defjvp, symbolic_zeros=True)
@precision.full
def _log_prob_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # The derivative stores the logits in any case, so separate sums make a training step faster.
    # A z without a tangent, such as data, adds no cost.
    value, logits = primals
    in_value, in_logits = tangents
    change = jnp.zeros((), jnp.result_type(*primals))
    if not isinstance(in_value, SymbolicZero):
        change += logits @ in_value
    if not isinstance(in_logits, SymbolicZero):
        change += value @ in_logits - jax.nn.sigmoid(logits) @ in_logits
    return _log_prob_by_sums(value, logits), change


@precision.full
def _log_prob_by_sums(value: Float[Array, " K"], logits: Float[Array, " K"]) -> Scalar:
    return value @ logits - _sum_softplus(logits)


@jax.custom_jvp
def _sum_softplus(logits: Float[Array, " K"]) -> Scalar:
    """sum_k log(1 + exp(l_k))."""
    if logits.shape[0] < FEW:
        return jax.nn.softplus(logits).sum()
    products = _rows(1 + jnp.exp(-jnp.abs(logits)), 1).prod(0)
    return jnp.maximum(logits, 0).sum() + jnp.log(products).sum()


@_sum_softplus.defjvp
@precision.full
def _sum_softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _sum_softplus(*primals), jax.nn.sigmoid(primals[0]) @ tangents[0]


def _rows(values: Float[Array, " K"], filling: float) -> Float[Array, "16 M"]:
    """K numbers as 16 rows, padded with the neutral element of the reduction."""
    padding = (0, -values.shape[0] % GROUP)
    return jnp.pad(values, padding, constant_values=filling).reshape(GROUP, -1)
