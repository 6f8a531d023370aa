"""Likelihoods of bits, and of real numbers in [0, 1]."""

import math
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax._core.support import BITS, UNIT, Support
from lvm_jax.distributions import Bernoulli
from lvm_jax.likelihoods.base import Likelihood, no_parameters, split_outputs
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar

# B_2, B_4, ..., B_20: log(sinh(l/2) / (l/2)) = sum_k B_2k l^2k / (2k (2k)!), for |l| < 2 pi.
BERNOULLI_NUMBERS = (
    *(1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66),
    *(-691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330),
)
SERIES = [b / (2 * k * math.factorial(2 * k)) for k, b in enumerate(BERNOULLI_NUMBERS, start=1)]


def bernoulli(dim: int) -> Likelihood:
    """D independent bits x_d ~ Bernoulli(sigmoid(l_d)); the outputs are the logits l.

    log p(x) = sum_d x_d l_d - log(1 + exp(l_d)), a probability in nats per data point, for bits x.
    For grey x in [0, 1] this is NOT a log-likelihood, because the normaliser of
    `continuous_bernoulli` is missing: draw new bits with probability x in every step, or threshold.
    """
    dim = checks.integer(dim, "dim", 1)

    def build(params: Params, outputs: Float[Array, " D"]) -> Distribution:
        return Bernoulli(split_outputs(outputs, 1, dim)[0])

    return Likelihood(dim, no_parameters, build, BITS)


def continuous_bernoulli(dim: int) -> Likelihood:
    """D independent numbers in [0, 1], `ContinuousBernoulli`; the outputs are the logits."""
    dim = checks.integer(dim, "dim", 1)

    def build(params: Params, outputs: Float[Array, " D"]) -> Distribution:
        return ContinuousBernoulli(split_outputs(outputs, 1, dim)[0])

    return Likelihood(dim, no_parameters, build, UNIT)


class ContinuousBernoulli(NamedTuple):
    """D independent x_d in [0, 1] with density exp(x_d l_d) / A(l_d), A(l) = (exp(l) - 1) / l.

    This is C lambda^x (1 - lambda)^(1 - x) with l = logit(lambda) and the normaliser
    C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda), which is 2 at lambda = 1/2: an exponential
    distribution truncated to [0, 1].

    Source: Loaiza-Ganem and Cunningham (2019), in terms of the logit.
    """

    logits: Float[Array, " D"]

    @property
    def support(self) -> Support:
        """[0, 1]."""
        return UNIT

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """sum_d log p(x_d), in nats: a density; -inf outside [0, 1]."""
        checks.one_value(value, self.logits.shape, "logits")
        inside = ((value >= 0) & (value <= 1)).all()
        return jnp.where(inside, _log_density(value, self.logits).sum(), -jnp.inf)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by the inverse distribution function, [*sample_shape, D]; differentiable."""
        shape, dtype = (*sample_shape, *self.logits.shape), self.logits.dtype
        # Excludes 0 and 1, where the quantile of a steep density would round to infinity.
        uniform = jax.random.uniform(seed, shape, dtype, minval=jnp.finfo(dtype).eps / 2)
        return _quantile(uniform, jnp.broadcast_to(self.logits, shape))

    def mean(self) -> Float[Array, " D"]:
        """E[x_d] = 1 / (1 - exp(-l_d)) - 1 / l_d, which is closer to 1/2 than lambda_d."""
        zeros = jnp.zeros_like(self.logits)
        return -jax.grad(lambda logits: _log_density(zeros, logits).sum())(self.logits)


def _log_density(x: Float[Array, " D"], logits: Float[Array, " D"]) -> Float[Array, " D"]:
    """x l - log((exp(l) - 1) / l), of each dimension.

    The rounding error of the first derivative of the closed form grows as 1/|l|, that of the second
    as 1/l^2. For |l| < 1 ten terms of the series are exact in float64, with derivatives. For larger
    |l| all terms have the same sign.
    """
    small = jnp.abs(logits) < 1
    near = jnp.where(small, logits, 0)
    far = jnp.where(small, 1, logits)
    square = near**2
    zero = jnp.zeros_like(square)
    even = reduce(lambda total, term: (total + term) * square, SERIES[::-1], zero)
    size = jnp.abs(far)
    tail = jnp.log(-jnp.expm1(-size) / size)
    steep = x * jnp.minimum(far, 0) - (1 - x) * jnp.maximum(far, 0) - tail
    return jnp.where(small, (x - 0.5) * near - even, steep)


def _quantile(uniform: Float[Array, "..."], logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """F^-1(u) = log(1 + u (exp(l) - 1)) / l, elementwise.

    For |l| < eps^(1/4) it uses the expansion in l, whose coefficients are the cumulants of a
    Bernoulli(u) variable over factorials: the derivative of the closed form has errors eps / |l|.
    """
    small = jnp.abs(logits) < jnp.finfo(logits.dtype).eps ** 0.25
    near, far = jnp.where(small, logits, 0), jnp.where(small, 1, logits)
    v = uniform * (1 - uniform)
    cumulants = (v * (1 - 6 * v) / 24, v * (1 - 2 * uniform) / 6, v / 2, uniform)
    flat = sum(c * near**power for c, power in zip(cumulants, (3, 2, 1, 0), strict=True))
    # exp(l) overflows for large l, so for l > 0 this computes 1 - x from -l and 1 - u.
    flipped = jnp.where(far > 0, 1 - uniform, uniform)
    size = jnp.abs(far)
    falling = -jnp.log1p(flipped * jnp.expm1(-size)) / size
    steep = jnp.where(far > 0, 1 - falling, falling)
    return jnp.clip(jnp.where(small, flat, steep), 0, 1)
