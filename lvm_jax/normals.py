"""Multivariate normals as NamedTuples of plain arrays, safe under every transformation.

Each prices its own draws (`sample_and_log_prob`) from the noise that made them. `log_prob` has to
recover the noise from z, which is rounded: where the normal is narrower, in some direction, than z
resolves there, it finds noise that was never drawn, and the bound of such a q would rise above
log p without limit.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from lvm_jax import keys, precision
from lvm_jax.typing import Array, Float, Key, Scalar

LOG_2PI = math.log(2 * math.pi)


class LogCholesky(NamedTuple):
    """Free numbers for a lower triangle with a positive diagonal (Pinheiro and Bates 1996)."""

    log_diagonal: Float[Array, " D"]
    lower: Float[Array, " D*(D-1)/2"]  # below the diagonal, row by row

    def factor(self) -> Float[Array, "D D"]:
        """L, so that L L^T is positive definite wherever the numbers move."""
        below = np.tril_indices(self.log_diagonal.shape[0], -1)
        return jnp.diag(jnp.exp(self.log_diagonal)).at[below].set(self.lower)


class FullRankNormal(NamedTuple):
    """N(mean, L L^T) in D dimensions; a pytree of arrays, safe under every transformation."""

    mean: Float[Array, " D"]
    cholesky: Float[Array, "D D"]

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        white = solve_triangular(self.cholesky, value - self.mean, lower=True)
        log_det = jnp.log(jnp.diagonal(self.cholesky)).sum()
        return -0.5 * (white @ white + value.size * LOG_2PI) - log_det

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """mean + L epsilon, [*sample_shape, D]."""
        return self.sample_and_log_prob(seed=seed, sample_shape=sample_shape)[0]

    @precision.full
    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws [*sample_shape, D], and log N(epsilon; 0, I) - log |L| of each, without a solve."""
        shape = (*sample_shape, self.mean.shape[0])
        noise = jax.random.normal(keys.unrolled(seed), shape, self.mean.dtype)
        log_det = jnp.log(jnp.diagonal(self.cholesky)).sum()
        log_q = -0.5 * ((noise**2).sum(-1) + self.mean.shape[0] * LOG_2PI) - log_det
        return jnp.broadcast_to(self.mean, shape) + noise @ self.cholesky.T, log_q

    def entropy(self) -> Scalar:
        """H = D/2 (1 + log 2 pi) + log |L|, in nats."""
        log_det = jnp.log(jnp.diagonal(self.cholesky)).sum()
        return 0.5 * self.mean.shape[0] * (1 + LOG_2PI) + log_det


class LowRankNormal(NamedTuple):
    """N(mean, F F^T + diag(scale^2)) in D dimensions with a factor F of R columns."""

    mean: Float[Array, " D"]
    factor: Float[Array, "D R"]
    scale: Float[Array, " D"]

    @precision.full
    def _capacitance(self) -> tuple[Array, Array]:
        """F^T S^-2, and the Cholesky factor of I + F^T S^-2 F (Woodbury's identity)."""
        scaled = (self.factor / (self.scale**2)[:, None]).T
        inner = jnp.eye(self.factor.shape[1], dtype=self.factor.dtype) + scaled @ self.factor
        return scaled, jnp.linalg.cholesky(inner)

    def _log_det(self, cholesky: Array) -> Scalar:
        """Half the log-determinant of the covariance."""
        return jnp.log(self.scale).sum() + jnp.log(jnp.diagonal(cholesky)).sum()

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats, at a cost of O(D R + R^3)."""
        scaled, cholesky = self._capacitance()
        delta = value - self.mean
        common = cho_solve((cholesky, True), scaled @ delta)
        # A sum of squares: the textbook difference loses all digits where F F^T dwarfs scale^2.
        own = (delta - self.factor @ common) / self.scale
        quadratic = own @ own + common @ common
        return -0.5 * (quadratic + value.size * LOG_2PI) - self._log_det(cholesky)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """mean + F epsilon + scale epsilon', [*sample_shape, D]."""
        return self.sample_and_log_prob(seed=seed, sample_shape=sample_shape)[0]

    @precision.full
    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws [*sample_shape, D], and log q of each from its own noise (e, e').

        With S = diag(scale) and C = I + F^T S^-2 F the quadratic form of z - mean is

            |e' - S^-1 F w|^2 + |e + w|^2,    w = C^-1 (F^T S^-1 e' - e)
        """
        key_factor, key_scale = jax.random.split(keys.unrolled(seed))
        dim, rank = self.factor.shape
        common = jax.random.normal(key_factor, (*sample_shape, rank), self.mean.dtype)
        own = jax.random.normal(key_scale, (*sample_shape, dim), self.mean.dtype)
        mean, scale = (jnp.broadcast_to(leaf, own.shape) for leaf in (self.mean, self.scale))
        z = mean + common @ self.factor.T + scale * own
        cholesky = self._capacitance()[1]
        white = self.factor / self.scale[:, None]
        shift = cho_solve((cholesky, True), (own @ white - common).reshape(-1, rank).T)
        shift = shift.T.reshape(common.shape)
        quadratic = ((own - shift @ white.T) ** 2).sum(-1) + ((common + shift) ** 2).sum(-1)
        return z, -0.5 * (quadratic + dim * LOG_2PI) - self._log_det(cholesky)

    def entropy(self) -> Scalar:
        """H = D/2 (1 + log 2 pi) + log |Sigma| / 2, in nats."""
        return 0.5 * self.mean.shape[0] * (1 + LOG_2PI) + self._log_det(self._capacitance()[1])
