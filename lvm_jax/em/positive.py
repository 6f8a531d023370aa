"""Exponential and gamma components, of positive entries."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from lvm_jax._core import saddlepoint
from lvm_jax.em.entries import Entries, named
from lvm_jax.em.families import ROUNDING_NATS, Settings, Sums, reweighted
from lvm_jax.em.masked import ratio
from lvm_jax.em.refusals import refuse
from lvm_jax.typing import Array, Bool, Float, Key, Params, Scalar

NEWTON_STEPS = 6  # of the shape: Minka's step converges quadratically from a start within 2%


@dataclass(frozen=True)
class Exponential(Entries):
    """Independent waiting times >= 0; components are means m, [K, D].

        log p(x | z=k) = -sum_d (x_d / m_kd + log m_kd),    m_kd = sum_n r_nk x_nd / sum_n r_nk

    A mean is at least `epsilon`, which is the estimate of a column of zeros. NaN is missing.
    """

    epsilon: float = 1e-6

    def check(self, x: Any) -> None:
        """Refuse negative values."""
        refuse(x, x < 0, "waiting times >= 0")

    def statistics(self, x: Float[Array, "n D"]) -> Float[Array, "n 1 D"]:
        """x."""
        return x[:, None]

    def entry_natural(self, components: Params) -> tuple[Array, Array]:
        """-1 / m and -log m."""
        return -1 / components[:, None], -jnp.log(components)

    def maximize(self, summary: Sums, previous: Params, settings: Settings) -> Params:
        """Means of the observed entries, at least epsilon."""
        total, weights = self.totals(summary, previous.shape[1])
        mean = jnp.maximum(ratio(total[:, 0], weights), self.epsilon)
        return jnp.where(weights > 0, mean, previous)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """The centres, at least epsilon."""
        return jnp.maximum(centres, self.epsilon)

    def boundary(self, components: Params, settings: Settings) -> tuple[str, ...]:
        """The means that are epsilon."""
        return named("the least mean", np.argwhere(np.asarray(components) <= self.epsilon))

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """log m, whose Fisher information is 1."""
        return jnp.log(components) * size[:, None]

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Means, at least epsilon."""
        return jnp.maximum(jnp.exp(free / size[:, None]), self.epsilon)

    def sample_one(self, key: Key[Array, ""], component: Params) -> Array:
        """D independent waiting times."""
        return jax.random.exponential(key, component.shape, component.dtype) * component


class Gammas(NamedTuple):
    """Shapes a and means m of K gamma components; the rate is a / m."""

    shapes: Float[Array, "K D"]
    mean: Float[Array, "K D"]


class LogMeans(NamedTuple):
    """Weights, means, and E[log x] - log mean of the observed entries."""

    counts: Float[Array, " K"]
    observed: Float[Array, "K D"]
    means: Float[Array, "K D"]
    gaps: Float[Array, "K D"]


