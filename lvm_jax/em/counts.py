"""Multinomial rows of counts, and negative binomial counts."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from lvm_jax._core import checks, saddlepoint
from lvm_jax.em.categorical import ZERO
from lvm_jax.em.entries import Entries, named
from lvm_jax.em.families import IMPOSSIBLE, ROUNDING_NATS, ExponentialFamily, Settings, Sums, like
from lvm_jax.em.masked import ratio
from lvm_jax.em.refusals import refuse
from lvm_jax.typing import Array, Bool, Float, Key, Params

BISECTIONS = 40  # most steps for a dispersion; Newton steps need about six


@dataclass(frozen=True)
class Multinomial(ExponentialFamily):
    """Rows of counts of D categories, given their sum; components are probabilities, [K, D].

        log p(x | z=k) = log n! - sum_d log x_d! + sum_d x_d log p_kd,    n = sum_d x_d

    p_kd = sum_n r_nk x_nd / sum_n r_nk n_n. A probability of 0 is kept, as in `Categorical`.

    Args:
        trials: n of every row, for `sample` and `means`; None if it differs. In float32 a step
            with trials=None costs elementwise work for each component instead of a matrix product.

    Raises ValueError for negative or fractional counts, and for a row with another sum.
    """

    trials: int | None = None
    has_exact_path: ClassVar[bool] = True
    keeps_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.trials is not None:
            object.__setattr__(self, "trials", checks.integer(self.trials, "trials", 1))

    def check(self, x: Any) -> None:
        """Refuse values that are not counts, and rows with another sum than `trials`."""
        refuse(x, (x < 0) | (x != np.round(x)), "counts 0, 1, 2, ...")
        if self.trials is not None:
            total = np.asarray(x, np.float64).sum(1)
            if (total != self.trials).any():
                other = total[total != self.trials][0]
                raise ValueError(f"x: expected rows with the sum {self.trials}, got {other:g}")

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta_k = log p_k, offset_k = 0."""
        some = components > 0
        eta = jnp.where(some, jnp.log(jnp.where(some, components, 1)), IMPOSSIBLE)
        return eta, jnp.zeros_like(eta[:, 0])

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """log n! - sum_d log x_d!."""
        return gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1)

    def maximize(self, summary: Sums, previous: Params, settings: Settings) -> Params:
        """Shares of the counts; a component without counts keeps its probabilities."""
        total = summary.features.sum(1)
        shares = summary.features / like(jnp.where(total > 0, total, 1), summary.features)
        return jnp.where(like(total, shares) > 0, shares, previous)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """Equal probabilities, until the first M-step."""
        return jnp.full_like(centres, 1 / centres.shape[1])

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """Whether n log D has a rounding error within ROUNDING_NATS; float64 for any n."""
        itemsize = components.dtype.itemsize
        if self.trials is None:
            return jnp.array(itemsize == 8)
        size = self.trials * (1 + np.log(components.shape[1]))
        return jnp.array(size * jnp.finfo(components.dtype).eps / 2 <= ROUNDING_NATS[itemsize])

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Array:
        """sum_d log Poisson(x_d; n p_d) - log Poisson(n; n), in saddle-point form (Loader 2000)."""
        total = x.sum(1)
        whole = jnp.where(total > 0, -saddlepoint.log_factorial_rest(jnp.maximum(total, 1)), 0)
        some = x > 0
        counts = jnp.where(some, x, 1)

        def one(p: Array) -> Array:
            rate = total[:, None] * p[None]
            excess = -saddlepoint.log_excess(
                jnp.zeros_like(x), jnp.where(rate > 0, rate, 1), counts
            )
            terms = jnp.where(rate > 0, saddlepoint.log_poisson(counts, excess), IMPOSSIBLE)
            return jnp.where(some, terms, -rate).sum(1) - whole

        return jax.lax.map(one, components).T

    def boundary(self, components: Params, settings: Settings) -> tuple[str, ...]:
        """The probabilities that are 0."""
        return named("p = 0", np.argwhere(np.asarray(components) < ZERO))

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """D - 1 free probabilities."""
        return num_components * (dim - 1)

    def means(self, components: Params) -> Float[Array, "K D"]:
        """n p, or p where the sum of a row is not fixed."""
        return components * (self.trials or 1)

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """log p, in standard deviations of one trial."""
        scale = jnp.sqrt(at) * size[:, None]
        return jnp.where(at > 0, jnp.log(jnp.where(components > 0, components, 1)), 0) * scale

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Probabilities; those that are 0 `at` stay 0."""
        scale = jnp.where(at > 0, jnp.sqrt(at) * size[:, None], 1)
        p = jnp.where(at > 0, jnp.exp(jnp.minimum(free / scale, 0)), 0)
        return p / p.sum(1, keepdims=True)

    def sample_one(self, key: Key[Array, ""], component: Params) -> Array:
        """`trials` draws of a category, counted."""
        if self.trials is None:
            raise TypeError("sample: expected Multinomial(trials=n), got a family without a sum")
        return jax.random.multinomial(key, self.trials, component).astype(component.dtype)


class NegativeBinomials(NamedTuple):
    """Means m and dispersions a of K components: the variance is m + a m^2."""

    mean: Float[Array, "K D"]
    dispersion: Float[Array, "K D"]


@dataclass(frozen=True)
class NegativeBinomial(Entries):
    """Independent overdispersed counts; components are `NegativeBinomials`, means and dispersions.

    With r = 1 / a, x is a Poisson count whose rate is gamma with shape r and mean m:

        log p(x | z=k) = sum_d sum_{j < x_d} log(r + j) - log x_d! + x_d log(m / (r + m))
                         - r log(1 + m / r)

    It is linear in the indicators [x > j], j = 0, 1, ..., so that t(x) = ([x > j])_j has all that
    the M-step needs: the mean is that of the data, and the dispersion maximises the profile
    likelihood by safeguarded Newton steps. A dispersion of 0, the Poisson limit, is the estimate of
    counts whose variance is at most their mean. NaN is missing.

    Args:
        largest: the largest count; a chunk has `largest` features for each column.

    Raises ValueError for counts above `largest`, with their row and column.
    """

    largest: int = 100
    epsilon: float = 1e-6  # the least mean
    largest_dispersion: float = 1e6

    def check(self, x: Any) -> None:
        """Refuse values that are not counts, or above `largest`."""
        bad = (x < 0) | (x > self.largest) | (x != np.round(x))
        refuse(x, bad, f"counts 0, 1, ..., {self.largest} = largest")

    @property
    def num_statistics(self) -> int:
        """One for each count below `largest`."""
        return self.largest

    def steps(self, dtype: Any) -> Array:
        """j = 0, 1, ..., largest - 1, with an axis for the columns."""
        return jnp.arange(self.largest, dtype=dtype)[:, None]

    def statistics(self, x: Float[Array, "n D"]) -> Float[Array, "n P D"]:
        """[x > j]."""
        return (x[:, None] > self.steps(x.dtype)[None]).astype(x.dtype)

    def entry_natural(self, components: NegativeBinomials) -> tuple[Array, Array]:
        """log(m (r + j) / (r + m)), and -r log(1 + m / r)."""
        mean, dispersion = components
        j = self.steps(mean.dtype)[None]
        ratio_ = dispersion[:, None] * (j - mean[:, None])
        ratio_ = ratio_ / (1 + dispersion * mean)[:, None]
        product = dispersion * mean
        rest = jnp.where(product > 0, jnp.log1p(product) / jnp.where(product > 0, product, 1), 1)
        return jnp.log(mean)[:, None] + jnp.log1p(ratio_), -mean * rest

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """-sum_d log x_d!."""
        filled, _ = self.observed(x)  # log 1! = 0
        return -gammaln(filled + 1).sum(1)

    def maximize(
        self, summary: Sums, previous: NegativeBinomials, settings: Settings
    ) -> NegativeBinomials:
        """The mean, and the dispersion of the profile likelihood."""
        total, weights = self.totals(summary, previous.mean.shape[1])
        tails = ratio(total, jnp.broadcast_to(weights[:, None], total.shape))
        mean = jnp.maximum(tails.sum(1), self.epsilon)
        dispersion = self.solve(tails, mean)
        known = weights > 0
        return NegativeBinomials(
            jnp.where(known, mean, previous.mean),
            jnp.where(known, dispersion, previous.dispersion),
        )

    def slope(self, tails: Array, mean: Array, a: Array) -> Array:
        """-(d/da) of the mean profile log-likelihood: below the estimate negative, then positive.

        sum_j q_j j / (1 + a j) less (a m - log(1 + a m)) / a^2, with the other sign, where q_j is
        the share of counts above j.
        """
        j = self.steps(mean.dtype)[None]
        pull = (tails * j / (1 + a[:, None] * j)).sum(1)
        u = a * mean
        curve = mean**2 * saddlepoint.exponential_rest(jnp.log1p(u)) / u**2
        return curve - pull

    def solve(self, tails: Array, mean: Array) -> Array:
        """The root of `slope` between 1e-6 and `largest_dispersion`; 0 if it is below."""
        low = jnp.full_like(mean, np.log(1e-6))
        high = jnp.full_like(mean, np.log(self.largest_dispersion))

        def body(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            low, high, point = state
            value, change = jax.jvp(
                lambda t: self.slope(tails, mean, jnp.exp(t)), (point,), (jnp.ones_like(point),)
            )
            low, high = jnp.where(value < 0, point, low), jnp.where(value < 0, high, point)
            newton = point - value / jnp.where(change == 0, 1, change)
            inside = (newton > low) & (newton < high)
            return low, high, jnp.where(inside, newton, 0.5 * (low + high))

        limit = self.slope(tails, mean, jnp.exp(low)) >= 0
        point = jax.lax.fori_loop(0, BISECTIONS, body, (low, high, jnp.zeros_like(mean)))[2]
        return jnp.where(limit, 0, jnp.exp(point))

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> NegativeBinomials:
        """The centres, with dispersion 1."""
        mean = jnp.maximum(centres, self.epsilon)
        return NegativeBinomials(mean, jnp.ones_like(mean))

    def boundary(self, components: NegativeBinomials, settings: Settings) -> tuple[str, ...]:
        """Dispersions of 0."""
        return named("dispersion 0", np.argwhere(np.asarray(components.dispersion) == 0))

    def means(self, components: NegativeBinomials) -> Float[Array, "K D"]:
        """The means."""
        return components.mean

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """A mean and a dispersion for each entry."""
        return 2 * num_components * dim

    def unconstrain(self, components: Any, at: Any, size: Float[Array, " K"]) -> Any:
        """log m in standard deviations of one count, and log(1 + a)."""
        scale = jnp.sqrt(at.mean / (1 + at.mean * at.dispersion)) * size[:, None]
        free = jnp.log1p(components.dispersion) * size[:, None]
        return NegativeBinomials(jnp.log(components.mean) * scale, free)

    def constrain(self, free: Any, at: Any, size: Float[Array, " K"]) -> Any:
        """Means at least epsilon, and dispersions from 0 to the largest."""
        scale = jnp.sqrt(at.mean / (1 + at.mean * at.dispersion)) * size[:, None]
        dispersion = jnp.expm1(free.dispersion / size[:, None])
        return NegativeBinomials(
            jnp.maximum(jnp.exp(free.mean / scale), self.epsilon),
            jnp.clip(dispersion, 0, self.largest_dispersion),
        )

    def sample_one(self, key: Key[Array, ""], component: NegativeBinomials) -> Array:
        """Poisson counts of gamma rates; they may be above `largest`."""
        mean, dispersion = component
        key_rate, key_count = jax.random.split(key)
        some = dispersion > 0
        shape = 1 / jnp.where(some, dispersion, 1)
        rate = jnp.where(some, jax.random.gamma(key_rate, shape) / shape, 1) * mean
        return jax.random.poisson(key_count, rate).astype(mean.dtype)
