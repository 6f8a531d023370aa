from functools import cache

import deep_cases
import guide_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from model_cases import quick_jit

from lvm_jax import guides, models, networks
from lvm_jax.diagnostics import (
    active_units,
    effective_sample_size,
    gradient_blocks,
    gradient_statistics,
    pareto_k,
    posterior_means,
    psis,
)


def test_effective_sample_size():
    found = effective_sample_size(jnp.log(jnp.array([1.0, 2.0, 3.0, 0.0])) + 500)
    np.testing.assert_allclose(found, 36 / 14, rtol=1e-5)
    np.testing.assert_allclose(effective_sample_size(jnp.full(7, -3e4)), 7, rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(jnp.array([-jnp.inf, 2.0])), 1, rtol=1e-6)
    assert np.isnan(effective_sample_size(jnp.array([jnp.nan, 1.0])))


@cache
def pareto_ks(num_samples):
    return quick_jit(pareto_k)


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
    # A bounded tail: 5 equal exceedances e - 1 are at the end of their range, k = mean log(1 - b x).
    assert k_of(few) < 0
    assert k_of(np.where(np.arange(1_000) < 4, 1.0, 0.0)) == np.inf  # four are too few for a shape
    assert np.isnan(k_of(np.where(np.arange(1_000) == 0, np.nan, few)))
    assert np.isnan(k_of(np.where(np.arange(1_000) == 0, np.inf, few)))
    alone = np.where(np.arange(1_000) == 3, 0.0, -np.inf)  # one weight carries everything
    assert k_of(alone) == np.inf
    assert k_of(np.full(1_000, -np.inf)) == np.inf  # all weights are zero


@pytest.mark.parametrize("num_samples", [25, 1_001])
@pytest.mark.parametrize("scale", [35.0, 61.0])
def test_pareto_k_of_weights_that_underflow(num_samples, scale):
    # Log-weights of a Pareto and of a lognormal tail that spread by 88 to 600 nats.
    rng = np.random.default_rng(7)
    for log_w in (rng.exponential(scale, num_samples), rng.normal(0, scale, num_samples)):
        log_w = (log_w - 5_000).astype(np.float32)
        assert np.ptp(log_w) > 88
        oracle = array_stats.psislw(-log_w.astype(np.float64))[1]
        np.testing.assert_allclose(pareto_ks(num_samples)(log_w), oracle, rtol=3e-4)


def test_pareto_k_leaves_ties_with_the_threshold_out():
    # 37 distinct weights above 964 equal ones: the tail of 94 has 57 ties. The fit is that of the
    # 37 exceedances, by arviz-stats in float64.
    above = np.sort(np.random.default_rng(8).exponential(0.4, 37))
    log_w = np.concatenate([above, np.zeros(964)]).astype(np.float32)
    oracle = array_stats._gpdfit(np.expm1(np.sort(log_w)[-37:].astype(np.float64)))[0]
    np.testing.assert_allclose(pareto_ks(1_001)(log_w), oracle, rtol=3e-4)


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

    check(found.mean.value, lambda rows: rows.mean(0))
    check(found.variance, lambda rows: rows.var(0, ddof=1))
    check(found.mean.standard_error, lambda rows: rows.std(0, ddof=1) / num_repeats**0.5)
    check(found.signal_to_noise, lambda rows: abs(rows.mean(0)) / rows.std(0, ddof=1))
    for name, group in draws.items():
        rows = np.concatenate([leaf.reshape(num_repeats, -1) for leaf in jax.tree.leaves(group)], 1)
        ratio = np.linalg.norm(rows.mean(0)) / rows.var(0, ddof=1).sum() ** 0.5
        np.testing.assert_allclose(found.group_signal_to_noise[name], ratio, rtol=2e-5)
    for bias, mean, truth in zip(
        *map(jax.tree.leaves, (found.bias.value, found.mean.value, MEAN)), strict=True
    ):
        np.testing.assert_array_equal(bias, mean - truth)
    assert found.num_repeats == num_repeats


