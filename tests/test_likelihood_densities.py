"""Every density of lvm_jax.likelihoods against another implementation, in both precisions."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from model_cases import quick_jit
from scipy.special import digamma, expit, gammaln, log_expit, log_softmax

from lvm_jax import distributions
from lvm_jax.likelihoods import (
    CategoricalLevels,
    ContinuousBernoulli,
    DiscretizedLogistic,
    NegativeBinomial,
    Poisson,
)

LEVELS = {num: np.arange(num) / (num - 1) for num in (2, 17, 256)}


class Case(NamedTuple):
    build: Callable  # of parameters of one dimension, to a distribution over x [1]
    log_prob: Callable  # (x, *parameters) in NumPy, elementwise
    grid: list  # (x, *parameters)


def logistic(num):
    levels = LEVELS[num]

    def build(loc, scale):
        return DiscretizedLogistic(loc[None], scale[None], jnp.asarray(levels, loc.dtype))

    # On a level, between two, at both ends and beyond them; from a tenth of a step wide.
    scales = (0.09 / (num - 1), 0.02, 0.5, 30.0)
    parameters = [*product((-3.0, 0.2, 100 / 255, 0.503, 1.0, 4.0), scales)]
    some = levels[[0, 1, num // 3, -2, -1]]
    return Case(
        build, log_logistic_mass(num), [(x, *p) for x, p in product(sorted({*some}), parameters)]
    )


def log_logistic_mass(num):
    def log_prob(x, loc, scale):
        half = 0.5 / (num - 1)
        upper = np.where(x > 1 - half, np.inf, (x + half - loc) / scale)
        lower = np.where(x < half, -np.inf, (x - half - loc) / scale)
        # From the nearer tail, where the distribution function is small and so precise.
        flip = upper + lower > 0
        upper, lower = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
        big, small = st.logistic.logcdf(upper), st.logistic.logcdf(lower)
        return big + np.log(-np.expm1(small - big))

    return log_prob


def log_truncated_exponential(x, logits):
    size = np.maximum(np.abs(logits), 1e-300)
    log_p = st.truncexpon.logpdf(np.where(logits > 0, 1 - x, x) * size, size) + np.log(size)
    return np.where(logits == 0, 0.0, log_p)


def log_nbinom(x, logits, n):
    binomial = gammaln(x + n) - gammaln(n) - gammaln(x + 1)
    return binomial + n * log_expit(-logits) + x * log_expit(logits)


LOGITS = (-50.0, -3.0, -1.001, -0.999, -1e-3, 0.0, 1e-7, 0.02, 0.7, 1.0, 8.0, 50.0)
NORMAL = product((-30.0, 0.0, 0.3), (-1.0, 0.3), (3.5e-4, 1.0, 3e3))
COUNTS = (0.0, 1.0, 3.0, 15.0, 16.0, 17.0, 40.0, 300.0)
CASES = {
    "bernoulli": Case(
        lambda logits: distributions.Bernoulli(logits[None]),
        lambda x, logits: log_expit(np.where(x > 0, logits, -logits)),
        [*product((0.0, 1.0), LOGITS)],
    ),
    "continuous_bernoulli": Case(
        lambda logits: ContinuousBernoulli(logits[None]),
        log_truncated_exponential,
        [*product((0.0, 1e-3, 0.3, 0.5, 0.97, 1.0), LOGITS)],
    ),
    "gaussian": Case(
        lambda loc, scale: distributions.normal(loc[None], scale[None]), st.norm.logpdf, [*NORMAL]
    ),
    "logistic_2": logistic(2),
    "logistic_17": logistic(17),
    "logistic_256": logistic(256),
    "poisson": Case(
        lambda log_rate: Poisson(log_rate[None]),
        lambda x, log_rate: x * log_rate - np.exp(log_rate) - gammaln(x + 1),
        [*product(COUNTS, (-50.0, -2.0, 0.0, 1.1, 3.7, 5.7, 10.0))],
    ),
    "negative_binomial": Case(
        lambda logits, n: NegativeBinomial(logits[None], n[None]),
        log_nbinom,
        [*product(COUNTS, (-50.0, -2.0, -1e-3, 0.0, 2.5, 50.0), (4e-4, 0.3, 1.0, 2.5, 16.0, 3e3))],
    ),
}
each_case = pytest.mark.parametrize("name", CASES)
each_precision = pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-5), (True, 1e-10)])


def rounded(name, dtype):
    """The grid as the precision has it, so that both sides see the same numbers."""
    return np.array(CASES[name].grid).T.astype(dtype)


@each_case
@each_precision
def test_log_prob_is_that_of_another_implementation(name, x64, rtol):
    case, dtype = CASES[name], float if x64 else np.float32
    with jax.enable_x64(x64):
        columns = rounded(name, dtype)

        @quick_jit
        def log_prob(columns):
            return jax.vmap(lambda x, *p: case.build(*p).log_prob(x[None]))(*columns)

        found = log_prob(jnp.asarray(columns))
        assert found.dtype == dtype
        want = case.log_prob(*columns.astype(float))
        assert np.isfinite(want).all()
        np.testing.assert_allclose(found, want, rtol=rtol, atol=rtol)


def slopes(name, columns):
    """d log p / d parameters by hand, a row each."""
    x, *p = columns
    if name == "bernoulli":
        return [x - expit(p[0])]
    if name == "continuous_bernoulli":
        return [x - truncated_mean(p[0])]
    if name == "gaussian":
        loc, scale = p
        return [(x - loc) / scale**2, ((x - loc) ** 2 / scale**2 - 1) / scale]
    if name == "poisson":
        return [x - np.exp(p[0])]
    if name == "negative_binomial":
        logits, n = p
        in_n = digamma(x + n) - digamma(n) + log_expit(-logits)
        return [
            x * expit(-logits) - n * expit(logits),
            np.where(x > 0, in_n, log_expit(-logits)),
        ]
    loc, scale = p
    half = 0.5 / (int(name.split("_")[1]) - 1)
    u, v = (x + half - loc) / scale, (x - half - loc) / scale
    low, high = x < half, x > 1 - half
    # log p = log sigmoid(u) + log sigmoid(-v) + log(1 - e^-w), w = u - v, where the edge exists.
    w, over = 2 * half / scale, ~low & ~high
    du, dv = np.where(high, 0, expit(-u)), np.where(low, 0, -expit(v))
    in_scale = -(du * u + dv * v) / scale - np.where(
        over, w / scale / np.expm1(np.minimum(w, 700)), 0
    )
    return [-(du + dv) / scale, in_scale]


def truncated_mean(logits):
    size = np.where(np.abs(logits) < 0.05, 1.0, logits)
    series = 0.5 + logits / 12 - logits**3 / 720 + logits**5 / 30240  # next: 1e-6 l^7
    return np.where(np.abs(logits) < 0.05, series, -1 / np.expm1(-size) - 1 / size)


@each_case
@each_precision
def test_gradients_are_the_closed_forms_at_the_extremes_too(name, x64, rtol):
    case, dtype = CASES[name], float if x64 else np.float32
    with jax.enable_x64(x64):
        columns = rounded(name, dtype)
        num = len(columns) - 1

        @quick_jit
        def gradient(columns):
            def log_prob(x, *p):
                return case.build(*p).log_prob(x[None])

            return jax.vmap(jax.grad(log_prob, tuple(range(1, num + 1))))(*columns)

        for found, want in zip(
            gradient(jnp.asarray(columns)), slopes(name, columns.astype(float)), strict=True
        ):
            np.testing.assert_allclose(found, want, rtol=3 * rtol, atol=3 * rtol)


@pytest.mark.parametrize("rate", [1e3, 1e5, 1e7])
def test_float32_keeps_the_digits_of_large_counts(rate):
    # The log-gammas of 1e7 are 1.5e8, where float32 is spaced by 16. What is left: 3e-8 of
    # log(rate / x), times |x - rate|.
    x = np.round(rate + np.sqrt(rate) * np.linspace(-4, 4, 37)).astype(np.float32)
    log_rate = np.float32(np.log(rate))
    want = st.poisson.logpmf(x.astype(float), np.exp(float(log_rate)))
    found = quick_jit(jax.vmap(lambda x: Poisson(log_rate[None]).log_prob(x[None])))(x)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=3e-8 * 4 * np.sqrt(rate))


@pytest.mark.parametrize(
    ("logits", "n"), [(-0.6, 2e6), (0.0, 1e7), (-9.2, 1e7), (8.111, 3e3), (16.1, 1.0)]
)
def test_float32_keeps_the_digits_of_a_large_negative_binomial(logits, n):
    logits, n = np.float32(logits), np.float32(n)
    mean, variance = (float(n) * np.exp(float(logits) * k) for k in (1, 2))
    deviation = np.sqrt(mean + variance)
    x = np.round(mean + deviation * np.linspace(-4, 4, 37)).clip(0, 2**24).astype(np.float32)
    want = log_nbinom(x.astype(float), float(logits), float(n))
    q = NegativeBinomial(jnp.asarray(logits)[None], jnp.asarray(n)[None])
    found = quick_jit(jax.vmap(lambda x: q.log_prob(x[None])))(x)
    # A logit that is rounded twice, times 4 deviations: d log p / d logit has sqrt(min(mean, n)).
    atol = 1e-5 + 2.0**-23 * abs(logits) * 4 * np.sqrt(min(mean, n))
    np.testing.assert_allclose(found, want, rtol=2e-6, atol=atol)


def test_the_continuous_bernoulli_is_smooth_through_one_half(x64):
    """Its derivatives are the cumulants of a uniform at l = 0: 1/2, 1/12, 0."""

    def normalizer(logit):
        return -ContinuousBernoulli(logit[None]).log_prob(jnp.zeros(1))

    first = jax.grad(normalizer)
    second = jax.grad(first)
    every = (normalizer, first, second, jax.grad(second))
    # Beside 0, both sides of |l| = 1, where the series ends: no step in any of them.
    logits = jnp.array([0.0, 1 - 1e-9, 1 + 1e-9, -1 + 1e-9, -1 - 1e-9])
    found = quick_jit(jax.vmap(lambda logit: jnp.stack([f(logit) for f in every])))(logits)
    np.testing.assert_allclose(found[0], [0, 1 / 2, 1 / 12, 0], atol=1e-15)
    np.testing.assert_allclose(found[1::2], found[2::2], atol=2e-9)
    variance = 1 - np.exp(1) / np.expm1(1) ** 2  # 1/l^2 - e^l / (e^l - 1)^2
    np.testing.assert_allclose(found[1:, 2], variance, atol=2e-9)


def test_mean_of_the_continuous_bernoulli_is_not_lambda(x64):
    logits = jnp.array([-50.0, -1.0, 0.0, 1e-4, 3.0])
    want = truncated_mean(np.asarray(logits))
    found = quick_jit(lambda logits: ContinuousBernoulli(logits).mean())(logits)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_categorical_levels_against_the_softmax(x64):
    logits = np.array([[0.3, -50.0], [2.0, 0.0], [-1.0, 50.0]])
    q = CategoricalLevels(jnp.asarray(logits))
    log_p = log_softmax(logits, axis=0)
    x = np.array([*product(range(3), range(3))])
    want = log_p[x[:, 0], 0] + log_p[x[:, 1], 1]
    found = quick_jit(jax.vmap(q.log_prob))(jnp.asarray(x, float))
    np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize("bits", [5, 64, 100])  # one by one, products, products with padding
def test_many_bits_keep_every_digit_and_derivative(bits):
    rng = np.random.default_rng(bits)
    logits = np.float32(rng.normal(scale=20, size=bits))
    z, vector = np.float32(rng.uniform(size=bits)), np.float32(rng.normal(size=bits))
    exact, relaxed = logits.astype(float), z.astype(float)
    on = expit(exact)
    want = relaxed @ exact - np.logaddexp(0, exact).sum()

    def log_prob(z, logits):
        return distributions.Bernoulli(logits).log_prob(z)

    def both(z, logits, vector):
        slopes = jax.grad(log_prob, argnums=1)
        change = jax.jvp(slopes, (z, logits), (vector, vector))[1]
        return *jax.value_and_grad(log_prob, argnums=(0, 1))(z, logits), change

    value, (in_z, in_logits), change = quick_jit(both)(z, logits, vector)
    np.testing.assert_allclose(value, want, rtol=bits / 2 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(in_z, logits, rtol=1e-6)
    np.testing.assert_allclose(in_logits, relaxed - on, atol=1e-6)
    np.testing.assert_allclose(change, vector * (1 - on * (1 - on)), atol=1e-5)
    entropy = distributions.Bernoulli(logits).entropy()
    np.testing.assert_allclose(entropy, st.bernoulli(on).entropy().sum(), atol=1e-4)


def test_bits_of_another_number_are_refused():
    with pytest.raises(
        ValueError, match=r"value: expected shape \(3,\), as the logits, got \(1,\)"
    ):
        distributions.Bernoulli(jnp.zeros(3)).log_prob(jnp.zeros(1))
