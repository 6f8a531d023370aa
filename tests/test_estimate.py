"""A number with its error: intervals as scipy's, means, refusals, and the transforms of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.stats import norm, sem

from lvm_jax.estimate import Average, Estimate

DRAWS = np.random.default_rng(0).gamma(2.0, size=(9, 3))


@pytest.mark.parametrize("level", [1e-6, 0.5, 0.95, 1 - 1e-6])
def test_intervals_are_scipys(level):
    low, high = Estimate(-3.0, 0.5).interval(level)
    np.testing.assert_allclose((low, high), norm.interval(level, -3.0, 0.5), rtol=1e-9)
    assert isinstance(low, float)  # numbers stay numbers, in their precision
    assert np.isfinite(Estimate(0.0, 1.0).interval(np.nextafter(1.0, 0.0))).all()


def test_an_interval_of_a_pytree_has_one_for_every_number():
    found = Estimate({"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([0.0, 0.5])})
    low, high = quick_jit(lambda one: one.interval(0.9))(found)
    np.testing.assert_allclose(low["a"], [1.0, -2.0 - 0.5 * 1.6448536], rtol=1e-6)
    np.testing.assert_allclose(high["a"], [1.0, -2.0 + 0.5 * 1.6448536], rtol=1e-6)


def test_the_mean_of_draws_and_an_exact_number():
    found = Estimate.of_draws(jnp.asarray(DRAWS))
    np.testing.assert_allclose(found.value, DRAWS.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.standard_error, sem(DRAWS), rtol=1e-5)
    assert np.isnan(Estimate.of_draws(jnp.ones(1)).standard_error)  # not known
    exact = Estimate.exact(np.float32([1.5, -2.0]))
    assert exact.interval()[0].tolist() == exact.interval()[1].tolist() == [1.5, -2.0]


def test_it_is_a_pytree_and_vmaps():
    found = quick_jit(jax.vmap(Estimate.of_draws))(jnp.asarray(DRAWS.T))
    assert isinstance(found, Estimate)
    np.testing.assert_allclose(found.standard_error, sem(DRAWS), rtol=1e-5)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, found)
    np.testing.assert_allclose(doubled.value, 2 * DRAWS.mean(0), rtol=1e-6)


def test_the_average_over_points_has_two_errors():
    values, errors = DRAWS[:, 0], DRAWS[:, 1]
    found = Estimate(jnp.asarray(values), jnp.asarray(errors)).average()
    assert isinstance(found, Average)
    expected = values.mean(), np.sqrt((errors**2).sum()) / 9, sem(values)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (jnp.float32(-4.155382), jnp.float32(0.0123), "Estimate(-4.155 ± 0.012)"),
        (1234.5, 78.9, "Estimate(1234 ± 79)"),
        (-2.5, 0.0, "Estimate(-2.5 ± 0)"),
        (-2.5, float("nan"), "Estimate(-2.5 ± nan)"),
        ([1.0], [0.5], "Estimate(value=[1.0], standard_error=[0.5])"),
    ],
)
def test_it_prints_the_value_with_two_digits_of_the_error(value, error, words):
    assert repr(Estimate(value, error)) == words


def test_a_traced_estimate_prints_its_fields():
    printed = []
    quick_jit(lambda value: printed.append(repr(Estimate(value, value))))(jnp.float32(1))
    assert printed[0].startswith("Estimate(value=JitTracer")


def test_refusals():
    one = Estimate(jnp.float32(1.0), jnp.float32(0.1))
    for level in (0, 1.0, 95):
        with pytest.raises(
            ValueError, match=rf"level: expected a probability in \(0, 1\), .* {level}"
        ):
            one.interval(level)
    with pytest.raises(TypeError, match="level: expected a number"):
        one.interval("0.95")
    with pytest.raises(ValueError, match=r"value: expected numbers of N data points, \[N, ...\]"):
        one.average()
