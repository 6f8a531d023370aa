"""Likelihoods of counts, accurate in float32 for counts of any size (saddlepoint formulas)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks, saddlepoint
from lvm_jax._core.support import COUNTS, Support
from lvm_jax.distributions.chain import positive_scale
from lvm_jax.likelihoods.base import Likelihood, no_parameters, split_outputs
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Params, Scalar, UInt

Counts = Float[Array, " D"] | Int[Array, " D"] | UInt[Array, " D"]

MAX_RATE = 2.0**30  # for sampling: JAX draws Poisson counts as 32-bit integers


def poisson(dim: int) -> Likelihood:
    """D independent counts x_d ~ Poisson(exp(o_d)); the outputs o are log-rates."""
    dim = checks.integer(dim, "dim", 1)

    def build(params: Params, outputs: Float[Array, " D"]) -> Distribution:
        return Poisson(split_outputs(outputs, 1, dim)[0])

    return Likelihood(dim, no_parameters, build, COUNTS)


def negative_binomial(dim: int, total_count: str = "learned") -> Likelihood:
    """D independent counts, `NegativeBinomial`: Poisson counts whose rate is Gamma-distributed.

    n = exp(8 tanh(u / 8)). With `total_count` = "learned", u [D] is a learned parameter that starts
    at 0, and the outputs [D] are the logits. With "output", u comes from the network, and the
    outputs [2 D] are the logits, then u. Because n <= 3e3, counts with means of 3e3 or more are
    overdispersed; use `poisson` if they are not.

    Raises ValueError for an unknown `total_count`.
    """
    dim = checks.integer(dim, "dim", 1)
    learned = checks.choice(total_count, "total_count", ("learned", "output")) == "learned"
    parts = 1 if learned else 2

    def build(free: Params, outputs: Float[Array, " P"]) -> Distribution:
        logits, *rest = split_outputs(outputs, parts, dim)
        return NegativeBinomial(logits, positive_scale(free if learned else rest[0]))

    init = (lambda key: jnp.zeros(dim)) if learned else no_parameters
    return Likelihood(parts * dim, init, build, COUNTS)


class Poisson(NamedTuple):
    """D independent counts, as floats."""

    log_rate: Float[Array, " D"]

    @property
    def reparameterized(self) -> bool:
        """False: counts have no derivative."""
        return False

    @property
    def support(self) -> Support:
        """0, 1, 2, ..."""
        return COUNTS

    def log_prob(self, value: Counts) -> Scalar:
        """sum_d x_d o_d - exp(o_d) - log x_d!, in nats: a probability; -inf if x is no count."""
        checks.one_value(value, self.log_rate.shape, "log-rates")
        value = jnp.asarray(value, jnp.result_type(value, self.log_rate))  # 255 + 1 is 0 in uint8
        x = jnp.where(value > 0, value, 1)
        excess = saddlepoint.log_excess(self.log_rate, x, jnp.ones_like(x))
        some = saddlepoint.log_poisson(x, excess)
        log_p = jnp.where(value > 0, some, -jnp.exp(self.log_rate))
        return jnp.where(_is_count(value), log_p, -jnp.inf).sum()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts, [*sample_shape, D]; NaN where the rate is above 2^30."""
        log_rate = jnp.broadcast_to(self.log_rate, (*sample_shape, *self.log_rate.shape))
        return _draw(seed, log_rate)

    def mean(self) -> Float[Array, " D"]:
        """E[x_d] = exp(o_d)."""
        return jnp.exp(self.log_rate)


