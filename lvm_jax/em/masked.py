"""Families with independent entries, for rows with missing entries (NaN).

A missing entry drops out of the product over the entries, so that the observed ones are another
exponential family. With m = 1 for an observed and 0 for a missing entry,

    log p(x_observed | z=k) = sum_d m_d (t_d(x_d) . eta_kd - A(eta_kd))

and t(x) has the columns m_d, with which the same two matrix products compute the offsets and the
count of every entry. Only z is latent in the E-step: the M-step divides by the counts of entries.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax.em.covariances import GAUSSIANS, Diagonal, Spherical
from lvm_jax.em.families import ExponentialFamily, Settings, Sums
from lvm_jax.em.gaussian import BlockMoments, Gaussian, Gaussians
from lvm_jax.em.pairs import move
from lvm_jax.em.priors import LOG_2PI
from lvm_jax.typing import Array, Float, Int, Params


def split(x: Float[Array, "n D"]) -> tuple[Float[Array, "n D"], Float[Array, "n D"]]:
    """The rows with 0 for missing entries, and m: 1 for observed and 0 for missing entries."""
    missing = jnp.isnan(x)
    return jnp.where(missing, 0, x), (~missing).astype(x.dtype)


def ratio(sums: Array, counts: Array) -> Array:
    """sums / counts, elementwise; 0 where the count is 0."""
    return jnp.where(counts > 0, sums / jnp.where(counts > 0, counts, 1), 0)


class MaskedMoments(NamedTuple):
    """Weights of rows and entries, means (+ remainder) and scatter of the observed entries."""

    counts: Float[Array, " K"]
    observed: Float[Array, "K D"]  # sum_n w_n r_nk m_nd
    means: Float[Array, "K D"]
    scatter: Any  # [K, D] (diag) or [K] (spherical)
    remainder: Float[Array, "K D"]


class Masked(ExponentialFamily):
    """The posterior of the missing entries, which are independent of the observed ones given z."""

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """(m x, m)."""
        return jnp.concatenate(split(x), 1)

    def expected(
        self, components: Params, x: Float[Array, "n D"], resp: Float[Array, "n K"]
    ) -> Float[Array, "n D"]:
        """E[x | x_observed] of the missing entries."""
        return resp @ self.means(components)

    def conditional(
        self,
        components: Params,
        x: Float[Array, "n D"],
        z: Int[Array, " n"],
        draws: Float[Array, "n D"],
    ) -> Float[Array, "n D"]:
        """A draw of the missing entries given z, from joint draws of the components z."""
        return draws


class _MaskedGaussian(Masked, Gaussian):
    """The common part of diagonal and spherical covariances; summaries are `MaskedMoments`."""

    @property
    def original(self) -> ExponentialFamily:
        """The family of complete rows."""
        return GAUSSIANS[self.covariance_type]

    def collect(self, entries: Float[Array, "... D"]) -> Array:
        """Second moments per variance: of each entry (diag) or of all entries (spherical)."""
        return entries

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """(m x, m x^2, m), with the sum of the squares for spherical covariances."""
        x, observed = split(x)
        squares = self.collect(x * x).reshape(x.shape[0], -1)
        return jnp.concatenate([x, squares, observed], 1)

    def natural(self, components: Gaussians) -> tuple[Array, Array]:
        """eta = (m / s^2, -1 / (2 s^2), -m^2 / (2 s^2) - log s - log(2 pi) / 2), offset = 0."""
        dim = components.deviations.shape[1]

        def one(mean: Array, scale: Array) -> Array:
            precision = self.precision_one(scale, dim)
            constant = -0.5 * (precision * mean * mean + LOG_2PI) - jnp.log(scale)
            return jnp.concatenate([precision * mean, -0.5 * jnp.atleast_1d(scale) ** -2, constant])

        eta = jax.vmap(one)(*components[:2])
        return eta, jnp.zeros_like(eta[:, 0])

    def summarize(self, sums: Sums) -> Any:
        """Moments from sums of t(x)."""
        dim = sums.features.shape[1] - self.num_quadratic(sums.features.shape[1])
        dim = dim // 2
        observed = sums.features[:, -dim:]
        means = ratio(sums.features[:, :dim], observed)
        second = sums.features[:, dim:-dim].reshape(jax.eval_shape(self.collect, means).shape)
        scatter = second - self.collect(observed * means * means)
        return MaskedMoments(sums.counts, observed, means, scatter, jnp.zeros_like(means))

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Any:
        """Counts, means, and scatters about those means, without cancellation."""
        x, mask = split(x)
        observed = resp.T @ mask
        means = ratio(resp.T @ x, observed)

        def one(each: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            mean, resp, count = each
            centred = (x - mean[None]) * mask
            low = ratio(resp @ centred, count)  # rounding error of the mean
            return self.scatter_one(centred - low[None] * mask, resp), low

        scatter, low = jax.lax.map(one, (means, resp.T, observed))
        return MaskedMoments(resp.sum(0), observed, means, scatter, low)

    def lift(self, summary: BlockMoments) -> MaskedMoments:
        """Every entry of a complete row is observed."""
        counts, means, scatter, remainder = summary
        observed = jnp.broadcast_to(counts[:, None], means.shape)
        return MaskedMoments(counts, observed, means, scatter, remainder)

    def merge(self, a: Any, b: Any) -> Any:
        """Moments of the union of two blocks (Chan, Golub and LeVeque 1983), by entry."""
        observed = a.observed + b.observed
        share = ratio(b.observed, observed)
        high, low = b.means - a.means, b.remainder - a.remainder
        between = self.collect(a.observed * share * (high + low) ** 2)
        means, low = move(a.means, a.remainder + share * low, share * high)
        scatter = a.scatter + b.scatter + between
        return MaskedMoments(a.counts + b.counts, observed, means, scatter, low)

    def translate_summary(self, summary: Any, shift: Float[Array, "*R D"]) -> Any:
        """The summary of the rows x + shift; entries without values keep mean zero."""
        shift = jnp.where(summary.observed > 0, shift[None], 0)
        means, low = move(summary.means, summary.remainder, shift)
        return summary._replace(means=means, remainder=low)

    def exact_log_prob(self, components: Gaussians, x: Float[Array, "n D"]) -> Array:
        """log p(x_observed | z=k) from rows centred at each component."""
        mean, scale, low = self.complete(components)
        x, mask = split(x)

        def one(each: tuple[Array, Array, Array]) -> Array:
            mean, low, scale = each
            y = self.whiten_one(scale, ((x - mean[None]) - low[None]) * mask)
            widths = jnp.broadcast_to(jnp.log(scale) + 0.5 * LOG_2PI, mean.shape)
            return -0.5 * (y * y).sum(1) - mask @ widths

        return jax.lax.map(one, (mean, low, scale)).T

    def maximize(self, summary: Any, previous: Gaussians, settings: Settings) -> Gaussians:
        """Means and variances of the observed entries; MAP with a prior.

        Without a prior a mean or a variance without observed entries keeps its `previous` value.
        """
        _, observed, mean, scatter, low = summary
        prior = settings.prior
        counts = self.collect(observed)
        degrees = counts
        if prior is not None:
            d = (mean - prior.mean[None]) + low
            pull = prior.strength / (prior.strength + observed)
            prior_scale = jnp.broadcast_to(prior.scale, scatter.shape)
            scatter = scatter + prior_scale + self.collect(pull * observed * d * d)
            mean, low = move(mean, low, -pull * d)
            degrees = counts + prior.degrees + 2 + self.collect(jnp.ones_like(observed))
        covariance = scatter / jnp.where(degrees > 0, degrees, 1)
        scale = self.from_covariance(self.regularize(covariance, settings.regularization))
        if prior is not None:
            return Gaussians(mean, scale, low)
        old, known = self.complete(previous), observed > 0
        return Gaussians(
            jnp.where(known, mean, old.deviations),
            jnp.where(counts > 0, scale, old.scale),
            jnp.where(known, low, old.remainder),
        )


@dataclass(frozen=True)
class MaskedDiagonal(_MaskedGaussian, Diagonal):
    """`Diagonal` for rows with missing entries. t(x) = (m x, m x^2, m)."""

    def num_quadratic(self, num_features: int) -> int:
        """One third of the features."""
        return num_features // 3


@dataclass(frozen=True)
class MaskedSpherical(_MaskedGaussian, Spherical):
    """`Spherical` for rows with missing entries. t(x) = (m x, sum_d m_d x_d^2, m)."""

    def collect(self, entries: Float[Array, "... D"]) -> Array:
        """The sum over the entries."""
        return entries.sum(-1)
