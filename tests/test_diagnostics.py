import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from model_cases import quick_jit

from lvm_jax.diagnostics import effective_sample_size, gradient_statistics, pareto_k, psis


def test_effective_sample_size():
    found = effective_sample_size(jnp.log(jnp.array([1.0, 2.0, 3.0, 0.0])) + 500)
    np.testing.assert_allclose(found, 36 / 14, rtol=1e-5)
    np.testing.assert_allclose(effective_sample_size(jnp.full(7, -3e4)), 7, rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(jnp.array([-jnp.inf, 2.0])), 1, rtol=1e-6)
    assert np.isnan(effective_sample_size(jnp.array([jnp.nan, 1.0])))


both = quick_jit(lambda log_w: (pareto_k(log_w), psis(log_w)))


@pytest.mark.parametrize("num_samples", [25, 1_000, 20_000])
@pytest.mark.parametrize("shape", [0.2, 0.6, 1.1])
def test_pareto_k_is_arviz_and_the_truth(num_samples, shape):
    # w = u^-k has a Pareto tail of shape k exactly.
    uniforms = np.random.default_rng(1).uniform(size=num_samples)
    log_w = (-shape * np.log(uniforms)).astype(np.float32)
    k, smoothed = both(jnp.asarray(log_w))
    weights, oracle = array_stats.psislw(-log_w.astype(np.float64))
    np.testing.assert_allclose(k, oracle, atol=2e-3)
    np.testing.assert_array_equal(smoothed.k_hat, k)
    np.testing.assert_allclose(jnp.exp(smoothed.log_weights).sum(), 1, rtol=1e-5)
    if num_samples == 20_000:  # M = 424 in the tail: standard error (1 + k) / sqrt(M)
        assert abs(k - shape) < 4 * (1 + shape) / 424**0.5
        normalised = weights - np.logaddexp.reduce(weights)
        np.testing.assert_allclose(smoothed.log_weights, normalised, atol=0.02)


def test_pareto_k_where_there_is_no_tail():
    def k_of(log_w):
        return float(both(jnp.asarray(log_w, jnp.float32))[0])

    assert pareto_k(jnp.zeros(24)) == np.inf  # too few
    assert k_of(np.full(1_000, -3.0)) == 0  # equal
    assert k_of(-500 + 1e-6 * np.random.default_rng(0).normal(size=1_000)) == 0  # to rounding
    few = np.where(np.arange(1_000) < 5, 1.0, 0.0)  # a tail of ties
    assert np.isnan(k_of(few))
    assert np.isnan(k_of(np.where(np.arange(1_000) == 0, np.nan, few)))
    alone = np.where(np.arange(1_000) == 3, 0.0, -np.inf)  # one weight carries everything
    assert not k_of(alone) <= 0.7


MEAN = {
    "theta": jnp.array([1.0, -2.0]),
    "phi": {"loc": jnp.array([0.5]), "scale": jnp.ones((2, 3))},
}


def noisy(key):
    """A gradient with mean MEAN and standard deviation 2 in theta, 0.5 in phi."""
    first, second, third = jax.random.split(key, 3)
    return {
        "theta": MEAN["theta"] + 2 * jax.random.normal(first, (2,)),
        "phi": {
            "loc": MEAN["phi"]["loc"] + 0.5 * jax.random.normal(second, (1,)),
            "scale": MEAN["phi"]["scale"] + 0.5 * jax.random.normal(third, (2, 3)),
        },
    }


