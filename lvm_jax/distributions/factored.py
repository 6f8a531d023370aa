"""A normal whose covariance is a diagonal, changed on the span of a few columns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks, keys
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.typing import Array, Float, Key, Scalar


class FactoredNormal(NamedTuple):
    """N(mean, S (I - Q Q^T + Q L L^T Q^T) S), S = diag(scale), with R orthonormal columns in Q.

    The covariance is narrower or wider than S^2 on the span of S Q, where a `LowRankNormal` is only
    wider than its diagonal. A draw and its log-density cost O(D R).
    """

    mean: Float[Array, " D"]
    scale: Float[Array, " D"]
    basis: Float[Array, "D R"]  # Q
    factor: Float[Array, "R R"]  # L, lower

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        checks.one_value(value, self.mean.shape, "mean")
        white = (value - self.mean) / self.scale
        inside = white @ self.basis
        outside = white - self.basis @ inside
        inside = solve_triangular(self.factor, inside, lower=True)
        square = outside @ outside + inside @ inside
        return -0.5 * (square + value.size * LOG_2PI) - self.log_det()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, D]."""
        return self.sample_and_log_prob(seed=seed, sample_shape=sample_shape)[0]

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws [*sample_shape, D], and log q of each from its noise."""
        shape = (*sample_shape, self.mean.size)
        noise = jax.random.normal(keys.unrolled(seed), shape, self.mean.dtype)
        log_q = -0.5 * ((noise**2).sum(-1) + self.mean.size * LOG_2PI) - self.log_det()
        return jnp.broadcast_to(self.mean, shape) + self.transform(noise), log_q

    @precision.full
    def transform(self, noise: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
        """S (e + Q (L - I) Q^T e) for each row e."""
        inside = noise @ self.basis
        white = noise + (inside @ self.factor.T - inside) @ self.basis.T
        return white * jnp.broadcast_to(self.scale, white.shape)

    @precision.full
    def covariance(self) -> Float[Array, "D D"]:
        """The covariance, a D x D matrix."""
        root = self.transform(jnp.eye(self.mean.size, dtype=self.mean.dtype))
        return root.T @ root

    def log_det(self) -> Scalar:
        """Half the log-determinant of the covariance."""
        return jnp.log(self.scale).sum() + jnp.log(jnp.diagonal(self.factor)).sum()

    def entropy(self) -> Scalar:
        """D/2 (1 + log 2 pi) + log |Sigma| / 2, in nats."""
        return 0.5 * self.mean.size * (1 + LOG_2PI) + self.log_det()