def test_blocks_are_the_statistics_of_their_own_keys():
    run = quick_jit(lambda key: gradient_blocks(key, noisy, 3, 40, chunk_size=16))
    mean, variance = run(jax.random.key(2))
    one = quick_jit(lambda key: gradient_statistics(key, noisy, 40, chunk_size=16))
    for index, key in enumerate(jax.random.split(jax.random.key(2), 3)):
        found = one(key)
        for field, blocks in ((found.mean.value, mean), (found.variance, variance)):
            jax.tree.map(
                lambda want, got, i=index: np.testing.assert_allclose(got[i], want, rtol=1e-6),
                *(field, blocks),
            )
    with pytest.raises(ValueError, match="num_blocks: expected"):
        gradient_blocks(jax.random.key(0), noisy, 0, 40)


def test_bias_and_signal_against_the_truth():
    found = quick_jit(lambda key: gradient_statistics(key, noisy, 4_000, truth=MEAN, signal=MEAN))(
        jax.random.key(1)
    )
    for bias, error in zip(*map(jax.tree.leaves, found.bias), strict=True):
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
    np.testing.assert_allclose(found.mean.value, value, rtol=1e-6)


def test_a_gradient_is_traced_once():
    """For the shapes and for the loop together: its tracing may take as long as its compilation."""
    traced = []

    def gradient(key):
        traced.append(key)
        return noisy(key)

    jax.eval_shape(lambda key: gradient_statistics(key, gradient, 250).mean, jax.random.key(0))
    assert len(traced) == 1


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


X = np.random.default_rng(4).normal(size=(120, 3)) * [1.0, 2.0, 0.3] + [0.5, -1.0, 2.0]


@pytest.mark.parametrize("name", ["location", "mean_field", "full_rank", "low_rank"])
def test_active_units_of_a_linear_gaussian_guide_are_exact(name, x64):
    # E_q[z] = A x + b, so A_u = (A Cov(x) A^T)_uu, whatever the covariance of q. x64.
    family = guide_cases.FAMILIES[name]
    guide = guides.linear(family, 3, ("loc",))
    weight = np.array([[0.3, -0.2, 1.0], [0.02, 0.02, -0.01]])
    offset, fresh = np.array([0.4, -1.0]), guide.init(jax.random.key(0))
    phi = guides.Amortized(fresh.offset._replace(loc=jnp.asarray(offset)), jnp.asarray(weight))
    means = posterior_means(jax.random.key(1), guide(phi), X, 1)
    np.testing.assert_allclose(means, X @ weight.T + offset[None], atol=1e-12)
    expected = np.diag(weight @ np.cov(X.T) @ weight.T)
    found = active_units(means)
    np.testing.assert_allclose(found.variance, expected, rtol=1e-9)
    assert found.active.tolist() == [True, False]  # 0.40 and 0.0018
    assert found.number == 1
    assert active_units(means, 0.0017).number == 2
    assert active_units(means, expected[1] * (1 + 1e-6)).number == 1


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "one_hot", "label"])
def test_means_of_finite_posteriors_are_exact(name):
    family = guide_cases.FAMILIES[name]
    guide = guides.linear(family, 3)
    phi = guide_cases.random_phi(guide, "linear")
    means = posterior_means(jax.random.key(1), guide(phi), X[:5], 1)
    (start,) = jax.tree.leaves(phi.offset)
    logits = X[:5] @ np.asarray(phi.network).T + np.ravel(start)[None]
    if name == "bernoulli":
        expected = 1 / (1 + np.exp(-logits))
    else:
        odds = np.exp(logits).reshape(5, *start.shape)
        mass = odds / odds.sum(-1, keepdims=True)
        expected = mass if name == "one_hot" else mass @ np.arange(3)
    np.testing.assert_allclose(means, expected, rtol=2e-5)


def test_active_units_of_a_hierarchy_from_below():
    # Linear layers: E[z_1] = W x + c exactly; z_2's mean has the noise of V s_1 eps, averaged.
    layers = [
        models.Layer(networks.mlp(3, (), 4), 2),
        models.Layer(networks.mlp(2, (), 4), 2),
    ]
    guide, num_samples = guides.bottom_up(layers), 500
    first, second = np.array([[0.6, -0.4, 0.0], [0.01, 0.0, 0.02]]), np.array([[1.5, 0], [0, 0]])
    phi = (
        deep_cases.gaussian_layer(first, [0.1, -2.0], [0.5, 1.0]),
        deep_cases.gaussian_layer(second, [3.0, 1.0], [0.2, 1.0]),
    )
    z_1, z_2 = posterior_means(jax.random.key(2), guide(phi), X, num_samples)
    exact = X @ first.T + np.array([[0.1, -2.0]])
    np.testing.assert_allclose(z_1, exact, atol=1e-5)
    error = (z_2 - exact @ second.T - np.array([[3.0, 1.0]]))[:, 0]
    sd = 1.5 * 0.5 / num_samples**0.5
    assert np.abs(error).max() < 5 * sd
    assert abs(error.std() / sd - 1) < 5 / (2 * len(X)) ** 0.5  # every point has noise of its own
    found = active_units((z_1, z_2))
    # The idle unit of z_2 has variance 1 given z_1, of which nothing is left: no draw of it is made.
    assert found.variance[1][1] < 1e-12
    assert [leaf.tolist() for leaf in found.active] == [[True, False], [True, False]]
    assert [int(leaf) for leaf in found.number] == [1, 1]
    np.testing.assert_allclose(found.variance[0], exact.var(0, ddof=1), rtol=1e-4)


