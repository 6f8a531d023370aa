"""What every likelihood promises: its interface, the layout of its outputs, and its data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from model_cases import quick_jit
from scipy.special import expit, log_softmax

from lvm_jax import distributions, likelihoods
from lvm_jax.likelihoods import LIKELIHOODS, check_support

DIM = 3
NUM_OUTPUTS = {
    "gaussian_output": 2 * DIM,
    "discretized_logistic": 2 * DIM,
    "categorical": 256 * DIM,
}
REPARAMETERIZED = [name for name in LIKELIHOODS if "gaussian" in name] + ["continuous_bernoulli"]
each_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)


def positive(free):
    return np.exp(8 * np.tanh(free / 8))


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_integers_have_the_probabilities_of_floats(name):
    """log x! of a count 255 takes x + 1, which uint8 does not have."""
    q = LIKELIHOODS[name](DIM).build(jnp.zeros(DIM), jnp.linspace(-1, 1, DIM))
    counts = jnp.array([0, 1, 255])
    compute = quick_jit(lambda values: [q.log_prob(value) for value in values])
    types = (jnp.float32, jnp.int32, jnp.uint8)
    first, *others = compute([counts.astype(dtype) for dtype in types])
    np.testing.assert_array_equal(others, [first, first])
    assert first < -50


@each_likelihood
def test_every_likelihood_has_the_interface(name):
    """Shapes, draws on the support, and q rebuilt from its parameters under every transformation."""
    likelihood = LIKELIHOODS[name](DIM)
    assert likelihood.num_outputs == NUM_OUTPUTS.get(name, DIM)
    params = likelihood.init(jax.random.key(0))
    outputs = jax.random.normal(jax.random.key(1), (2, likelihood.num_outputs))

    @quick_jit
    def compute(outputs, key):
        q = likelihood.build(params, outputs[0])
        x = q.sample(seed=key)
        batch = jax.vmap(lambda o: likelihood.build(params, o))(outputs)
        apart = [likelihood.build(params, o).log_prob(x) for o in outputs]
        live = jax.grad(lambda o: likelihood.build(params, o).log_prob(x))(outputs[0])
        stopped = jax.grad(
            lambda o: jax.lax.stop_gradient(likelihood.build(params, o)).log_prob(x)
        )(outputs[0])
        draws = q.sample(seed=key, sample_shape=(2, 4))
        crossed = jax.vmap(lambda q: q.log_prob(x))(batch)
        return x, draws, q.mean(), crossed, apart, live, stopped, q

    x, draws, mean, crossed, apart, live, stopped, q = compute(outputs, jax.random.key(2))
    assert x.shape == mean.shape == (DIM,)
    assert draws.shape == (2, 4, DIM)
    assert x.dtype == draws.dtype == mean.dtype == jnp.float32
    check_support(likelihood, draws.reshape(-1, DIM))
    np.testing.assert_allclose(crossed, apart, rtol=1e-5)
    assert apart[0] != apart[1]
    assert np.abs(live).max() > 1e-3
    assert not stopped.any()
    assert distributions.is_reparameterized(q) == (name in REPARAMETERIZED)


@each_likelihood
def test_outputs_of_another_shape_are_refused(name):
    likelihood = LIKELIHOODS[name](DIM)
    num = likelihood.num_outputs
    with pytest.raises(ValueError, match=rf"outputs: expected shape \({num},\), .* got \(1,\)"):
        likelihood.build(likelihood.init(jax.random.key(0)), jnp.zeros(1))


def test_the_outputs_go_parameter_by_parameter(x64):
    loc, free, x = np.array([0.3, 0.9]), np.array([-1.0, 0.4]), np.array([0.25, 1.0])
    outputs = jnp.asarray([*loc, *free])
    q = likelihoods.gaussian_output(2).build((), outputs)
    want = st.norm.logpdf(x, loc, positive(free)).sum()
    np.testing.assert_allclose(q.log_prob(jnp.asarray(x)), want, rtol=1e-12)

    q = likelihoods.discretized_logistic(2, 5).build((), outputs)
    upper, lower = st.logistic.cdf(np.array([[0.375, np.inf], [0.125, 0.875]]), loc, positive(free))
    np.testing.assert_allclose(q.log_prob(jnp.asarray(x)), np.log(upper - lower).sum(), rtol=1e-12)

    logits = np.array([0.3, -0.2, 1.0, 0.0, -1.0, 2.0])  # of levels 0, 1, 2 for two dimensions
    q = likelihoods.categorical(2, 3).build((), jnp.asarray(logits))
    log_p = log_softmax(logits.reshape(3, 2), axis=0)
    np.testing.assert_allclose(q.log_prob(jnp.array([2.0, 0.0])), log_p[2, 0] + log_p[0, 1])

    x = np.array([3.0, 0.0])
    q = likelihoods.negative_binomial(2, total_count="output").build((), outputs)
    want = st.nbinom.logpmf(x, positive(free), expit(-loc)).sum()
    np.testing.assert_allclose(q.log_prob(jnp.asarray(x)), want, rtol=1e-12)
    np.testing.assert_allclose(q.mean(), positive(free) * np.exp(loc), rtol=1e-12)


def test_what_a_likelihood_learns_beside_the_decoder(x64):
    loc, x, key = jnp.array([0.3, -0.8]), jnp.array([1.0, 2.0]), jax.random.key(0)
    one, each = likelihoods.gaussian(2), likelihoods.gaussian_per_dimension(2)
    assert one.init(key).shape == ()
    start = st.norm.logpdf(x, loc).sum()
    np.testing.assert_allclose(one.build(one.init(key), loc).log_prob(x), start, rtol=1e-12)
    np.testing.assert_allclose(each.build(each.init(key), loc).log_prob(x), start, rtol=1e-12)
    free = np.array([-0.7, 1.5])
    found = each.build(jnp.asarray(free), loc).log_prob(x)
    np.testing.assert_allclose(found, st.norm.logpdf(x, loc, positive(free)).sum(), rtol=1e-12)
    found = one.build(jnp.asarray(free[0]), loc).log_prob(x)
    np.testing.assert_allclose(found, st.norm.logpdf(x, loc, positive(free[0])).sum(), rtol=1e-12)
    found = likelihoods.gaussian_fixed(2, 0.4).build((), loc).log_prob(x)
    np.testing.assert_allclose(found, st.norm.logpdf(x, loc, 0.4).sum(), rtol=1e-12)

    counts = likelihoods.negative_binomial(2)
    np.testing.assert_array_equal(counts.init(key), [0, 0])
    found = counts.build(jnp.asarray(free), loc).log_prob(x)
    want = st.nbinom.logpmf(x, positive(free), expit(-np.asarray(loc))).sum()
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_a_dimension_that_never_changes_keeps_the_density_bounded():
    likelihood = likelihoods.gaussian_per_dimension(1)
    q = likelihood.build(jnp.array([-1e6]), jnp.zeros(1))
    largest = 8 - 0.5 * np.log(2 * np.pi)  # log density at the mean, at the floor exp(-8)
    assert float(q.log_prob(jnp.zeros(1))) == pytest.approx(largest, rel=1e-6)


GOOD = {
    "bernoulli": [[0, 1, 1]],
    "continuous_bernoulli": [[0.0, 0.5, 1.0]],
    "gaussian": [[-3.0, 0.0, 1e4]],
    "discretized_logistic": np.arange(256, dtype=np.float32)[None, 3:6] / np.float32(255),
    "poisson": np.array([[0, 7, 12_345]]),
    "negative_binomial": [[0.0, 7.0, 1.0]],
    "categorical": [[0, 255, 17]],
}
BAD = {
    "bernoulli": (0.5, r"bits, 0 or 1, got 0.5 .*; binarise the data, or use continuous_bernoulli"),
    "continuous_bernoulli": (255.0, r"numbers in \[0, 1\], got 255 .*; divide by the largest"),
    "gaussian": (np.nan, r"finite numbers, got 1 NaN"),
    "discretized_logistic": (0.5, r"256 equal levels of \[0, 1\], got 0.5 .*x = k / 255"),
    "poisson": (2.5, r"counts 0, 1, 2, \.\.\., got 2.5 .*; give raw counts"),
    "negative_binomial": (-1.0, r"counts 0, 1, 2, \.\.\., got -1"),
    "categorical": (256.0, r"integers 0, \.\.\., 255, got 256 .*; multiply grey values"),
}


@pytest.mark.parametrize("name", GOOD)
def test_data_off_the_support_are_refused(name):
    likelihood = LIKELIHOODS[name](DIM)
    check_support(likelihood, GOOD[name])
    check_support(likelihood, jnp.asarray(GOOD[name])[0])
    value, message = BAD[name]
    x = np.array(GOOD[name], float)
    x[0, 1] = value
    with pytest.raises(ValueError, match="pixels: expected " + message):
        check_support(likelihood, x, "pixels")


def test_a_refusal_says_where_and_how_many():
    x = np.array([[0.0, 1.0], [0.3, 0.7]])
    with pytest.raises(ValueError, match=r"row 1, column 0 \(2 of 4 numbers are not\)"):
        check_support(likelihoods.bernoulli(2), x)
    digits = likelihoods.discretized_logistic(2, 17)
    check_support(digits, np.array([0, 5]) / 16)
    with pytest.raises(ValueError, match=r"x: expected 17 equal levels .*index \(1,\)"):
        check_support(digits, np.array([0, 5]) / [16, 255])
    with pytest.raises(TypeError, match="x: expected real numbers"):
        check_support(digits, np.array(["a"]))


def test_settings_that_make_no_likelihood_are_refused():
    for build in LIKELIHOODS.values():
        with pytest.raises(ValueError, match="dim: expected an integer >= 1, got 0"):
            build(0)
    for build in (likelihoods.discretized_logistic, likelihoods.categorical):
        with pytest.raises(ValueError, match="num_levels: expected an integer >= 2, got 1"):
            build(2, 1)
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match="scale: expected"):
            likelihoods.gaussian_fixed(2, scale)
    with pytest.raises(ValueError, match="total_count: expected one of learned, output"):
        likelihoods.negative_binomial(2, "outputs")
