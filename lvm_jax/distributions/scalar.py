"""Distributions of one number, and products of distributions.

Each is a pytree of arrays. Densities and draws equal those of distrax's families of the same names
bit for bit.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lvm_jax._core import checks, keys
from lvm_jax.typing import Array, Distribution, Float, Key

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Family:
    """Base class that registers an object as a pytree of its attributes, except those in `static`.

    Unflattening does not call `__init__`, because JAX also unflattens with leaves that are no
    arrays, such as shapes, axes and masks.
    """

    static: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        def flatten(family: Family) -> tuple[Any, Any]:
            parts = vars(family)
            names = tuple(name for name in parts if name not in cls.static)
            children = [(jax.tree_util.GetAttrKey(name), parts[name]) for name in names]
            return children, (names, tuple((name, parts[name]) for name in cls.static))

        def unflatten(auxiliary: Any, children: Any) -> Family:
            names, static = auxiliary
            family = object.__new__(cls)
            vars(family).update(zip(names, children, strict=True))
            vars(family).update(static)
            return family

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name.lstrip('_')}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({parts})"


class Normal(Family):
    """N(loc, scale^2) for each element of a batch; `scale` is a standard deviation."""

    def __init__(self, loc: Any, scale: Any) -> None:
        self._loc, self._scale = _floats(loc), _floats(scale)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one draw."""
        return jnp.broadcast_shapes(self._loc.shape, self._scale.shape)

    @property
    def loc(self) -> Float[Array, "*B"]:
        """The means."""
        return jnp.broadcast_to(self._loc, self.batch_shape)

    @property
    def scale(self) -> Float[Array, "*B"]:
        """The standard deviations."""
        return jnp.broadcast_to(self._scale, self.batch_shape)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """loc + scale epsilon, [*sample_shape, *B]."""
        shape = (*sample_shape, *self.batch_shape)
        dtype = jnp.result_type(self._loc, self._scale)
        noise = jax.random.normal(keys.unrolled(seed), shape, dtype)
        return jnp.broadcast_to(self._scale, shape) * noise + jnp.broadcast_to(self._loc, shape)

    def log_prob(self, value: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Log-density of each element, in nats."""
        unnormalized = -0.5 * jnp.square((value - self._loc) / self._scale)
        return unnormalized - (HALF_LOG_2PI + jnp.log(self._scale))

    def entropy(self) -> Float[Array, "*B"]:
        """1/2 + log(2 pi)/2 + log scale, in nats."""
        return 0.5 + (HALF_LOG_2PI + jnp.log(self.scale))

    def mean(self) -> Float[Array, "*B"]:
        """The means."""
        return self.loc

    def stddev(self) -> Float[Array, "*B"]:
        """The standard deviations."""
        return self.scale

    def variance(self) -> Float[Array, "*B"]:
        """The variances."""
        return jnp.square(self.scale)


class Uniform(Family):
    """The uniform distribution on [low, high] for each element of a batch."""

    def __init__(self, low: Any = 0.0, high: Any = 1.0) -> None:
        self._low, self._high = _floats(low), _floats(high)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one draw."""
        return jnp.broadcast_shapes(self._low.shape, self._high.shape)

    @property
    def low(self) -> Float[Array, "*B"]:
        """The lower ends."""
        return jnp.broadcast_to(self._low, self.batch_shape)

    @property
    def high(self) -> Float[Array, "*B"]:
        """The upper ends."""
        return jnp.broadcast_to(self._high, self.batch_shape)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, *B]."""
        shape, width = (*sample_shape, *self.batch_shape), self.high - self.low
        share = jax.random.uniform(seed, shape, width.dtype)
        return jnp.broadcast_to(self._low, shape) + jnp.broadcast_to(width, shape) * share

    def log_prob(self, value: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """-log(high - low) inside, ends included; -inf outside."""
        off = (value < self.low) | (value > self.high)
        inside = jnp.ones_like(value) / (self.high - self.low)
        return jnp.log(jnp.where(off, jnp.zeros_like(value), inside))

    def entropy(self) -> Float[Array, "*B"]:
        """log(high - low), in nats."""
        return jnp.log(self.high - self.low)

    def mean(self) -> Float[Array, "*B"]:
        """The middles."""
        return (self.low + self.high) / 2.0

    def stddev(self) -> Float[Array, "*B"]:
        """(high - low) / sqrt(12)."""
        return (self.high - self.low) / math.sqrt(12.0)

    def variance(self) -> Float[Array, "*B"]:
        """(high - low)^2 / 12."""
        return jnp.square(self.high - self.low) / 12.0


class Independent(Family):
    """The product over the last axes of a batch of independent distributions.

    `distribution` may come from distrax. By default all axes but the first are reinterpreted.
    """

    static = ("reinterpreted_batch_ndims",)

    def __init__(
        self, distribution: Distribution, reinterpreted_batch_ndims: int | None = None
    ) -> None:
        self.distribution: Any = checks.distribution(distribution, "distribution")
        axes = len(self.distribution.batch_shape)
        taken = max(axes - 1, 0) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        if not 0 <= taken <= axes:
            raise ValueError(
                f"reinterpreted_batch_ndims: expected 0 to {axes}, the axes of the batch of "
                f"{type(distribution).__name__}, got {taken}"
            )
        self.reinterpreted_batch_ndims = taken

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The remaining axes of the batch."""
        shape = tuple(self.distribution.batch_shape)
        return shape[: len(shape) - self.reinterpreted_batch_ndims]

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws of every element."""
        return self.distribution.sample(seed=seed, sample_shape=sample_shape)

    def log_prob(self, value: Array) -> Array:
        """The sum over the elements, in nats."""
        return self._sum(self.distribution.log_prob(value))

    def entropy(self) -> Array:
        """The sum over the elements, in nats."""
        return self._sum(self.distribution.entropy())

    def mean(self) -> Array:
        """The mean of each element."""
        return self.distribution.mean()

    def stddev(self) -> Array:
        """The standard deviation of each element."""
        return self.distribution.stddev()

    def variance(self) -> Array:
        """The variance of each element."""
        return self.distribution.variance()

    def _sum(self, values: Array) -> Array:
        return values.sum(tuple(-i - 1 for i in range(self.reinterpreted_batch_ndims)))


def _floats(value: Any) -> Array:
    """The value as an array of floats; integers are converted."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(float)
    raise TypeError(f"parameters: expected numbers, got an array of {array.dtype}")
