"""The linear-Gaussian model with exact inference: PPCA, factor analysis and full noise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.distributions import FullRankNormal, LowRankNormal, normal
from lvm_jax.distributions.normals import LogCholesky, capacitance
from lvm_jax.models.base import Model
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar

NOISES = ("isotropic", "diagonal", "full")


class LinearGaussian(NamedTuple):
    """theta, in unconstrained parameters."""

    prior_mean: Float[Array, " L"]  # m
    loadings: Float[Array, "D L"]  # W
    offset: Float[Array, " D"]  # b
    log_noise: Scalar | Float[Array, " D"] | LogCholesky  # log standard deviations of Psi


def linear_gaussian(latent_dim: int, dim: int, noise: str = "isotropic") -> Model:
    """The model z ~ N(m, I_L), x | z ~ N(W z + b, Psi), in D dimensions.

    `noise` is isotropic (Psi = s^2 I: probabilistic PCA), diagonal (factor analysis) or full.
    The posterior and log p(x) have closed forms by Woodbury's identity. One evaluation costs
    O(D L^2 + L^3), or O(D^2 L) with full noise. `init` draws W from N(0, 1/L) with unit noise.
    `ppca` and `factor_analysis` give maximum-likelihood parameters.

    Raises ValueError for a dimension < 1 or an unknown `noise`.
    Source: Tipping and Bishop (1999), equations 2-6; Bishop (2006), section 12.2.
    """
    latent_dim = checks.integer(latent_dim, "latent_dim", 1)
    dim = checks.integer(dim, "dim", 1)
    noise = checks.choice(noise, "noise", NOISES)

    def init(key: Key[Array, ""]) -> LinearGaussian:
        checks.key(key)
        loadings = jax.random.normal(key, (dim, latent_dim)) / latent_dim**0.5
        log_noise: Array | LogCholesky = jnp.zeros(() if noise == "isotropic" else dim)
        if noise == "full":
            log_noise = LogCholesky(jnp.zeros(dim), jnp.zeros(dim * (dim - 1) // 2))
        return LinearGaussian(jnp.zeros(latent_dim), loadings, jnp.zeros(dim), log_noise)

    return Model(init, prior, likelihood, posterior, log_evidence)


def prior(theta: LinearGaussian) -> Distribution:
    """N(m, I)."""
    return normal(theta.prior_mean, jnp.ones_like(theta.prior_mean))


@precision.full
def likelihood(theta: LinearGaussian, z: Float[Array, " L"]) -> Distribution:
    """N(W z + b, Psi)."""
    mean = theta.loadings @ z + theta.offset
    if isinstance(theta.log_noise, LogCholesky):
        return FullRankNormal(mean, theta.log_noise.factor())
    return normal(mean, jnp.broadcast_to(jnp.exp(theta.log_noise), mean.shape))


@precision.full
def posterior(theta: LinearGaussian, x: Float[Array, " D"]) -> FullRankNormal:
    """N(m + V W^T Psi^-1 (x - b - W m), V), with V^-1 = I + W^T Psi^-1 W."""
    loadings, residual, _ = whiten(theta, x)
    # With reversed columns, [W; I] = Q R gives V^-1 = U U^T, where the upper U is R^T in reversed
    # order, so U^-T is the Cholesky factor of V. Not forming V or V^-1 keeps the accuracy of small
    # variances. The mean solves [W; I] z = [r; 0] by least squares.
    top, _, upper = capacitance(loadings[:, ::-1])
    inverse = solve_triangular(upper, jnp.eye(len(upper), dtype=upper.dtype))
    shift = (inverse @ (top.T @ residual))[::-1]
    return FullRankNormal(theta.prior_mean + shift, inverse[::-1, ::-1])


def log_evidence(theta: LinearGaussian, x: Float[Array, " D"]) -> Scalar:
    """log N(x; W m + b, W W^T + Psi), in nats."""
    loadings, residual, log_det = whiten(theta, x)
    unit = LowRankNormal(jnp.zeros_like(residual), loadings, jnp.ones_like(residual))
    return unit.log_prob(residual) - log_det


@precision.full
def whiten(theta: LinearGaussian, x: Float[Array, " D"]) -> tuple[Array, Array, Scalar]:
    """S^-1 W, S^-1 (x - b - W m) and log |S|, where S S^T = Psi: the model with unit noise."""
    residual = x - theta.offset - theta.loadings @ theta.prior_mean
    if isinstance(theta.log_noise, LogCholesky):
        columns = jnp.concatenate([theta.loadings, residual[:, None]], axis=1)
        white = solve_triangular(theta.log_noise.factor(), columns, lower=True)
        return white[:, :-1], white[:, -1], theta.log_noise.log_diagonal.sum()
    log_scale = jnp.broadcast_to(theta.log_noise, residual.shape)
    inverse = jnp.exp(-log_scale)
    return theta.loadings * inverse[:, None], residual * inverse, log_scale.sum()