def test_the_threshold_of_an_active_unit():
    signs = np.array([1, 1, 1, -1, -1, -1, 0])  # of unbiased variance 6 / 6
    wanted = np.array([0.0099, 0.0101, 0.009, 0.011])
    found = active_units(jnp.asarray(signs[:, None] * np.sqrt(wanted)[None]))
    np.testing.assert_allclose(found.variance, wanted, rtol=1e-5)
    assert found.active.tolist() == [False, True, False, True]  # A_u > 0.01, Burda et al. (2016)
    assert found.number == 2
    # At the threshold itself a unit is not active; NaN is not, either.
    edge = active_units(jnp.array([[0.0, jnp.nan], [1.0, 1.0], [2.0, 0.0]]), 1.0)
    assert edge.variance[0] == 1.0
    assert edge.active.tolist() == [False, False]


def test_means_of_a_hierarchy_from_above_and_of_any_other_q():
    # The ladder that is the exact posterior, and the same posterior as a q of unknown kind.
    _, theta, joint = deep_cases.linear_chain()
    gain = joint.covariance[:3, 3:] @ np.linalg.inv(joint.covariance[3:, 3:])
    exact = joint.mean[None, :3] + (deep_cases.POINTS - joint.mean[None, 3:]) @ gain.T
    sd = np.sqrt(np.diag(joint.covariance[:3, :3] - gain @ joint.covariance[3:, :3]))
    ladder, phi = deep_cases.exact_ladder(theta)
    num_samples = 2_000
    for guide, parameters in ((ladder, phi), (deep_cases.exact_guide(joint), ())):
        means = posterior_means(
            jax.random.key(3), guide(parameters), deep_cases.POINTS, num_samples
        )
        assert [leaf.shape for leaf in means] == [(2, 2), (2, 1)]
        error = np.concatenate(means, axis=1) - exact
        assert (np.abs(error) < 5 * sd[None] / num_samples**0.5 + 1e-5).all()
        if guide is ladder:  # z_2 is drawn first: its mean needs no draw
            assert np.abs(error[:, 2]).max() < 1e-5


def test_a_point_keeps_its_mean_whatever_stands_beside_it():
    guide = deep_cases.exact_guide(deep_cases.dense())
    few = posterior_means(jax.random.key(0), guide(()), X[:2], 40)
    many = posterior_means(jax.random.key(0), guide(()), X, 40)
    for one, other in zip(few, many, strict=True):
        np.testing.assert_allclose(one, other[:2], atol=1e-6)


@pytest.mark.parametrize(
    "means", [jnp.zeros((1, 3)), (jnp.zeros((4, 3)), jnp.zeros((5, 2))), jnp.float32(1.0), ()]
)
def test_means_that_are_not_rows_are_refused(means):
    with pytest.raises(ValueError, match=r"means: expected leaves \[N, K\] with one N >= 2"):
        active_units(means)


def test_posterior_means_refuse_bad_input():
    guide = guides.linear(guides.mean_field(2), 3)
    phi, key = guide.init(jax.random.key(0)), jax.random.key(0)
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 1"):
        posterior_means(key, guide(phi), X, 0)
    with pytest.raises(ValueError, match="x: expected an array of at least one data point"):
        posterior_means(key, guide(phi), X[:0], 1)
    with pytest.raises(ValueError, match="x: expected finite numbers"):
        posterior_means(key, guide(phi), np.full((2, 3), np.nan), 1)
    with pytest.raises(ValueError, match="threshold: expected a finite number >= 0"):
        active_units(jnp.zeros((3, 2)), -1.0)
