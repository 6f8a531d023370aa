"""A distribution of pytrees from a distribution of vectors."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.distributions.base import has_sample_and_log_prob, is_reparameterized
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["flat", "origin"],
    meta_fields=["structure", "shapes"],
)
@dataclass(frozen=True, eq=False)
class Unflattened:
    """The distribution of a pytree z: its flattened vector minus `origin` is drawn from `flat`."""

    flat: Distribution  # [D]
    origin: Float[Array, " D"]
    structure: Any  # of z
    shapes: tuple[tuple[int, ...], ...]  # of the leaves of z

    @classmethod
    def around(cls, flat: Distribution, start: Latent) -> "Unflattened":
        """The distribution of pytrees like `start`, with `start` as the origin."""
        leaves, structure = jax.tree.flatten(start)
        origin = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
        return cls(flat, origin, structure, tuple(jnp.shape(leaf) for leaf in leaves))

    @property
    def reparameterized(self) -> bool:
        """Whether draws carry gradients to the parameters."""
        return is_reparameterized(self.flat)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Draws, leaves [*sample_shape, ...]."""
        return self._unflatten(self.flat.sample(seed=seed, sample_shape=sample_shape))

    def log_prob(self, value: Latent) -> Scalar:
        """Log-density of one z, in nats."""
        leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(value)]
        return self.flat.log_prob(jnp.concatenate(leaves) - self.origin)

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Latent, Array]:
        """Draws, leaves [*sample_shape, ...], and log q of each."""
        if has_sample_and_log_prob(self.flat):
            flat, log_q = self.flat.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
        else:
            flat = self.flat.sample(seed=seed, sample_shape=sample_shape)
            log_q = jnp.vectorize(self.flat.log_prob, signature="(d)->()")(flat)
        return self._unflatten(flat), log_q

    def _unflatten(self, flat: Float[Array, "*S D"]) -> Latent:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        moved = jnp.broadcast_to(self.origin, flat.shape) + flat
        parts = jnp.split(moved, ends[:-1], axis=-1)
        leaves = [
            part.reshape(*flat.shape[:-1], *shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)