class NegativeBinomial(NamedTuple):
    """D independent counts of mean m = n exp(l) and variance m + m^2 / n, as floats.

    p(x) = Gamma(x + n) / (Gamma(n) x!) sigmoid(-l)^n sigmoid(l)^x, for any real n > 0.
    """

    logits: Float[Array, " D"]  # l
    total_count: Float[Array, " D"]  # n

    @property
    def reparameterized(self) -> bool:
        """False: counts have no derivative."""
        return False

    @property
    def support(self) -> Support:
        """0, 1, 2, ..."""
        return COUNTS

    def log_prob(self, value: Counts) -> Scalar:
        """sum_d log p(x_d), in nats: a probability; -inf if x is no count."""
        checks.one_value(value, self.logits.shape, "logits")
        value = jnp.asarray(value, jnp.result_type(value, self.logits))
        x, n = jnp.where(value > 0, value, 1), self.total_count
        both = n + x
        best = jnp.log(n / both) + saddlepoint.log_factorial_rest(both)
        best = best - saddlepoint.log_factorial_rest(n) - saddlepoint.log_factorial_rest(x)
        some = best - _binomial_deviance(self.logits, x, n)
        log_p = jnp.where(value > 0, some, -n * jax.nn.softplus(self.logits))
        return jnp.where(_is_count(value), log_p, -jnp.inf).sum()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts, [*sample_shape, D]; NaN where the drawn rate is above 2^30."""
        key_rate, key_count = jax.random.split(seed)
        shape = (*sample_shape, *self.logits.shape)
        n, logits = (jnp.broadcast_to(v, shape) for v in (self.total_count, self.logits))
        # Log-rates, because rates of a small n underflow to 0 in float32.
        return _draw(key_count, jax.random.loggamma(key_rate, n, dtype=n.dtype) + logits)

    def mean(self) -> Float[Array, " D"]:
        """E[x_d] = n_d exp(l_d)."""
        return self.total_count * jnp.exp(self.logits)


def _is_count(value: Float[Array, " D"]) -> Array:
    return (value >= 0) & (value == jnp.floor(value))


def _draw(key: Key[Array, ""], log_rate: Float[Array, "..."]) -> Float[Array, "..."]:
    rate = jnp.exp(log_rate)
    possible = rate < MAX_RATE
    counts = jax.random.poisson(key, jnp.where(possible, rate, 1.0))
    return jnp.where(possible, counts.astype(rate.dtype), jnp.nan)


@jax.custom_jvp
def _binomial_deviance(
    logits: Float[Array, " D"], x: Float[Array, " D"], n: Float[Array, " D"]
) -> Float[Array, " D"]:
    """x log(q'/q) + n log(p'/p) with q = sigmoid(l), p = 1 - q, and q' = x / (n + x), p' = 1 - q'.

    With d = l - log(x/n) it equals (n + x) log(1 + q' (e^d - 1)) - x d. This also holds with x and
    n, q' and p', d and -d exchanged. `lead` is the smaller of x and n: the result is then a
    difference of two terms of second order in d, and at least half of the first. For large d, where
    e^d would overflow, 1 - q' is replaced by 1.
    """
    excess = saddlepoint.log_excess(logits, x, n)
    lead = jnp.minimum(x, n)
    rise = jnp.where(x <= n, excess, -excess)
    share = lead / (n + x)
    far = rise > 40
    steep = (n + x) * jax.nn.softplus(jnp.log(share) + rise) - lead * rise
    near = jnp.where(far, 0, rise)
    growth = jnp.log1p(share * jnp.expm1(near))
    rest = saddlepoint.exponential_rest
    return jnp.where(far, steep, lead * rest(near) - (n + x) * rest(growth))


@_binomial_deviance.defjvp
def _binomial_deviance_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # The deviance is stationary in q', so derivatives of q' in x and n vanish. Automatic
    # differentiation would subtract numbers that are 1/n times larger.
    logits, x, n = primals
    in_logits = n * jax.nn.sigmoid(logits) - x * jax.nn.sigmoid(-logits)
    in_x = jnp.log(x / (n + x)) + jax.nn.softplus(-logits)
    in_n = jnp.log(n / (n + x)) + jax.nn.softplus(logits)
    change = in_logits * tangents[0] + in_x * tangents[1] + in_n * tangents[2]
    return _binomial_deviance(*primals), change