def test_streamed_statistics_are_those_of_the_draws():
    num_repeats, chunks, size = 250, 3, 84  # chunks of at most 100, the last one partial
    found = quick_jit(lambda key: gradient_statistics(key, noisy, num_repeats, truth=MEAN))(
        jax.random.key(0)
    )
    keys = [jax.random.split(jax.random.fold_in(jax.random.key(0), i), size) for i in range(chunks)]
    draws = quick_jit(jax.vmap(noisy))(jnp.concatenate(keys)[:num_repeats])
    draws = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), draws)

    def check(field, function):
        jax.tree.map(
            lambda value, rows: np.testing.assert_allclose(value, function(rows), rtol=2e-5),
            field,
            draws,
        )

    check(found.mean, lambda rows: rows.mean(0))
    check(found.variance, lambda rows: rows.var(0, ddof=1))
    check(found.standard_error, lambda rows: rows.std(0, ddof=1) / num_repeats**0.5)
    check(found.signal_to_noise, lambda rows: abs(rows.mean(0)) / rows.std(0, ddof=1))
    for name, group in draws.items():
        rows = np.concatenate([leaf.reshape(num_repeats, -1) for leaf in jax.tree.leaves(group)], 1)
        ratio = np.linalg.norm(rows.mean(0)) / rows.var(0, ddof=1).sum() ** 0.5
        np.testing.assert_allclose(found.group_signal_to_noise[name], ratio, rtol=2e-5)
    for bias, mean, truth in zip(
        *map(jax.tree.leaves, (found.bias, found.mean, MEAN)), strict=True
    ):
        np.testing.assert_array_equal(bias, mean - truth)
    assert found.num_repeats == num_repeats


def test_bias_and_signal_against_the_truth():
    found = quick_jit(lambda key: gradient_statistics(key, noisy, 4_000, truth=MEAN, signal=MEAN))(
        jax.random.key(1)
    )
    for bias, error in zip(*map(jax.tree.leaves, (found.bias, found.standard_error)), strict=True):
        assert (abs(bias) < 4.5 * error).all()
    # ||(1, -2)|| / sqrt(8), and ||(0.5, 1 x 6)|| / sqrt(7 / 4); an sd is known to 1 % here.
    expected = {"theta": (5 / 8) ** 0.5, "phi": (6.25 / 1.75) ** 0.5}
    for name, value in expected.items():
        np.testing.assert_allclose(found.group_signal_to_noise[name], value, rtol=0.03)
    np.testing.assert_allclose(found.signal_to_noise["theta"], [0.5, 1.0], rtol=0.05)


def test_the_floor_of_a_mean_and_how_a_signal_passes_it():
    # A signal of 1e-4 under noise of 1: the mean of 400 shows about 1/20, the better mean 1e-4.
    def weak(key):
        return 1e-4 + jax.random.normal(key, (50,))

    @quick_jit
    def run(key):
        better = jnp.full(50, 1e-4)
        return [gradient_statistics(key, weak, 400, signal=signal) for signal in (None, better)]

    mean, better = run(jax.random.key(0))
    np.testing.assert_allclose(mean.group_signal_to_noise, 1 / 20, rtol=0.4)
    np.testing.assert_allclose(better.group_signal_to_noise, 1e-4, rtol=0.1)


def test_a_gradient_without_noise():
    # Zero variance to rounding, as STL's at the posterior, and far from zero too.
    value = np.array([1e4, 0.1], np.float32)
    found = quick_jit(lambda key: gradient_statistics(key, lambda _: jnp.asarray(value), 1_000))(
        jax.random.key(0)
    )
    assert (found.variance**0.5 < 1e-6 * value).all()
    np.testing.assert_allclose(found.mean, value, rtol=1e-6)


def test_nan_is_kept_and_pairs_are_groups():
    def gradient(key):
        return jax.random.normal(key, (2,)), jnp.array([jnp.nan, 1.0])

    found = quick_jit(lambda key: gradient_statistics(key, gradient, 50))(jax.random.key(0))
    assert np.isfinite(found.group_signal_to_noise[0])
    assert np.isnan(found.group_signal_to_noise[1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_repeats": 1}, "num_repeats: expected an integer >= 2, got 1"),
        ({"num_repeats": 5, "chunk_size": 0}, "chunk_size: expected an integer >= 1"),
        ({"num_repeats": 5, "truth": jnp.zeros(2)}, "truth: expected a pytree as the gradient"),
        ({"num_repeats": 5, "signal": {"theta": 0.0}}, "signal: expected a pytree as the gradient"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        gradient_statistics(jax.random.key(0), noisy, **arguments)
