"""Gaussian components with full, tied, diagonal and spherical covariances.

The data are centred at an origin before t(x), which reduces the rounding error of the quadratic
form. `is_safe` estimates this error. Where it is too large (tight components far from the origin)
the loop uses the exact path: it computes x - mean_k in the data's coordinates, which is exact for
a row near mean_k, stores each mean as a sum of two numbers, and merges scatters that are positive
semi-definite by construction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax.em import priors
from lvm_jax.em.coordinates import Whitened
from lvm_jax.em.families import (
    ROUNDING_NATS,
    ExponentialFamily,
    Settings,
    Sums,
    divide,
    keep_empty,
    reweighted,
)
from lvm_jax.em.pairs import move
from lvm_jax.em.priors import LOG_2PI
from lvm_jax.typing import Array, Bool, Float, Int, Key, Scalar


class Gaussians(NamedTuple):
    """K Gaussians: mean_k = origin + deviations_k + remainder_k, covariance_k = scale_k scale_k^T.

    The remainder is the rounding error of the deviations; None means zero.
    """

    deviations: Float[Array, "K D"]
    scale: Any  # lower triangles [K, D, D] (full) or [D, D] (tied), or deviations [K, D], [K]
    remainder: Any = None  # [K, D]


class BlockMoments(NamedTuple):
    """Counts, means (+ remainder) and summed scatter about the means, of one block."""

    counts: Float[Array, " K"]
    means: Float[Array, "K D"]
    scatter: Any
    remainder: Float[Array, "K D"]


@dataclass(frozen=True)
class Gaussian(Whitened, ExponentialFamily):
    """The common part of the four covariance types. Each variance gets `regularization` added."""

    covariance_type: ClassVar[str]
    translates: ClassVar[bool] = True
    has_exact_path: ClassVar[bool] = True

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The family of rows with missing entries (NaN), with the same components."""
        from lvm_jax.em.incomplete import gaussian  # its families are subclasses of this one

        return gaussian(self, block)

    # Operations of one component; each covariance type overrides some of them.
    def whiten_one(self, scale: Array, centred: Float[Array, "n D"]) -> Float[Array, "n D"]:
        """scale^-1 (x - mean), from centred rows."""
        return centred / jnp.atleast_1d(scale)[None]

    def log_det_one(self, scale: Array, dim: int) -> Scalar:
        """Log-determinant of the scale."""
        return jnp.broadcast_to(jnp.log(scale), (dim,)).sum()

    def precision_one(self, scale: Array, dim: int) -> Array:
        """The inverse covariance, [D, D] or its diagonal [D]."""
        return jnp.broadcast_to(scale**-2, (dim,))

    def variance_one(self, scale: Array, dim: int) -> Float[Array, " D"]:
        """The diagonal of the covariance."""
        return jnp.broadcast_to(scale**2, (dim,))

    def scatter_one(self, centred: Float[Array, "n D"], weight: Float[Array, " n"]) -> Array:
        """sum_n w_n (x_n - m)(x_n - m)^T, reduced to this covariance type."""
        return weight @ (centred * centred)

    def outer_one(self, d: Float[Array, " D"]) -> Array:
        """d d^T, reduced to this covariance type."""
        return d * d

    scale_axis: ClassVar[int | None] = 0

    def factor_one(self, scale: Array, dim: int) -> Float[Array, "D D"]:
        """The lower Cholesky factor of the covariance."""
        return jnp.diag(jnp.broadcast_to(scale, (dim,)))

    def covariance_one(self, scale: Array, dim: int) -> Float[Array, "D D"]:
        """The covariance as a [D, D] matrix."""
        return jnp.diag(jnp.broadcast_to(scale**2, (dim,)))

    def exact_log_prob(self, components: Gaussians, x: Float[Array, "n D"]) -> Array:
        """log p(x | z=k) from rows centred at each component."""
        dim = x.shape[1]
        mean, scale, low = self.complete(components)

        def one(mean: Array, low: Array, scale: Array) -> Array:
            y = self.whiten_one(scale, (x - mean[None]) - low[None])
            return -0.5 * ((y * y).sum(1) + dim * LOG_2PI) - self.log_det_one(scale, dim)

        # lax.map, not vmap: one [n, D] block at a time stays in cache.
        if self.scale_axis is None:
            return jax.lax.map(lambda each: one(each[0], each[1], scale), (mean, low)).T
        return jax.lax.map(lambda each: one(*each), (mean, low, scale)).T

    def complete(self, components: Gaussians) -> Gaussians:
        """The components, with a zero remainder where it is None."""
        if components.remainder is not None:
            return components
        return components._replace(remainder=jnp.zeros_like(components.deviations))

    def translate(self, components: Gaussians, shift: Float[Array, "*R D"]) -> Gaussians:
        """The same components relative to the origin minus `shift`."""
        mean, scale, low = self.complete(components)
        mean, low = move(mean, low, jnp.broadcast_to(shift, mean.shape))
        return Gaussians(mean, scale, low)

    def translate_summary(self, summary: BlockMoments, shift: Float[Array, "*R D"]) -> BlockMoments:
        """The summary of the rows x + shift; components without points keep mean zero."""
        shift = jnp.where(summary.counts[:, None] > 0, shift[None], 0)
        means, low = move(summary.means, summary.remainder, shift)
        return summary._replace(means=means, remainder=low)

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> BlockMoments:
        """Counts, means, and scatters about those means, without cancellation."""
        counts = resp.sum(0)
        means = divide(resp.T @ x, counts)

        def one(each: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            mean, resp, count = each
            centred = x - mean[None]
            low = resp @ centred / jnp.where(count > 0, count, 1)  # rounding error of the mean
            return self.scatter_one(centred - low[None], resp), low

        scatter, low = jax.lax.map(one, (means, resp.T, counts))
        return BlockMoments(counts, means, self.pool(scatter), low)

    def pool(self, per_component: Array) -> Array:
        """The scatters as they are; tied covariances return their sum."""
        return per_component

    def merge(self, a: BlockMoments, b: BlockMoments) -> BlockMoments:
        """Moments of the union of two blocks (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        counts = a.counts + b.counts
        share = b.counts / jnp.where(counts > 0, counts, 1)
        high, low = b.means - a.means, b.remainder - a.remainder
        between = jax.vmap(lambda d, w: w * self.outer_one(d))(high + low, a.counts * share)
        scatter = a.scatter + b.scatter + self.pool(between)
        low = a.remainder + share[:, None] * low
        means, low = move(a.means, low, share[:, None] * high)
        return BlockMoments(counts, means, scatter, low)

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The means are not changed."""
        return reweighted(summary, factor)

    def summarize(self, sums: Sums) -> BlockMoments:
        """Moments from sums of t(x): scatter = sum x x^T - n m m^T."""
        dim = sums.features.shape[1] - self.num_quadratic(sums.features.shape[1])
        means = divide(sums.features[:, :dim], sums.counts)
        outer = jax.vmap(lambda n, m: n * self.outer_one(m))(sums.counts, means)
        scatter = self.second(sums, dim) - self.pool(outer)
        return BlockMoments(sums.counts, means, scatter, jnp.zeros_like(means))

    def num_quadratic(self, num_features: int) -> int:
        """The number of features of degree two."""
        return num_features // 2

    def second(self, sums: Sums, dim: int) -> Array:
        """sum_n r_nk x x^T, reduced to this covariance type."""
        return sums.features[:, dim:]

    def is_safe(self, components: Gaussians) -> Bool[Array, ""]:
        """Whether the rounding error of <t(x), eta_k> is within ROUNDING_NATS.

        The error's measured root mean square is about u b_k D / 4 nats, within a factor of 3 for
        D = 2 to 64. u is the unit roundoff; b_k is the root sum of squares of the terms of the
        quadratic form at two standard deviations from mean_k.
        """
        dim = components.deviations.shape[1]

        def one(mean: Array, scale: Array) -> Array:
            precision = self.precision_one(scale, dim)
            reach = jnp.abs(mean) + 2 * jnp.sqrt(self.variance_one(scale, dim))
            terms = precision * (jnp.outer(reach, reach) if precision.ndim == 2 else reach**2)
            return 0.5 * jnp.sqrt((terms**2).sum())

        size = jax.vmap(one, in_axes=(0, self.scale_axis))(*components[:2])
        dtype = components.deviations.dtype
        nats = size * dim / 4 * jnp.finfo(dtype).eps / 2
        return jnp.all(nats <= ROUNDING_NATS[dtype.itemsize])

    # M-step
    def degrees_one(self, n: Scalar, dim: int, prior: Any) -> Scalar:
        """The divisor of one component's scatter."""
        return n if prior is None else prior.degrees + n + 3

    def from_covariance(self, covariance: Array) -> Array:
        """The square root of the variances; NaN where a variance is not positive."""
        return jnp.sqrt(jnp.where(covariance > 0, covariance, jnp.nan))

    def regularize(self, covariance: Array, amount: Scalar) -> Array:
        """Add `amount` to every variance."""
        return covariance + amount

    def maximize(self, summary: BlockMoments, previous: Gaussians, settings: Settings) -> Gaussians:
        """Weighted means and covariances (Bishop 2006, 9.24 and 9.25); MAP with a prior."""
        prior, dim = settings.prior, summary.means.shape[1]

        def one(n: Scalar, mean: Array, scatter: Array, low: Array) -> Gaussians:
            if prior is not None:
                d = (mean - prior.mean) + low
                pull = prior.strength / (prior.strength + n)
                scatter = scatter + prior.scale + pull * n * self.outer_one(d)
                mean, low = move(mean, low, -pull * d)
            degrees = self.degrees_one(n, dim, prior)
            covariance = scatter / jnp.where(degrees > 0, degrees, 1)
            covariance = self.regularize(covariance, settings.regularization)
            return Gaussians(mean, self.from_covariance(covariance), low)

        new = jax.vmap(one)(*summary)
        if prior is not None:
            return new
        return keep_empty(summary.counts, new, self.complete(previous))

    def log_prior(self, components: Gaussians, prior: priors.NormalInverseWishart) -> Scalar:
        """log p(means, covariances) in nats, with its normalising constant."""
        dim = components.deviations.shape[1]

        def one(mean: Array, scale: Array, low: Array) -> Scalar:
            y = self.whiten_one(scale, ((mean - prior.mean) + low)[None])
            normal = -0.5 * (prior.strength * (y * y).sum() + dim * LOG_2PI)
            normal = normal + 0.5 * dim * jnp.log(prior.strength) - self.log_det_one(scale, dim)
            return normal + self.log_prior_scale(scale, prior) * (self.scale_axis is not None)

        axes = (0, self.scale_axis, 0)
        total = jax.vmap(one, in_axes=axes)(*self.complete(components)).sum()
        tied = self.log_prior_scale(components.scale, prior) if self.scale_axis is None else 0.0
        return total + tied

    def log_prior_scale(self, scale: Array, prior: priors.NormalInverseWishart) -> Scalar:
        """Log-density of one covariance under the prior."""
        return priors.log_inverse_gamma(scale**2, prior).sum()

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Gaussians:
        """Components at the centres with the standard deviations of the data."""
        scale = jax.vmap(lambda _: self.scale_like(spread))(centres)
        return Gaussians(centres, scale, jnp.zeros_like(centres))

    def scale_like(self, spread: Float[Array, " D"]) -> Array:
        """The scale with these standard deviations."""
        return spread

    def means(self, components: Gaussians) -> Array:
        """Means relative to the origin."""
        return components.deviations

    @precision.full
    def covariances(self, components: Gaussians) -> Float[Array, "K D D"]:
        """Covariances as [D, D] matrices for every covariance type."""
        return self._matrices(components, self.covariance_one)

    def cholesky(self, components: Gaussians) -> Float[Array, "K D D"]:
        """Lower Cholesky factors of the covariances, from the scales without rounding."""
        return self._matrices(components, self.factor_one)

    def _matrices(
        self, components: Gaussians, one: Callable[[Array, int], Array]
    ) -> Float[Array, "K D D"]:
        num_components, dim = components.deviations.shape
        return jax.vmap(
            lambda scale: one(scale, dim), in_axes=self.scale_axis, axis_size=num_components
        )(components.scale)

    def select(self, components: Gaussians, k: Int[Array, "..."]) -> Gaussians:
        """Component k."""
        chosen = super().select(components._replace(scale=()), k)
        shared = self.scale_axis is None
        return chosen._replace(scale=components.scale if shared else components.scale[k])

    def sample_one(self, key: Key[Array, ""], component: Gaussians) -> Array:
        """mean + scale epsilon (relative to the origin)."""
        mean, scale, _ = component
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + (scale @ noise if scale.ndim == 2 else scale * noise)
