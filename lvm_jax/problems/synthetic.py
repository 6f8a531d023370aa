"""Synthetic targets: funnel, many-well, wells, 40 Gaussians, spike."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.problems.target import LOG_2PI, Target, line
from lvm_jax.typing import Array, Float, Key, Scalar

MEANS_SEED = 0  # of the means of `gaussians_40`


def funnel(dim: int = 10) -> Target:
    """Neal's funnel: z_0 ~ N(0, 3^2), the others N(0, e^(z_0)); normalised, so log Z = 0.

    The best normal has no correlations, means 0, and the variance 1 / (1 / 9 + (D - 1) / 2) of z_0.
    Raises ValueError for dim < 2. Source: Neal (2003), section 8.
    """
    dim = checks.integer(dim, "dim", 2)

    def log_density(z: Float[Array, " D"]) -> Scalar:
        neck, rest = z[0], z[1:]
        first = -0.5 * (neck / 3) ** 2 - math.log(3) - 0.5 * LOG_2PI
        others = -0.5 * (rest * jnp.exp(-0.5 * neck)) ** 2 - 0.5 * neck - 0.5 * LOG_2PI
        return first + others.sum()

    def sample(key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        key_neck, key_rest = jax.random.split(key)
        neck = 3 * jax.random.normal(key_neck, (num_samples, 1))
        rest = jnp.exp(0.5 * neck) * jax.random.normal(key_rest, (num_samples, dim - 1))
        return jnp.concatenate([neck, rest], axis=1)

    best = -0.5 * math.log1p(4.5 * (dim - 1))
    return Target(f"funnel, D = {dim}", dim, log_density, 0.0, 0.0, best, best, sample)


def many_well(num_wells: int = 16) -> Target:
    """Independent pairs (a, b), each with log-density -a^4 + 6 a^2 + a / 2 - b^2 / 2.

    z = (a_1, b_1, a_2, b_2, ...), D = 2 num_wells; 2^num_wells modes, at a near -1.7 and 1.75. log
    Z is num_wells times a one-dimensional quadrature. `facts["right_mass"]` is the mass of a > 0 in
    each pair. Raises ValueError for num_wells < 1. Source: Midgley et al. (2023).
    """
    num_wells = checks.integer(num_wells, "num_wells", 1)
    across = line(lambda a: -(a**4) + 6 * a**2 + 0.5 * a, -5.0, 5.0)

    def log_density(z: Float[Array, " D"]) -> Scalar:
        a, b = z[::2], z[1::2]
        return (-(a**4) + 6 * a**2 + 0.5 * a - 0.5 * b**2).sum()

    def sample(key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        key_a, key_b = jax.random.split(key)
        shape = (num_samples, num_wells)
        pairs = [across.sample(key_a, shape), jax.random.normal(key_b, shape)]
        return jnp.stack(pairs, axis=-1).reshape(num_samples, 2 * num_wells)

    log_evidence = num_wells * (across.log_integral + 0.5 * LOG_2PI)
    facts = {"right_mass": across.mean(1.0 * (across.nodes > 0)), "num_modes": 2**num_wells}
    name = f"many-well, D = {2 * num_wells}"
    return Target(name, 2 * num_wells, log_density, log_evidence, sample=sample, facts=facts)


def wells(dim: int = 50, num_wells: int = 5, delta: float = 2.0) -> Target:
    """-sum_(i <= m) (z_i^2 - delta)^2 - sum_(i > m) z_i^2 / 2, with m = num_wells.

    2^m modes of equal mass, at z_i near +-sqrt(delta). log Z is m times a one-dimensional
    quadrature plus (D - m) log(2 pi) / 2. The best normal is a product of the best of each z_i.
    Raises ValueError for a num_wells outside 1, ..., dim or delta < 0. Source: Richter and Berner
    (2024).
    """
    dim = checks.integer(dim, "dim", 1)
    num_wells = checks.integer(num_wells, "num_wells", 1)
    if num_wells > dim:
        raise ValueError(f"num_wells: expected at most dim = {dim}, got {num_wells}")
    delta = checks.number(delta, "delta")
    end = math.sqrt(delta) + 4  # where the log-density is below -256
    across = line(lambda a: -((a**2 - delta) ** 2), -end, end)

    def log_density(z: Float[Array, " D"]) -> Scalar:
        return -((z[:num_wells] ** 2 - delta) ** 2).sum() - 0.5 * (z[num_wells:] ** 2).sum()

    def sample(key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        key_well, key_rest = jax.random.split(key)
        rest = jax.random.normal(key_rest, (num_samples, dim - num_wells))
        return jnp.concatenate([across.sample(key_well, (num_samples, num_wells)), rest], axis=1)

    log_evidence = num_wells * across.log_integral + 0.5 * (dim - num_wells) * LOG_2PI
    best = num_wells * _best_elbo_of_well(delta) + 0.5 * (dim - num_wells) * LOG_2PI
    name, facts = f"wells, ({dim}, {num_wells}, {delta:g})", {"num_modes": 2**num_wells}
    return Target(name, dim, log_density, log_evidence, 0.0, best, best, sample, facts)


def _best_elbo_of_well(delta: float) -> float:
    """The maximum over m and s of the ELBO of N(m, s^2) for exp(-(a^2 - delta)^2).

    The gradient vanishes at m = 0, s^2 = (delta + sqrt(delta^2 + 3)) / 6, and at m^2 = delta - 3
    s^2, s^2 = (delta - sqrt(delta^2 - 1.5)) / 6.
    """
    variances = [(0.0, (delta + math.sqrt(delta**2 + 3)) / 6)]
    if delta**2 >= 1.5:
        v = (delta - math.sqrt(delta**2 - 1.5)) / 6
        variances.append((delta - 3 * v, v))
    return max(
        0.5 * (math.log(v) + LOG_2PI + 1)
        - (m2**2 + 6 * m2 * v + 3 * v**2 - 2 * delta * (m2 + v) + delta**2)
        for m2, v in variances
    )


def gaussians_40(dim: int = 50) -> Target:
    """Forty normals N(mu_k, I) of equal weight, mu_k uniform on (-40, 40)^dim; log Z = 0.

    The means, `facts["means"]` [40, D], are draws of NumPy's RandomState(0), whose stream is
    frozen. They do not depend on the version of NumPy or JAX, and differ from the means of the
    papers, which are draws of JAX. Each mode has the mass 1/40. Raises ValueError for dim < 1.
    """
    dim = checks.integer(dim, "dim", 1)
    means = np.random.RandomState(MEANS_SEED).uniform(-40.0, 40.0, size=(40, dim))

    def log_density(z: Float[Array, " D"]) -> Scalar:
        squared = ((z[None] - means) ** 2).sum(1)
        return jax.nn.logsumexp(-0.5 * squared) - math.log(40) - 0.5 * dim * LOG_2PI

    def sample(key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        key_mode, key_noise = jax.random.split(key)
        mode = jax.random.randint(key_mode, (num_samples,), 0, 40)
        return jnp.asarray(means)[mode] + jax.random.normal(key_noise, (num_samples, dim))

    name, facts = f"40 Gaussians, D = {dim}", {"means": means, "num_modes": 40}
    return Target(name, dim, log_density, 0.0, sample=sample, facts=facts)


def spike(dim: int = 10, log_ratio: float = math.log(9e10)) -> Target:
    """A uniform prior on [-5, 5]^D times L(z) = exp(-r^2 / 2) + e^log_ratio exp(-r^2 / 0.02).

    The second term is a spike of standard deviation 0.1. At D = 10 and the default ratio it has
    nine tenths of the mass (`facts["spike_mass"]`) in 10^-10 of the volume of the first term. The
    log-density is -inf outside the box. Raises ValueError for dim < 1. After Skilling (2006).
    """
    dim = checks.integer(dim, "dim", 1)
    log_prior = -dim * math.log(10)
    inside = math.log(math.erf(5 / math.sqrt(2)))  # log mass of N(0, 1) in [-5, 5]
    wide = dim * (0.5 * LOG_2PI + inside)
    narrow = log_ratio + dim * (0.5 * LOG_2PI + math.log(0.1))
    both = float(np.logaddexp(wide, narrow))

    def log_density(z: Float[Array, " D"]) -> Scalar:
        squared = (z**2).sum()
        value = log_prior + jnp.logaddexp(-0.5 * squared, log_ratio - 50 * squared)
        return jnp.where((jnp.abs(z) <= 5).all(), value, -jnp.inf)

    def sample(key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        key_part, key_z = jax.random.split(key)
        is_spike = jax.random.bernoulli(key_part, math.exp(narrow - both), (num_samples, 1))
        normal = jax.random.truncated_normal(key_z, -5.0, 5.0, (num_samples, dim))
        return jnp.where(is_spike, 0.1, 1.0) * normal

    facts = {"spike_mass": math.exp(narrow - both)}
    return Target(
        f"spike, D = {dim}", dim, log_density, log_prior + both, sample=sample, facts=facts
    )
