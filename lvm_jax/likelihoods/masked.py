"""Likelihoods for missing entries or padded sequences: products over the observed entries."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax._core.support import MASK, Supports, up_to
from lvm_jax.likelihoods.base import Likelihood, split_outputs
from lvm_jax.typing import Array, Float, Key, Params, Scalar


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "outputs"],
    meta_fields=["likelihood", "single", "by_length"],
)
@dataclass(frozen=True, eq=False)
class Masked:
    """The product of p(x_d) over the observed entries d.

    A value is (x, mask), or (x, length), where entries d < length are observed. Other entries are
    ignored, but must lie in the support; use 0.
    """

    likelihood: Likelihood = field(repr=False)  # of all D entries
    single: Likelihood = field(repr=False)  # of one entry
    by_length: bool  # values are (x, length)
    params: Params
    outputs: Any  # [P D]

    @property
    def whole(self) -> Any:
        """The distribution of all entries."""
        return self.likelihood.build(self.params, self.outputs)

    @property
    def support(self) -> Supports:
        """The supports of x and of the mask or length."""
        return supports(self.likelihood, self.by_length, *self._dim)

    def log_prob(self, value: tuple[Float[Array, " D"], Array]) -> Scalar:
        """sum_d log p(x_d) over the observed entries, in nats."""
        x, mask = value
        checks.one_value(x, self._dim, "dimensions of the likelihood")
        if self.by_length:
            checks.one_value(mask, (), "length of one sequence")
            mask = jnp.arange(*self._dim) < mask
        checks.one_value(mask, self._dim, "dimensions of the likelihood")
        x = jnp.where(mask > 0, x, 0.0)  # 0 is in every support; other numbers could give NaN
        each = jax.vmap(self._one, in_axes=(self._axes(), 1, 0))(self.params, self._split(), x)
        return jnp.where(mask > 0, each, 0.0).sum()

    def sample(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws of all entries, with masks of ones or lengths D."""
        x = self.whole.sample(seed=seed, sample_shape=sample_shape)
        if self.by_length:
            return x, jnp.full(sample_shape, *self._dim)
        return x, jnp.ones(x.shape)

    def mean(self) -> Float[Array, " D"]:
        """E[x] of all entries."""
        return self.whole.mean()

    @property
    def _dim(self) -> tuple[int]:
        return (self.likelihood.num_outputs // self.single.num_outputs,)

    def _split(self) -> Float[Array, "P D"]:
        return split_outputs(self.outputs, self.single.num_outputs, *self._dim)

    def _axes(self) -> Any:
        """vmap axes of the parameters: 0 if each entry has its own, None if all share one."""
        key = jax.random.key(0)
        whole, single = (jax.eval_shape(part.init, key) for part in (self.likelihood, self.single))
        return jax.tree.map(lambda a, b: None if a.shape == b.shape else 0, whole, single)

    def _one(self, params: Params, outputs: Float[Array, " P"], x: Scalar) -> Scalar:
        like = jax.eval_shape(self.single.init, jax.random.key(0))
        own = jax.tree.map(lambda leaf, one: jnp.reshape(leaf, one.shape), params, like)
        return self.single.build(own, outputs).log_prob(x[None])


def masked(make: Callable[[int], Likelihood], dim: int) -> Likelihood:
    """The likelihood `make(dim)` of the observed entries; a value is (x, mask).

        log p(x_observed | outputs) = sum_d mask_d log p(x_d | outputs)

    It assumes entries missing at random. x and mask are [D]. `make` is one of
    `likelihoods.LIKELIHOODS`, or a partial with its options. A model names both parts of data
    points {"x": [D], "mask": [D]}:

        deep_latent_gaussian(prior, decoder, masked(gaussian, D), observed=("x", "mask"))

    IWAE with this likelihood is MIWAE. For padded sequences use `padded`.

    Raises as `make`. Source: Mattei and Frellsen (2019), equations 3 and 6.
    """
    return _masked(make, dim, by_length=False)


def padded(make: Callable[[int], Likelihood], max_length: int) -> Likelihood:
    """The likelihood of a sequence padded to `max_length` entries; a value is (x, length).

        log p(x | outputs) = sum_{t < length} log p(x_t | outputs)

    x is [max_length], padded by any number in the support, such as 0; length is an integer. See
    `masked`. A model names both parts of data points {"x": [T], "length": []}:

        Model(init, prior, likelihood, observed=("x", "length"))

    Raises as `make`.
    """
    return _masked(make, max_length, by_length=True)


def supports(likelihood: Likelihood, by_length: bool, dim: int) -> Supports:
    """The supports of x and of the mask or the length."""
    return likelihood.support, up_to(dim) if by_length else MASK


def _masked(make: Callable[[int], Likelihood], dim: int, by_length: bool) -> Likelihood:
    whole, single = make(dim), make(1)
    build = partial(Masked, whole, single, by_length)
    return whole._replace(build=build, support=supports(whole, by_length, dim))