@dataclass(frozen=True)
class Gamma(Entries):
    """Independent gamma entries > 0; components are `Gammas`: shapes a and means m, [K, D].

        log p(x | z=k) = sum_d a log(a x / m) - a x / m - log x - log Gamma(a)

    The mean is that of the data, and the shape solves log a - psi(a) = log mean(x) - mean(log x) by
    the generalised Newton steps of Minka (2002, "Estimating a gamma distribution", eq. 10).
    `largest_shape` is the estimate of equal values, whose likelihood has no bound. NaN is missing.
    """

    largest_shape: float = 1e6
    has_exact_path: ClassVar[bool] = True

    def check(self, x: Any) -> None:
        """Refuse values that are not positive."""
        refuse(x, x <= 0, "numbers > 0")

    def statistics(self, x: Float[Array, "n D"]) -> Float[Array, "n 2 D"]:
        """x and log x."""
        return jnp.stack([x, jnp.log(x)], 1)

    def entry_natural(self, components: Gammas) -> tuple[Array, Array]:
        """(-a / m, a), and a log(a / m) - log Gamma(a)."""
        shape, mean = components
        rate = shape / mean
        return jnp.stack([-rate, shape], 1), shape * jnp.log(rate) - gammaln(shape)

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """-sum_d log x_d of the observed entries."""
        filled, mask = self.observed(x)
        return -(jnp.log(filled) * mask).sum(1)

    def summarize(self, sums: Sums) -> LogMeans:
        """Means and gaps from sums of x and log x."""
        dim = sums.features.shape[1] // (3 if self.incomplete_rows else 2)
        total, weights = self.totals(sums, dim)
        mean, log_mean = ratio(total[:, 0], weights), ratio(total[:, 1], weights)
        gap = log_mean - jnp.log(jnp.where(mean > 0, mean, 1))
        return LogMeans(sums.counts, weights, mean, gap)

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> LogMeans:
        """Means, and gaps from the logarithms of x / mean, without cancellation."""
        filled, mask = self.observed(x)
        weights = resp.T @ mask
        means = ratio(resp.T @ (filled * mask), weights)

        def one(each: tuple[Array, Array]) -> Array:
            mean, resp = each
            return resp @ (-departure(jnp.where(mean > 0, mean, 1)[None], filled) * mask)

        gaps = ratio(jax.lax.map(one, (means, resp.T)), weights)
        return LogMeans(resp.sum(0), weights, means, gaps)

    def merge(self, a: LogMeans, b: LogMeans) -> LogMeans:
        """Means and gaps of the union of two blocks."""
        observed = a.observed + b.observed
        share = ratio(b.observed, observed)
        means = a.means + share * (b.means - a.means)

        def moved(part: LogMeans) -> Array:
            some = (part.observed > 0) & (means > 0)
            fresh, old = jnp.where(some, means, 1), jnp.where(some, part.means, 1)
            return part.gaps - departure(fresh, old)

        gaps = (1 - share) * moved(a) + share * moved(b)
        return LogMeans(a.counts + b.counts, observed, means, gaps)

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The means and the gaps are not changed."""
        return reweighted(summary, factor)._replace(gaps=summary.gaps)

    def maximize(self, summary: LogMeans, previous: Gammas, settings: Settings) -> Gammas:
        """The mean, and the shape by Newton steps."""
        known = summary.observed > 0
        least = 0.5 / self.largest_shape
        shape = jnp.minimum(shape_of(jnp.maximum(-summary.gaps, least)), self.largest_shape)
        tiny = jnp.finfo(shape.dtype).tiny
        mean = jnp.maximum(summary.means, tiny)
        return Gammas(jnp.where(known, shape, previous.shapes), jnp.where(known, mean, previous[1]))

    def is_safe(self, components: Gammas) -> Bool[Array, ""]:
        """Whether the rounding error of the fast path is within ROUNDING_NATS."""
        shape, mean = components
        size = (shape * (1 + jnp.abs(jnp.log(mean)) + jnp.abs(jnp.log(shape)))).sum(1).max()
        return size * jnp.finfo(shape.dtype).eps / 2 <= ROUNDING_NATS[shape.dtype.itemsize]

    def exact_log_prob(self, components: Gammas, x: Float[Array, "n D"]) -> Array:
        """log(a / x) + log Poisson(a; a x / m), in saddle-point form (Loader 2000)."""
        filled, mask = self.observed(x)

        def one(each: Gammas) -> Array:
            shape, mean = (jnp.broadcast_to(part, x.shape) for part in each)
            excess = saddlepoint.log_excess(jnp.zeros_like(x), mean, filled)
            terms = jnp.log(shape) - jnp.log(filled) + saddlepoint.log_poisson(shape, excess)
            return (terms * mask).sum(1)

        return jax.lax.map(one, components).T

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Gammas:
        """The means and the standard deviations of the data."""
        mean = jnp.maximum(centres, jnp.finfo(centres.dtype).tiny)
        shape = (mean / jnp.where(spread > 0, spread, 1)[None]) ** 2
        return Gammas(jnp.clip(shape, 1, self.largest_shape), mean)

    def boundary(self, components: Gammas, settings: Settings) -> tuple[str, ...]:
        """The shapes that are `largest_shape`."""
        full = np.asarray(components.shapes) >= 0.999 * self.largest_shape
        return named("the largest shape", np.argwhere(full))

    def means(self, components: Gammas) -> Float[Array, "K D"]:
        """The means."""
        return components.mean

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """A shape and a mean for each entry."""
        return 2 * num_components * dim

    def unconstrain(self, components: Gammas, at: Gammas, size: Float[Array, " K"]) -> Gammas:
        """log m, whose Fisher information is a, and log a, whose information is 1/2 to 1."""
        scale = jnp.sqrt(at.shapes) * size[:, None]
        log_shape = jnp.log(components.shapes) * np.sqrt(0.5) * size[:, None]
        return Gammas(log_shape, jnp.log(components.mean) * scale)

    def constrain(self, free: Gammas, at: Gammas, size: Float[Array, " K"]) -> Gammas:
        """Shapes up to `largest_shape`, and means."""
        scale = jnp.sqrt(at.shapes) * size[:, None]
        shape = jnp.exp(free.shapes / (np.sqrt(0.5) * size[:, None]))
        return Gammas(jnp.minimum(shape, self.largest_shape), jnp.exp(free.mean / scale))

    def sample_one(self, key: Key[Array, ""], component: Gammas) -> Array:
        """D independent gamma variables."""
        shape, mean = component
        return jax.random.gamma(key, shape) * (mean / shape)


def departure(mean: Array, x: Array) -> Array:
    """x / mean - 1 - log(x / mean) >= 0, without cancellation."""
    mean, x = jnp.broadcast_arrays(mean, x)
    return saddlepoint.exponential_rest(saddlepoint.log_excess(jnp.zeros_like(x), mean, x))


def log_less_psi(a: Array) -> Array:
    """log a - psi(a) for a > 0: the asymptotic series (DLMF 5.11.2) at a + 8, and recurrences."""
    far = a > 8
    big = jnp.where(far, a, jnp.where(far, 1, a) + 8)
    inverse = 1 / big**2
    tail = 1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse * (1 / 240 - inverse / 132)))
    series = 0.5 / big + tail * inverse
    near = jnp.where(far, 1, a)
    back = sum((1 / (near + i) for i in range(1, 8)), 1 / near) - jnp.log1p(8 / near)
    return series + jnp.where(far, 0, back)


def shape_of(gap: Array) -> Array:
    """The shape a with log a - psi(a) = gap > 0."""
    start = (3 - gap + jnp.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)

    def body(_: Any, a: Array) -> Array:
        value, slope = jax.jvp(log_less_psi, (a,), (jnp.ones_like(a),))
        return 1 / (1 / a + (value - gap) / (a**2 * slope))

    return jax.lax.fori_loop(0, NEWTON_STEPS, body, start)
