"""Affine coupling layers."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions.flows.perceptron import Context, Perceptron, perceptron
from lvm_jax.typing import Array, Float, Key, Scalar

LIMIT = 2.0  # scale factors lie between exp(-LIMIT) and exp(LIMIT)


class Coupling(NamedTuple):
    """An affine coupling layer: the first half of z transforms the second half.

        y_2 = z_2 exp(a) + t,    a = LIMIT tanh(r / LIMIT),    (r, t) a network of (z_1, h)

    Both directions take one pass. The bound on a prevents very large or small scale factors.

    Source: Dinh et al. 2017, equations 4 and 5.
    """

    network: Perceptron

    def affine(self, fixed: Array, context: Context) -> tuple[Array, Array]:
        """a and t of the transformed coordinates."""
        scale, shift = self.network.given(context)(fixed).reshape(2, -1)
        return LIMIT * jnp.tanh(scale / LIMIT), shift

    def split(self, z: Array) -> tuple[Array, Array]:
        """The fixed coordinates, and those to transform."""
        size = self.network.weights[0].shape[-1]
        return z[:size], z[size:]

    def forward(self, z: Array, context: Context) -> tuple[Array, Scalar]:
        """y [D], and log |det dy/dz|."""
        fixed, moving = self.split(z)
        log_scale, shift = self.affine(fixed, context)
        return jnp.concatenate([fixed, moving * jnp.exp(log_scale) + shift]), log_scale.sum()

    def inverse(self, y: Array, context: Context) -> tuple[Array, Scalar]:
        """z [D], and log |det dy/dz|."""
        fixed, moved = self.split(y)
        log_scale, shift = self.affine(fixed, context)
        return jnp.concatenate([fixed, (moved - shift) * jnp.exp(-log_scale)]), log_scale.sum()

    @staticmethod
    def permute(z: Float[Array, " D"], times: int) -> Float[Array, " D"]:
        """Roll the coordinates by D / 2 `times` times, so that layers transform both halves."""
        return jnp.roll(z, -times * (z.size // 2))


def coupling(key: Key[Array, ""], dim: int, hidden: Sequence[int], context_dim: int) -> Coupling:
    """A coupling layer that starts as the identity; needs dim >= 2."""
    checks.key(key)
    fixed = dim // 2
    return Coupling(perceptron(key, fixed, hidden, 2 * (dim - fixed), context_dim))
