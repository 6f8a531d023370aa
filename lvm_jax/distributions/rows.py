"""Independent rows with one distribution each, for the local latents of a data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lvm_jax._core.support import Supports
from lvm_jax.distributions.base import data_support, is_discrete, is_reparameterized
from lvm_jax.typing import Array, Distribution, Key, Latent, Scalar


class Rows(NamedTuple):
    """The distribution of values [N, ...] with independent rows, row n ~ make(row n of `rows`).

    Rebuild it on each call: the closure `make` holds parameters.
    """

    make: Callable[[Any], Distribution]
    rows: Any  # leaves [N, ...]

    @property
    def one(self) -> Distribution:
        """The distribution of the first row; all rows have the same type."""
        return self.make(jax.tree.map(lambda leaf: leaf[0], self.rows))

    @property
    def reparameterized(self) -> bool:
        """Whether draws carry gradients to the parameters."""
        return is_reparameterized(self.one)

    @property
    def discrete(self) -> bool:
        """Whether the rows are discrete."""
        return is_discrete(self.one)

    @property
    def support(self) -> Supports:
        """The possible values of each entry of a row."""
        return data_support(self.one)

    def log_prob(self, value: Latent) -> Scalar:
        """sum_n log q_n(value_n), in nats."""
        return jax.vmap(lambda row, one: self.make(row).log_prob(one))(self.rows, value).sum()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Leaves [*sample_shape, N, ...]."""
        keys = jax.random.split(seed, jax.tree.leaves(self.rows)[0].shape[0])

        def draw(key: Key[Array, ""], row: Any) -> Latent:
            return self.make(row).sample(seed=key, sample_shape=sample_shape)

        return jax.vmap(draw, out_axes=len(sample_shape))(keys, self.rows)
