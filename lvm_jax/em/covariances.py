"""The four covariance types: their features of x x^T and their natural parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax.em import priors
from lvm_jax.em.families import Settings, Sums, keep_empty
from lvm_jax.em.gaussian import BlockMoments, Gaussian, Gaussians
from lvm_jax.em.pairs import move
from lvm_jax.em.priors import LOG_2PI
from lvm_jax.typing import Array, Float, Scalar


def _inverse_factor(cholesky: Float[Array, "D D"]) -> Float[Array, "D D"]:
    return solve_triangular(cholesky, jnp.eye(cholesky.shape[-1], dtype=cholesky.dtype), lower=True)


def _on_diagonal(function: Callable[[Array], Array], matrix: Float[Array, "D D"]) -> Array:
    """A function of the diagonal numbers; the others stay."""
    here = jnp.eye(matrix.shape[-1], dtype=bool)
    return jnp.where(here, function(jnp.where(here, matrix, 1)), matrix)


class _Matrix:
    """One-component operations of a [D, D] covariance."""

    by_pattern: ClassVar[bool] = True

    def whiten_one(self, scale: Array, centred: Array) -> Array:
        return centred @ _inverse_factor(scale).T

    def log_det_one(self, scale: Array, dim: int) -> Scalar:
        return jnp.log(jnp.diagonal(scale)).sum()

    def precision_one(self, scale: Array, dim: int) -> Array:
        inverse = _inverse_factor(scale)
        return inverse.T @ inverse

    def scatter_one(self, centred: Array, weight: Array) -> Array:
        return (centred * weight[:, None]).T @ centred

    def outer_one(self, d: Array) -> Array:
        return jnp.outer(d, d)

    def scale_like(self, spread: Array) -> Array:
        return jnp.diag(spread)

    def factor_one(self, scale: Array, dim: int) -> Array:
        return scale

    def covariance_one(self, scale: Array, dim: int) -> Array:
        return scale @ scale.T

    def variance_one(self, scale: Array, dim: int) -> Array:
        return (scale * scale).sum(1)

    def free_scale_one(self, scale: Array, unit: Array, dim: int) -> Array:
        white = solve_triangular(unit, scale, lower=True)
        return _on_diagonal(lambda d: np.sqrt(2.0) * jnp.log(d), white)

    def bound_scale_one(self, free: Array, unit: Array, dim: int) -> Array:
        return unit @ jnp.tril(_on_diagonal(lambda d: jnp.exp(d / np.sqrt(2.0)), free))

    def colour_one(self, scale: Array, white: Array) -> Array:
        return scale @ white

    def from_covariance(self, covariance: Array) -> Array:
        return jnp.linalg.cholesky(covariance)

    def regularize(self, covariance: Array, amount: Scalar) -> Array:
        return covariance + amount * jnp.eye(covariance.shape[-1], dtype=covariance.dtype)

    def log_prior_scale(self, scale: Array, prior: priors.NormalInverseWishart) -> Scalar:
        return priors.log_inverse_wishart(scale, prior)


@lru_cache
def _rolled_pairs(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (i, j) of the features x_i x_{(i+s) mod D}, s = 0..D/2, and each pair's position.

    Cyclic shifts give contiguous rows of equal length, which vectorise; rows of a triangle do not.
    """
    shifts = np.arange((dim + 1) // 2)
    i = np.tile(np.arange(dim), len(shifts))
    j = (i + np.repeat(shifts, dim)) % dim
    if dim % 2 == 0:
        half = np.arange(dim // 2)
        i, j = np.concatenate([i, half]), np.concatenate([j, half + dim // 2])
    position = np.zeros((dim, dim), np.int32)
    position[i, j] = position[j, i] = np.arange(len(i))
    # int32, because JAX confuses int64 indices when x64 is switched on and off in one process.
    return i.astype(np.int32), j.astype(np.int32), position


@dataclass(frozen=True)
class Full(_Matrix, Gaussian):
    """One [D, D] covariance per component. t(x) = (x, the D(D+1)/2 products x_i x_j)."""

    covariance_type: ClassVar[str] = "full"

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """x and its products with its cyclic shifts."""
        dim = x.shape[1]
        twice = jnp.concatenate([x, x], 1)
        products = [x * twice[:, s : s + dim] for s in range((dim + 1) // 2)]
        if dim % 2 == 0:
            products.append(x[:, : dim // 2] * x[:, dim // 2 :])
        return jnp.concatenate([x, *products], 1)

    def natural(self, components: Gaussians) -> tuple[Array, Array]:
        """eta = (P m, -P_ij, halved on the diagonal), offset = -m^T P m / 2 - log|L| - ..."""
        dim = components.deviations.shape[1]
        i, j, _ = _rolled_pairs(dim)
        factor = jnp.asarray(np.where(i == j, -0.5, -1.0), components.deviations.dtype)

        def one(mean: Array, scale: Array) -> tuple[Array, Array]:
            precision = self.precision_one(scale, dim)
            linear = precision @ mean
            offset = -0.5 * (mean @ linear + dim * LOG_2PI) - self.log_det_one(scale, dim)
            return jnp.concatenate([linear, factor * precision[i, j]]), offset

        return jax.vmap(one)(*components[:2])

    def num_quadratic(self, num_features: int) -> int:
        """F - D, where F = D + D(D+1)/2 is solved for D."""
        return num_features - int((np.sqrt(9 + 8 * num_features) - 3) / 2 + 0.5)

    def second(self, sums: Sums, dim: int) -> Array:
        """Unfold the products into [K, D, D]."""
        return sums.features[:, dim:][:, _rolled_pairs(dim)[2]]

    def degrees_one(self, n: Scalar, dim: int, prior: Any) -> Scalar:
        """n; with a prior, the degrees of freedom at the joint mode of mean and covariance."""
        return n if prior is None else prior.degrees + n + dim + 2

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """K (D + D(D+1)/2)."""
        return num_components * (dim + dim * (dim + 1) // 2)


@dataclass(frozen=True)
class Tied(_Matrix, Gaussian):
    """One [D, D] covariance for all components. t(x) = x; -x^T P x / 2 is shared."""

    covariance_type: ClassVar[str] = "tied"
    scale_axis: ClassVar[int | None] = None

    def natural(self, components: Gaussians) -> tuple[Array, Array]:
        """eta_k = P m_k, offset_k = -m_k^T P m_k / 2 - log|L| - ..."""
        dim = components.deviations.shape[1]
        precision = self.precision_one(components.scale, dim)
        constant = -0.5 * dim * LOG_2PI - self.log_det_one(components.scale, dim)

        def one(mean: Array) -> tuple[Array, Array]:
            linear = precision @ mean
            return linear, constant - 0.5 * mean @ linear

        return jax.vmap(one)(components.deviations)

    def base(self, components: Gaussians, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """-x^T P x / 2."""
        y = self.whiten_one(components.scale, x)
        return -0.5 * (y * y).sum(1)

    def shared(self, x: Float[Array, "n D"], weight: Float[Array, " n"]) -> Array:
        """sum_n w_n x_n x_n^T."""
        return self.scatter_one(x, weight)

    def num_quadratic(self, num_features: int) -> int:
        """Zero, because the second moments are shared."""
        return 0

    def second(self, sums: Sums, dim: int) -> Array:
        """The shared second moments."""
        return sums.shared

    def pool(self, per_component: Array) -> Array:
        """The sum of the components' scatter matrices."""
        return per_component.sum(0)

    def maximize(self, summary: BlockMoments, previous: Gaussians, settings: Settings) -> Gaussians:
        """Weighted means, and one covariance from the pooled scatter; MAP with a prior."""
        counts, means, scatter, low = summary
        prior, (num_components, dim) = settings.prior, means.shape
        degrees = counts.sum()
        if prior is not None:
            d = (means - prior.mean[None]) + low
            pull = prior.strength / (prior.strength + counts)
            scatter = scatter + prior.scale + (d * (pull * counts)[:, None]).T @ d
            means, low = move(means, low, -pull[:, None] * d)
            degrees = degrees + prior.degrees + dim + 1 + num_components
        covariance = self.regularize(scatter / degrees, settings.regularization)
        if prior is None:
            old = self.complete(previous)
            means, low = keep_empty(counts, (means, low), (old.deviations, old.remainder))
        return Gaussians(means, self.from_covariance(covariance), low)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Gaussians:
        """Means at the centres, and a covariance with the standard deviations of the data."""
        return Gaussians(centres, jnp.diag(spread), jnp.zeros_like(centres))

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """K D + D(D+1)/2."""
        return num_components * dim + dim * (dim + 1) // 2


@dataclass(frozen=True)
class Diagonal(Gaussian):
    """D variances per component. t(x) = (x, x^2)."""

    covariance_type: ClassVar[str] = "diag"

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """x and its squares."""
        return jnp.concatenate([x, x * x], 1)

    def natural(self, components: Gaussians) -> tuple[Array, Array]:
        """eta = (m / s^2, -1 / (2 s^2))."""
        dim = components.deviations.shape[1]

        def one(mean: Array, scale: Array) -> tuple[Array, Array]:
            precision = self.precision_one(scale, dim)
            linear = precision * mean
            offset = -0.5 * (mean @ linear + dim * LOG_2PI) - self.log_det_one(scale, dim)
            return jnp.concatenate([linear, -0.5 * precision]), offset

        return jax.vmap(one)(*components[:2])

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """2 K D."""
        return 2 * num_components * dim


@dataclass(frozen=True)
class Spherical(Gaussian):
    """One variance per component. t(x) = (x, |x|^2)."""

    covariance_type: ClassVar[str] = "spherical"

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """x and its squared length."""
        return jnp.concatenate([x, (x * x).sum(1, keepdims=True)], 1)

    def natural(self, components: Gaussians) -> tuple[Array, Array]:
        """eta = (m / s^2, -1 / (2 s^2))."""
        dim = components.deviations.shape[1]

        def one(mean: Array, scale: Array) -> tuple[Array, Array]:
            precision = scale**-2
            offset = -0.5 * (precision * mean @ mean + dim * LOG_2PI)
            eta = jnp.concatenate([precision * mean, -0.5 * precision[None]])
            return eta, offset - self.log_det_one(scale, dim)

        return jax.vmap(one)(*components[:2])

    def num_quadratic(self, num_features: int) -> int:
        """One: the squared length."""
        return 1

    def scale_like(self, spread: Float[Array, " D"]) -> Array:
        """The root mean square deviation."""
        return jnp.sqrt((spread**2).mean())

    def second(self, sums: Sums, dim: int) -> Array:
        """sum_n r_nk |x_n|^2, [K]."""
        return sums.features[:, dim]

    def scatter_one(self, centred: Float[Array, "n D"], weight: Float[Array, " n"]) -> Array:
        """sum_n w_n |x_n - m|^2."""
        return weight @ (centred * centred).sum(1)

    def outer_one(self, d: Float[Array, " D"]) -> Array:
        """|d|^2."""
        return d @ d

    def degrees_one(self, n: Scalar, dim: int, prior: Any) -> Scalar:
        """n D; with a prior, the degrees of freedom at the joint mode of mean and variance."""
        return n * dim if prior is None else prior.degrees + (n + 1) * dim + 2

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """K (D + 1)."""
        return num_components * (dim + 1)


GAUSSIANS: dict[str, Gaussian] = {
    family.covariance_type: family for family in (Full(), Tied(), Diagonal(), Spherical())
}
