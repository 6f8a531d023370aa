"""Saddle-point terms of count densities, accurate in float32 (Loader 2000).

The usual formulas subtract log-gammas that grow as x log x; at a count of 10^6 float32 loses all
digits of the difference. The saddle-point form of a log-density is its maximum over the parameters,
which needs only c(x) = log x! - x log x + x (of order log x), minus a deviance, which is small
unless the probability is small.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from lvm_jax.typing import Array

STIRLING = (1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)  # of x^-9, x^-7, ..., x^-1
EXPONENTIAL = tuple(1 / math.factorial(k) for k in range(16, 1, -1))  # of t^16, t^15, ..., t^2
LN2_HIGH = 355 / 512  # nine bits, so that its product with an exponent is exact in float32
LN2_LOW = math.log(2) - LN2_HIGH


def log_factorial_rest(x: Array) -> Array:
    """c(x) = log x! - x log x + x for real x > 0, by Stirling's series above 16."""
    large = x > 16
    big, small = jnp.where(large, x, 16), jnp.where(large, 1, x)
    zero = jnp.zeros_like(big)
    series = reduce(lambda total, term: total / big**2 + term, STIRLING, zero) / big
    direct = gammaln(small + 1) - small * jnp.log(small) + small
    return jnp.where(large, 0.5 * jnp.log(2 * math.pi * big) + series, direct)


def exponential_rest(t: Array) -> Array:
    """e^t - 1 - t, without cancellation near 0."""
    near = jnp.abs(t) < 0.5
    small, far = jnp.where(near, t, 0), jnp.where(near, 1, t)
    series = reduce(lambda total, term: total * small + term, EXPONENTIAL, jnp.zeros_like(t))
    return jnp.where(near, series * small**2, jnp.expm1(far) - far)


@jax.custom_jvp
def log_excess(log_value: Array, a: Array, b: Array) -> Array:
    """log_value - log(a / b) for a, b > 0, without the rounding error of a large logarithm.

    It uses a - b where a is near b, otherwise the exponent and the mantissa of a / b.
    """
    share = (a - b) / b
    near = jnp.abs(share) < 0.5
    close = log_value - jnp.log1p(jnp.where(near, share, 0))
    mantissa, exponent = jnp.frexp(a / b)
    low = mantissa < math.sqrt(0.5)
    mantissa = jnp.where(low, 2 * mantissa, mantissa)
    exponent = (exponent - low).astype(mantissa.dtype)
    # A second reverse derivative in a scan omits the rule below, and frexp has derivative 0.
    ratio, held = a / b, jax.lax.stop_gradient(a / b)
    mantissa = mantissa + jax.lax.stop_gradient(mantissa) * ((ratio - held) / held)
    far = (log_value - exponent * LN2_HIGH) - (exponent * LN2_LOW + jnp.log(mantissa))
    return jnp.where(near, close, far)


@log_excess.defjvp
def _log_excess_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    _, a, b = primals
    return log_excess(*primals), tangents[0] - tangents[1] / a + tangents[2] / b


def log_poisson(x: Array, excess: Array) -> Array:
    """log Poisson(x; rate) in nats for counts x > 0, given excess = log(rate / x)."""
    return -x * exponential_rest(excess) - log_factorial_rest(x)
