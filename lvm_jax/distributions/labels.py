"""Distributions of one label, as an integer or as a one-hot row."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lvm_jax.distributions.scalar import Family
from lvm_jax.typing import Array, Float, Key


class Categorical(Family):
    """A label in {0, ..., L - 1}, of type `dtype`, for each element of a batch.

    `logits` or `probs` are [*B, L]; only the log-probabilities are stored. Draws are -1 where a
    probability is NaN or negative.
    """

    static = ("dtype",)

    def __init__(self, logits: Any = None, probs: Any = None, dtype: Any = int) -> None:
        if (logits is None) == (probs is None):
            raise ValueError(
                f"{type(self).__name__}: expected logits or probs, got "
                f"{'neither' if logits is None else 'both'}"
            )
        if probs is not None:
            mass = jnp.asarray(probs)
            self.logits = jnp.log(mass / mass.sum(-1, keepdims=True))
        else:
            self.logits = jax.nn.log_softmax(jnp.asarray(logits), axis=-1)
        self.dtype = dtype

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the labels of one draw."""
        return self.logits.shape[:-1]

    @property
    def num_categories(self) -> int:
        """L."""
        return self.logits.shape[-1]

    @property
    def probs(self) -> Float[Array, "*B L"]:
        """The probabilities."""
        return jax.nn.softmax(self.logits, axis=-1)

    def _labels(self, seed: Key[Array, ""], sample_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Labels [*sample_shape, *B], and whether their probabilities are valid, [*B]."""
        shape = (*sample_shape, *self.batch_shape)
        labels = jax.random.categorical(seed, self.logits, axis=-1, shape=shape)
        return labels, (jnp.isfinite(self.probs) & (self.probs >= 0)).all(-1)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Labels, [*sample_shape, *B]."""
        labels, valid = self._labels(seed, sample_shape)
        return jnp.where(jnp.broadcast_to(valid, labels.shape), labels.astype(self.dtype), -1)

    def log_prob(self, value: Array) -> Float[Array, "*B"]:
        """Log-probability of each label, in nats; -inf outside {0, ..., L - 1}."""
        row = jax.nn.one_hot(value, self.num_categories, dtype=self.logits.dtype)
        off = (value < 0) | (value > self.num_categories - 1)
        return jnp.where(off, -jnp.inf, _product(self.logits, row).sum(-1))

    def entropy(self) -> Float[Array, "*B"]:
        """-sum_l p_l log p_l, in nats."""
        log_p = jax.nn.log_softmax(self.logits, axis=-1)
        p = jnp.exp(log_p)
        return -(jnp.where(p == 0, 0.0, log_p) * p).sum(-1)


class OneHotCategorical(Categorical):
    """A one-hot row of L numbers instead of a label; `log_prob` is linear in the row."""

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Rows, [*sample_shape, *B, L]."""
        labels, valid = self._labels(seed, sample_shape)
        rows = jax.nn.one_hot(labels, self.num_categories).astype(self.dtype)
        return jnp.where(jnp.broadcast_to(valid[..., None], rows.shape), rows, -1)

    def log_prob(self, value: Array) -> Float[Array, "*B"]:
        """sum_l z_l log p_l, in nats."""
        return _product(self.logits, value).sum(-1)


@jax.custom_jvp
def _product(logits: Array, value: Array) -> Array:
    """logits * value, but 0 where the value is 0 and the logit infinite; product derivatives."""
    dtype = jnp.result_type(logits, value)
    return jnp.where(value == 0, jnp.zeros((), dtype), logits * value)


def _product_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (logits, value), (in_logits, in_value) = primals, tangents
    out = _product(logits, value)
    change = jnp.zeros_like(out)
    if not isinstance(in_logits, SymbolicZero):
        change += in_logits * value
    if not isinstance(in_value, SymbolicZero):
        change += in_value * logits
    return out, change


_product.defjvp(_product_jvp, symbolic_zeros=True)
