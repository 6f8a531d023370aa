"""Bernoulli and Poisson components, with exact paths for float32."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import saddlepoint
from lvm_jax.em.families import (
    ROUNDING_NATS,
    ExponentialFamily,
    Settings,
    Sums,
    divide,
    keep_empty,
    reweighted,
)
from lvm_jax.em.refusals import refuse
from lvm_jax.typing import Array, ArrayLike, Bool, Float, Key, Params, Scalar

BLOCK = 128  # terms per block of a sum


def blocked_product(x: Float[Array, "n D"], eta: Float[Array, "K D"]) -> Float[Array, "n K"]:
    """x @ eta.T, summed in blocks of BLOCK terms.

    Some processors add the D terms of a product in sequence, and the rounding error of 8,191
    terms of one sign is then five times as large.
    """
    rest = -x.shape[1] % BLOCK
    blocks = [
        jnp.moveaxis(jnp.pad(a, ((0, 0), (0, rest))).reshape(len(a), -1, BLOCK), 1, 0)
        for a in (x, eta)
    ]
    start = jnp.zeros((len(x), len(eta)), x.dtype)
    return jax.lax.scan(lambda sum_, pair: (sum_ + pair[0] @ pair[1].T, None), start, blocks)[0]


@dataclass(frozen=True)
class Bernoulli(ExponentialFamily):
    """Independent Bernoulli pixels; components are probabilities [K, D].

    log p(x | k) = sum_d x_d logit(p_kd) + log(1 - p_kd). Probabilities are clipped to
    [epsilon, 1 - epsilon], because the maximum-likelihood estimate may be 0 or 1.
    """

    epsilon: float = 1e-6
    has_exact_path: ClassVar[bool] = True

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The family of the observed entries."""
        from lvm_jax.em.masked_discrete import MaskedBernoulli  # a subclass

        return MaskedBernoulli(self.epsilon)

    def check(self, x: ArrayLike) -> None:
        """Raise ValueError for data outside [0, 1]."""
        refuse(x, (x < 0) | (x > 1), "values in [0, 1]")

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """The centres, clipped to [epsilon, 1 - epsilon]."""
        return jnp.clip(centres, self.epsilon, 1 - self.epsilon)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta_k = logit(p_k), offset_k = sum_d log(1 - p_kd)."""
        return jax.vmap(
            lambda p: (jnp.log(p) - jnp.log1p(-p), jnp.log1p(-p).sum()),
        )(components)

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """logit(p), in standard deviations of one bit."""
        return jax.scipy.special.logit(components) * (jnp.sqrt(at * (1 - at)) * size[:, None])

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Probabilities, clipped to [epsilon, 1 - epsilon]."""
        p = jax.nn.sigmoid(free / (jnp.sqrt(at * (1 - at)) * size[:, None]))
        return jnp.clip(p, self.epsilon, 1 - self.epsilon)

    def maximize(self, summary: Sums, previous: Params, settings: Settings) -> Params:
        """p_k = sum_n r_nk x_n / sum_n r_nk."""
        mean = divide(summary.features, summary.counts)
        clipped = jnp.clip(mean, self.epsilon, 1 - self.epsilon)
        return keep_empty(summary.counts, clipped, previous)

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """Whether the rounding error of the fast path is within ROUNDING_NATS.

        The error's measured root mean square is u times the larger of the sums of logits and of
        log(1 - p), within a factor of 5 for D = 3 to 784; u is the unit roundoff.
        """
        eta, offset = self.natural(components)
        size = jnp.maximum(jnp.abs(eta).sum(1) / 2, jnp.abs(offset)).max()
        limit = ROUNDING_NATS[components.dtype.itemsize]
        return size * jnp.finfo(components.dtype).eps / 2 <= limit

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Array:
        """sum_d x_d log p_kd + (1 - x_d) log(1 - p_kd), whose terms have one sign, in blocks."""
        ones = blocked_product(x, jnp.log(components))
        return ones + blocked_product(1 - x, jnp.log1p(-components))

    def sample_one(self, key: Key[Array, ""], component: Params) -> Array:
        """D independent bits."""
        return jax.random.bernoulli(key, component).astype(component.dtype)


