"""Multivariate normals as NamedTuples of plain arrays, safe under every transformation.

`sample_and_log_prob` evaluates log q from the noise of each draw. `log_prob` recovers the noise
from z. If q is narrower in some direction than the rounding of z, this noise is wrong, and bounds
on log p computed from `log_prob` are too high.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks, keys
from lvm_jax.typing import Array, Float, Key, Scalar

LOG_2PI = math.log(2 * math.pi)


def upper_factor(rows: Float[Array, "M R"]) -> tuple[Array, Array]:
    """Q [M, R] with orthonormal columns and upper R [R, R] of positive diagonal, Q R = `rows`.

    R^T is the Cholesky factor of rows^T rows. QR is more accurate than forming this product, which
    squares the condition number.
    """
    q, r = jnp.linalg.qr(rows)
    sign = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return q * sign[None], r * sign[:, None]


@precision.full
def capacitance(white: Float[Array, "D R"]) -> tuple[Array, Array, Array]:
    """Q_1 [D, R], Q_2 [R, R] and upper R of [white; I] = [Q_1; Q_2] R: I + white^T white = R^T R.

    Woodbury's identity for a covariance white white^T + I, backward stable.
    """
    eye = jnp.eye(white.shape[1], dtype=white.dtype)
    q, r = upper_factor(jnp.concatenate([white, eye]))
    return q[: white.shape[0]], q[white.shape[0] :], r


class LogCholesky(NamedTuple):
    """An unconstrained lower triangle with a positive diagonal (Pinheiro and Bates 1996)."""

    log_diagonal: Float[Array, " D"]
    lower: Float[Array, " D*(D-1)/2"]  # below the diagonal, row by row

    def factor(self) -> Float[Array, "D D"]:
        """L [D, D]; L L^T is positive definite for all parameter values."""
        below = np.tril_indices(self.log_diagonal.shape[0], -1)
        return jnp.diag(jnp.exp(self.log_diagonal)).at[below].set(self.lower)


class FullRankNormal(NamedTuple):
    """N(mean, L L^T) in D dimensions; a pytree of arrays, safe under every transformation."""

    mean: Float[Array, " D"]
    cholesky: Float[Array, "D D"]

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        checks.one_value(value, self.mean.shape, "mean")
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
        """Draws [*sample_shape, D], and log N(epsilon; 0, I) - log |L| of each draw."""
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

    def _capacitance(self) -> tuple[Array, Array, Scalar]:
        """Q_1 and Q_2 of [S^-1 F; I] = Q R, and half the log-determinant of the covariance."""
        top, bottom, upper = capacitance(self.factor / self.scale[:, None])
        return top, bottom, jnp.log(self.scale).sum() + jnp.log(jnp.diagonal(upper)).sum()

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats, at a cost of O(D R^2)."""
        checks.one_value(value, self.mean.shape, "mean")
        top, bottom, log_det = self._capacitance()
        white = (value - self.mean) / self.scale
        common = top.T @ white
        # The residual of [white; 0] after projection on the columns of Q, as a sum of squares:
        # Woodbury's difference loses all digits where F F^T is much larger than scale^2.
        own, rest = white - top @ common, bottom @ common
        return -0.5 * (own @ own + rest @ rest + value.size * LOG_2PI) - log_det

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """mean + F epsilon + scale epsilon', [*sample_shape, D]."""
        return self.sample_and_log_prob(seed=seed, sample_shape=sample_shape)[0]

    @precision.full
    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Draws [*sample_shape, D], and log q of each from its noise (e, e').

        With S = diag(scale) and [S^-1 F; I] = Q R, the quadratic form of z - mean is the squared
        residual of [e'; -e] after projection on the columns of Q.
        """
        key_factor, key_scale = jax.random.split(keys.unrolled(seed))
        dim, rank = self.factor.shape
        common = jax.random.normal(key_factor, (*sample_shape, rank), self.mean.dtype)
        own = jax.random.normal(key_scale, (*sample_shape, dim), self.mean.dtype)
        mean, scale = (jnp.broadcast_to(leaf, own.shape) for leaf in (self.mean, self.scale))
        z = mean + common @ self.factor.T + scale * own
        top, bottom, log_det = self._capacitance()
        along = own @ top - common @ bottom
        quadratic = ((own - along @ top.T) ** 2).sum(-1)
        quadratic = quadratic + ((common + along @ bottom.T) ** 2).sum(-1)
        return z, -0.5 * (quadratic + dim * LOG_2PI) - log_det

    def entropy(self) -> Scalar:
        """H = D/2 (1 + log 2 pi) + log |Sigma| / 2, in nats."""
        return 0.5 * self.mean.shape[0] * (1 + LOG_2PI) + self._capacitance()[2]
