"""The distributions of lvm_jax.likelihoods as wholes: total, mean, draws and support."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions
from lvm_jax.likelihoods import (
    CategoricalLevels,
    ContinuousBernoulli,
    DiscretizedLogistic,
    NegativeBinomial,
    Poisson,
)

LEVELS = {num: np.arange(num) / (num - 1) for num in (17, 256)}

# name: (q over x [D] with unlike dimensions, the values to sum over or None for a quadrature)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
WHOLE = {
    "bernoulli": (lambda: distributions.Bernoulli(jnp.array([-2.0, 0.3])), np.arange(2)),
    "continuous_bernoulli": (lambda: ContinuousBernoulli(jnp.array([-7.0, 0.03])), None),
    "logistic_17": (
        lambda: DiscretizedLogistic(
            jnp.array([0.95, 0.3]), jnp.array([0.2, 0.01]), jnp.asarray(LEVELS[17], float)
        ),
        LEVELS[17],
    ),
    "logistic_256": (
        lambda: DiscretizedLogistic(
            jnp.array([-0.1, 0.3]), jnp.array([0.3, 0.002]), jnp.asarray(LEVELS[256], float)
        ),
        LEVELS[256],
    ),
    "poisson": (lambda: Poisson(jnp.array([-1.0, 3.0])), np.arange(150)),
    "negative_binomial": (
        lambda: NegativeBinomial(jnp.array([1.0, -0.5]), jnp.array([0.4, 7.0])),
        np.arange(400),
    ),
    "categorical": (
        lambda: CategoricalLevels(jnp.array([[0.3, -1.0], [2.0, 0.0], [-1.0, 0.5]])),
        np.arange(3),
    ),
}
each_whole = pytest.mark.parametrize("name", WHOLE)


def masses(q, values):
    """p(x_d = value or dx) of each dimension, [M, D], and the values [M]."""
    x, weights = (values, 1.0) if values is not None else ((NODES + 1) / 2, WEIGHTS / 2)
    x = np.asarray(x, float)

    def along(d):
        other = jnp.full(2, float(x[0]))
        return jax.vmap(lambda v: q.log_prob(other.at[d].set(v)))(jnp.asarray(x))

    log_p = np.stack(quick_jit(lambda: [along(0), along(1)])(), 1)
    # log p(x_0, x_1) along two lines that cross at x[0] gives both marginals up to a constant,
    # which the total of the product over the plane fixes.
    joint = np.exp(log_p[:, :1] + log_p[None, :, 1] - log_p[0, 0])
    total = (np.broadcast_to(weights, x.shape)[:, None] * weights * joint).sum()
    p = np.exp(log_p) * np.broadcast_to(weights, x.shape)[:, None]
    return total, x, p / p.sum(0, keepdims=True)


@each_whole
def test_the_whole_is_one_and_the_mean_is_its_mean(name, x64):
    build, values = WHOLE[name]
    total, x, p = masses(build(), values)
    assert total == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose(build().mean(), x @ p, rtol=1e-9)


@each_whole
def test_draws_have_the_mean_and_the_variance(name):
    build, values = WHOLE[name]
    with jax.enable_x64(True):
        _, x, p = masses(build(), values)
    q, num = build(), 20_000
    draws = quick_jit(lambda key: q.sample(seed=key, sample_shape=(num,)))(jax.random.key(3))
    assert draws.shape == (num, 2)
    draws, mean = np.asarray(draws, float), x @ p
    for got, want in ((draws, mean), ((draws - mean) ** 2, ((x[:, None] - mean) ** 2 * p).sum(0))):
        assert (np.abs(got.mean(0) - want) <= 5 * got.std(0) / np.sqrt(num)).all()


@pytest.mark.parametrize(("x64", "rtol"), [(False, 2e-5), (True, 1e-10)])
def test_continuous_bernoulli_draws_are_quantiles_with_their_derivative(x64, rtol):
    """x = log(1 + u (e^l - 1)) / l, on both sides of the switch at |l| = eps^(1/4)."""
    l = np.array([-50.0, -2.0, -1.3e-4, -1.1e-4, 0.0, 0.018, 0.019, 0.3, 2.0, 50.0], np.float32)
    with jax.enable_x64(x64):
        dtype, key = float if x64 else np.float32, jax.random.key(4)

        def draw(logits):
            return ContinuousBernoulli(logits).sample(seed=key)

        x, slope = quick_jit(lambda l: jax.jvp(draw, (l,), (jnp.ones_like(l),)))(
            jnp.asarray(l, dtype)
        )
        tiny = np.finfo(dtype).eps / 2
        u = np.asarray(jax.random.uniform(key, l.shape, dtype, minval=tiny), float)
    l, v = l.astype(float), u * (1 - u)
    flat, safe = np.abs(l) < 1e-3, np.where(np.abs(l) < 1e-3, 1, l)
    want = np.where(
        flat, u + v * l / 2 + v * (1 - 2 * u) * l**2 / 6, np.log1p(u * np.expm1(safe)) / safe
    )
    np.testing.assert_allclose(x, want, rtol=rtol)
    share = u * np.exp(safe) / (1 + u * np.expm1(safe))
    want = np.where(
        flat, v / 2 + v * (1 - 2 * u) * l / 3 + v * (1 - 6 * v) * l**2 / 8, (share - want) / safe
    )
    np.testing.assert_allclose(slope, want, rtol=rtol, atol=rtol)


def test_values_off_the_support_have_probability_zero():
    off = {
        "continuous_bernoulli": (1.1, -0.1),
        "poisson": (-1.0, 2.5),
        "negative_binomial": (-1.0, 2.5),
        "categorical": (-1.0, 3.0, 0.5),
    }
    for name, values in off.items():
        x = jnp.stack([jnp.array([value, 0.0]) for value in (1.0, *values)])
        inside, *outside = quick_jit(jax.vmap(WHOLE[name][0]().log_prob))(x)
        assert np.isfinite(inside)
        assert (np.array(outside) == -np.inf).all()


def test_a_rate_that_cannot_be_drawn_is_not_a_count():
    q = Poisson(jnp.array([jnp.log(2.0**31), jnp.nan, 0.0]))
    draw = quick_jit(lambda key: q.sample(seed=key))(jax.random.key(0))
    assert np.isnan(draw).tolist() == [True, True, False]