class Means(NamedTuple):
    """Counts [K] and the weighted means of the rows [K, D]."""

    counts: Float[Array, " K"]
    means: Float[Array, "K D"]


@dataclass(frozen=True)
class Poisson(ExponentialFamily):
    """Independent Poisson counts; components are rates [K, D]. h(x) = -sum_d log x_d!.

    In float32 large counts use the exact path, Loader's (2000) saddle-point form, because the terms
    of <t(x), eta> grow as x log x and the log-density only as log x.
    """

    epsilon: float = 1e-6  # the smallest rate
    has_exact_path: ClassVar[bool] = True

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The family of the observed entries."""
        from lvm_jax.em.masked_discrete import MaskedPoisson  # a subclass

        return MaskedPoisson(self.epsilon)

    def check(self, x: ArrayLike) -> None:
        """Raise ValueError for negative or fractional counts."""
        refuse(x, (x < 0) | (x != np.round(x)), "counts 0, 1, 2, ...")

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """The centres, at least epsilon."""
        return jnp.maximum(centres, self.epsilon)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta_k = log rate_k, offset_k = -sum_d rate_kd."""
        return jax.vmap(lambda rate: (jnp.log(rate), -rate.sum()))(components)

    def base(self, components: Params, x: Array) -> Array:
        """-sum_d log x_d!."""
        return -jax.scipy.special.gammaln(x + 1).sum(-1)

    def summarize(self, sums: Sums) -> Means:
        """Counts and means from sums of x."""
        return Means(sums.counts, divide(sums.features, sums.counts))

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Means:
        """Counts and means; each mean is corrected by the mean of its residuals."""
        counts = resp.sum(0)
        means = divide(resp.T @ x, counts)
        rest = jax.lax.map(lambda each: each[1] @ (x - each[0][None]), (means, resp.T))
        return Means(counts, means + divide(rest, counts))

    def merge(self, a: Means, b: Means) -> Means:
        """Counts and means of the union of two blocks."""
        counts = a.counts + b.counts
        share = divide(b.counts[:, None], counts)
        return Means(counts, a.means + share * (b.means - a.means))

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """log rate, in standard deviations of one count."""
        return jnp.log(components) * (jnp.sqrt(at) * size[:, None])

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Rates, at least epsilon."""
        return jnp.maximum(jnp.exp(free / (jnp.sqrt(at) * size[:, None])), self.epsilon)

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The means are not changed."""
        return reweighted(summary, factor)

    def maximize(self, summary: Means, previous: Params, settings: Settings) -> Params:
        """rate_k = sum_n r_nk x_n / sum_n r_nk."""
        return keep_empty(summary.counts, jnp.maximum(summary.means, self.epsilon), previous)

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """Whether the rounding error of the fast path is within ROUNDING_NATS.

        The error's measured root mean square is u sum_d x_d (1 + |log rate_d|) at x two standard
        deviations above the rate, within a factor of 2 for D = 3 to 784; u is the unit roundoff.
        """
        reach = components + 2 * jnp.sqrt(components)
        size = (reach * (1 + jnp.abs(jnp.log(components)))).sum(1).max()
        limit = ROUNDING_NATS[components.dtype.itemsize]
        return size * jnp.finfo(components.dtype).eps / 2 <= limit

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Array:
        """log p(x | z=k) from the deviance of x and rate, without cancellation."""
        some = x > 0
        counts = jnp.where(some, x, 1)

        def one(rate: Array) -> Array:
            rate = jnp.broadcast_to(rate, x.shape)
            excess = -saddlepoint.log_excess(jnp.zeros_like(x), rate, counts)
            return jnp.where(some, saddlepoint.log_poisson(counts, excess), -rate).sum(1)

        return jax.lax.map(one, components).T

    def sample_one(self, key: Key[Array, ""], component: Params) -> Array:
        """D independent counts."""
        return jax.random.poisson(key, component).astype(component.dtype)
