"""Bernoulli and Poisson components of rows with missing entries (NaN); see `masked`."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import saddlepoint
from lvm_jax.em.discrete import Bernoulli, Means, Poisson, blocked_product
from lvm_jax.em.families import ExponentialFamily, Settings, Sums
from lvm_jax.em.masked import Masked, ratio, split
from lvm_jax.typing import Array, Bool, Float, Params


@dataclass(frozen=True)
class MaskedBernoulli(Masked, Bernoulli):
    """`Bernoulli` for rows with missing entries. t(x) = (m x, m)."""

    @property
    def original(self) -> Bernoulli:
        """The family of complete rows."""
        return Bernoulli(self.epsilon)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta_k = (logit(p_k), log(1 - p_k)), offset_k = 0."""
        losses = jnp.log1p(-components)
        eta = jnp.concatenate([jnp.log(components) - losses, losses], 1)
        return eta, jnp.zeros_like(eta[:, 0])

    def lift(self, summary: Sums) -> Sums:
        """Every entry of a complete row is observed."""
        observed = jnp.broadcast_to(summary.counts[:, None], summary.features.shape)
        return summary._replace(features=jnp.concatenate([summary.features, observed], 1))

    def maximize(self, summary: Sums, previous: Params, settings: Settings) -> Params:
        """p_kd = sum_n r_nk m_nd x_nd / sum_n r_nk m_nd."""
        total, observed = jnp.split(summary.features, 2, axis=1)
        clipped = jnp.clip(ratio(total, observed), self.epsilon, 1 - self.epsilon)
        return jnp.where(observed > 0, clipped, previous)

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """As for complete rows, which have the largest rounding error."""
        return self.original.is_safe(components)

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Array:
        """sum_d m_d (x_d log p_kd + (1 - x_d) log(1 - p_kd)), whose terms have one sign."""
        x, mask = split(x)
        ones = blocked_product(x, jnp.log(components))
        return ones + blocked_product(mask - x, jnp.log1p(-components))


class MaskedMeans(NamedTuple):
    """Weights of rows [K] and entries [K, D], and the means of the observed entries [K, D]."""

    counts: Float[Array, " K"]
    observed: Float[Array, "K D"]
    means: Float[Array, "K D"]


@dataclass(frozen=True)
class MaskedPoisson(Masked, Poisson):
    """`Poisson` for rows with missing entries. t(x) = (m x, m)."""

    @property
    def original(self) -> ExponentialFamily:
        """The family of complete rows."""
        return Poisson(self.epsilon)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta_k = (log rate_k, -rate_k), offset_k = 0."""
        eta = jnp.concatenate([jnp.log(components), -components], 1)
        return eta, jnp.zeros_like(eta[:, 0])

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """-sum_d m_d log x_d!."""
        return super().base(components, split(x)[0])

    def summarize(self, sums: Sums) -> Any:
        """Counts and means from sums of (m x, m)."""
        total, observed = jnp.split(sums.features, 2, axis=1)
        return MaskedMeans(sums.counts, observed, ratio(total, observed))

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Any:
        """Counts and means; each mean is corrected by the mean of its residuals."""
        x, mask = split(x)
        observed = resp.T @ mask
        means = ratio(resp.T @ x, observed)
        rest = jax.lax.map(lambda each: each[1] @ ((x - each[0][None]) * mask), (means, resp.T))
        return MaskedMeans(resp.sum(0), observed, means + ratio(rest, observed))

    def lift(self, summary: Means) -> MaskedMeans:
        """Every entry of a complete row is observed."""
        counts, means = summary
        return MaskedMeans(counts, jnp.broadcast_to(counts[:, None], means.shape), means)

    def merge(self, a: Any, b: Any) -> Any:
        """Counts and means of the union of two blocks."""
        observed = a.observed + b.observed
        share = ratio(b.observed, observed)
        means = a.means + share * (b.means - a.means)
        return MaskedMeans(a.counts + b.counts, observed, means)

    def maximize(self, summary: Any, previous: Params, settings: Settings) -> Params:
        """rate_kd = sum_n r_nk m_nd x_nd / sum_n r_nk m_nd."""
        rates = jnp.maximum(summary.means, self.epsilon)
        return jnp.where(summary.observed > 0, rates, previous)

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Array:
        """log p(x_observed | z=k) from the deviance of x and rate, without cancellation."""
        x, mask = split(x)
        some = x > 0
        counts = jnp.where(some, x, 1)

        def one(rate: Array) -> Array:
            rate = jnp.broadcast_to(rate, x.shape)
            excess = -saddlepoint.log_excess(jnp.zeros_like(x), rate, counts)
            terms = jnp.where(some, saddlepoint.log_poisson(counts, excess), -rate)
            return (terms * mask).sum(1)

        return jax.lax.map(one, components).T
