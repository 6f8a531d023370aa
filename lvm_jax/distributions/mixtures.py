"""Mixtures of normals with full covariances, each of one or several widths."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.typing import Array, Float, Int, Key, Scalar

AT_ONCE = 2**22  # numbers in the factors of the draws that are placed at once


class NormalMixture(NamedTuple):
    """sum_kj pi_kj N(m_k, s_j^2 (C_k C_k^T)^-1) in D dimensions; a pytree of arrays."""

    log_weights: Float[Array, "K J"]  # log pi, normalised
    means: Float[Array, "K D"]  # m
    factors: Float[Array, "K D D"]  # C, lower
    widths: Float[Array, " J"]  # s

    @property
    def reparameterized(self) -> bool:
        """False: the choice of the component has no derivative."""
        return False

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        return jax.nn.logsumexp(self.log_weights + self.log_parts(value))

    def log_parts(self, value: Float[Array, " D"]) -> Float[Array, "K J"]:
        """The log-density of each component at one point, in nats."""
        checks.one_value(value, self.means.shape[1:], "means")
        return self._log_parts(self._squares(value))

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, each from a random component, [*sample_shape, D]."""
        return self._draw(seed, sample_shape)[0]

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws [*sample_shape, D], and log q of each, its own component from the noise."""
        z, noise, label = self._draw(seed, sample_shape)
        own, width = jnp.divmod(label, self.widths.size)

        def log_q(z: Array, noise: Array, own: Array, width: Array) -> Scalar:
            square = (self.widths[width] * noise) ** 2
            parts = self._log_parts(self._squares(z).at[own].set(square.sum()))
            return jax.nn.logsumexp(self.log_weights + parts)

        return z, jnp.vectorize(log_q, signature="(d),(d),(),()->()")(z, noise, own, width)

    def place(self, noise: Float[Array, "S D"], label: Int[Array, " S"]) -> Float[Array, "S D"]:
        """m_k + s_j C_k^-T e for rows e of the noise, with label k J + j."""
        dim = self.means.shape[1]

        def one(row: tuple[Array, Array]) -> Array:
            noise, (own, width) = row[0], jnp.divmod(row[1], self.widths.size)
            away = solve_triangular(self.factors[own], noise, trans=1, lower=True)
            return self.means[own] + self.widths[width] * away

        return jax.lax.map(one, (noise, label), batch_size=max(AT_ONCE // dim**2, 1))

    def _draw(self, seed: Key[Array, ""], shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
        key_label, key_noise = jax.random.split(seed)
        count, dim = math.prod(shape), self.means.shape[1]
        label = jax.random.categorical(key_label, self.log_weights.ravel(), shape=(count,))
        noise = jax.random.normal(key_noise, (count, dim), self.means.dtype)
        z = self.place(noise, label)
        return z.reshape(*shape, dim), noise.reshape(*shape, dim), label.reshape(shape)

    @precision.full
    def _squares(self, value: Float[Array, " D"]) -> Float[Array, " K"]:
        """|C_k^T (z - m_k)|^2."""
        white = jnp.einsum("kd,kde->ke", value[None] - self.means, self.factors)
        return (white**2).sum(1)

    def _log_parts(self, squares: Float[Array, " K"]) -> Float[Array, "K J"]:
        log_det = jnp.log(jnp.diagonal(self.factors, axis1=1, axis2=2)).sum(1)
        own = -0.5 * squares[:, None] / self.widths[None] ** 2 + log_det[:, None]
        return own - self.means.shape[1] * (jnp.log(self.widths)[None] + 0.5 * LOG_2PI)
