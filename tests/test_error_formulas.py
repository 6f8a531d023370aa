"""Every standard error against the spread of many runs, within a tenth; sizes are odd and coprime.

With R runs the spread itself has a relative standard error of 1 / sqrt(2 R): 1.1 % for 4,001 runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from decomposition_cases import quick_programs  # noqa: F401
from model_cases import CASES, quick_jit

from lvm_jax import distributions, evidence, guides
from lvm_jax._core.moments import merge, moments
from lvm_jax.decomposition import Ascent, channel, gaps
from lvm_jax.decomposition.aggregate import _surgery, of_points
from lvm_jax.decomposition.rate_distortion import _at_beta
from lvm_jax.diagnostics import gradient_statistics
from lvm_jax.estimate import Estimate
from lvm_jax.models import Model

RUNS = 4_001


def check(values, errors, name=""):
    """Values and stated errors of many runs, [R, ...]: root mean square error against the spread."""
    values, errors = (np.asarray(v, np.float64) for v in (values, errors))
    spread, stated = values.std(0, ddof=1), np.sqrt((errors**2).mean(0))
    assert (spread > 0).all()
    np.testing.assert_allclose(stated, spread, rtol=0.1, err_msg=name)


def rng():
    return np.random.default_rng(7)


def test_the_mean_of_draws():
    draws = rng().gamma(2.0, size=(RUNS, 37, 2)) * [1.0, 5.0]
    found = quick_jit(jax.vmap(Estimate.of_draws))(jnp.asarray(draws))
    check(found.value, found.standard_error)
    np.testing.assert_allclose(found.value, draws.mean(1), rtol=1e-5)


def test_merged_moments():
    # Three unequal parts, one of them masked: variance / n of all that was kept.
    draws = jnp.asarray(rng().gamma(2.0, size=(RUNS, 31)))
    keep = jnp.arange(13) < 11

    def one(row):
        parts = moments(row[:7]), moments(row[7:20], keep), moments(row[20:])
        whole = merge(merge(parts[0], parts[1]), parts[2])
        return whole.mean, jnp.sqrt(whole.variance / whole.number), whole.number

    value, error, number = quick_jit(jax.vmap(one))(draws)
    check(value, error)
    kept = np.delete(np.asarray(draws), [18, 19], axis=1)
    assert (number == 29).all()
    np.testing.assert_allclose(value, kept.mean(1), rtol=1e-5)
    np.testing.assert_allclose(error, kept.std(1, ddof=1) / 29**0.5, rtol=1e-4)


def test_averages_over_points():
    # 23 points of very different values and errors; the same points, or another data set each run.
    generator, num_points = rng(), 23
    truth, error = generator.normal(size=num_points) * 3, generator.gamma(1.0, size=num_points)
    noise = generator.normal(size=(RUNS, num_points)) * error
    errors = np.broadcast_to(error, (RUNS, num_points))
    found = quick_jit(jax.vmap(Estimate.average))(
        Estimate(jnp.asarray(truth + noise), jnp.asarray(errors))
    )
    check(found.value, found.monte_carlo_error)
    others = generator.gamma(2.0, size=(RUNS, num_points)) * 3 + noise
    found = quick_jit(jax.vmap(Estimate.average))(
        Estimate(jnp.asarray(others), jnp.asarray(errors))
    )
    check(found.value, found.sampling_error)


@pytest.mark.parametrize("chosen", [3, 11])
def test_points_without_replacement(chosen):
    # 11 points whose means and deviations differ; `chosen` of them, 5 draws each.
    generator, total = rng(), 11
    means, deviations = generator.normal(size=total), 0.3 + generator.gamma(1.0, size=total)
    places = np.argsort(generator.random((RUNS, total)), axis=1)[:, :chosen]
    noise = generator.normal(size=(RUNS, chosen, 5))
    draws = means[places][..., None] + deviations[places][..., None] * noise
    found = quick_jit(jax.vmap(lambda v: of_points(v, total)))(jnp.asarray(draws))
    check(found.value, found.standard_error, f"{chosen} of {total}")


def test_evidence_and_the_jackknife():
    log_w = jnp.asarray(rng().normal(size=(RUNS, 401)) * 0.7 - 50)

    def one(log_w):
        found = evidence.from_log_weights(log_w)
        return found.log_evidence, found.standard_error

    check(*quick_jit(jax.vmap(one))(log_w))


def test_errors_along_beta():
    # C chains with correlated weights and log-likelihoods: rate, distortion and log Z move together.
    generator, beta = rng(), 0.6
    log_w = generator.normal(size=(RUNS, 301)) * 0.6
    log_likelihood = -0.5 * log_w + generator.normal(size=log_w.shape) - 4
    one = jax.vmap(lambda w, l: _at_beta(w, l, jnp.float32(beta)))
    found = quick_jit(one)(jnp.asarray(log_w), jnp.asarray(log_likelihood))
    for name, part in zip(("rate", "distortion", "log Z"), found[:3], strict=True):
        check(part.value, part.standard_error, name)
    w = np.exp(log_w)
    np.testing.assert_allclose(found[3], w.sum(1) ** 2 / (w**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(
        found[0].value, -beta * found[1].value - found[2].value, rtol=1e-4, atol=1e-5
    )


def test_a_weight_of_zero_along_beta_excludes_its_draw():
    log_w = jnp.array([-jnp.inf, 0.0, 0.3])
    log_likelihood = jnp.array([-jnp.inf, -1.0, -2.0])
    rate, distortion, log_z, ess = quick_jit(_at_beta)(log_w, log_likelihood, 0.5)
    w = np.array([0.0, 1.0, np.exp(0.3)])
    np.testing.assert_allclose(log_z.value, np.log(w.mean()), rtol=1e-5)
    np.testing.assert_allclose(distortion.value, (w[1] + 2 * w[2]) / w.sum(), rtol=1e-5)
    np.testing.assert_allclose(rate.value, -0.5 * distortion.value - log_z.value, rtol=1e-5)
    np.testing.assert_allclose(ess, w.sum() ** 2 / (w**2).sum(), rtol=1e-5)
    pull = w / w.mean() * np.array([0.0, 1.0, 2.0]) - w / w.mean() * distortion.value
    np.testing.assert_allclose(distortion.standard_error, pull.std(ddof=1) / 3**0.5, rtol=1e-4)


def test_nan_is_kept_where_it_counts_and_nowhere_else():
    values, keep = jnp.array([1.0, jnp.nan, 4.0]), jnp.array([True, False, True])
    found = moments(values, keep)
    assert (float(found.mean), float(found.variance)) == (2.5, 4.5)
    for value in Estimate.of_draws(values):
        assert np.isnan(value)
    assert np.isnan(moments(jnp.array([2.0])).variance)
    draws = jnp.arange(12.0).reshape(2, 3, 2).at[0, 1, 1].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(of_points(draws, 5).standard_error), [False, True])


def test_gradient_statistics():
    def gradient(key):
        return {"a": jax.random.gamma(key, 2.0, (3,)) * jnp.array([1.0, 3.0, 0.1])}

    run = quick_jit(jax.vmap(lambda key: gradient_statistics(key, gradient, 31, chunk_size=13)))
    found = run(jax.random.split(jax.random.key(0), 2_003))
    check(found.mean.value["a"], found.mean.standard_error["a"])


MODEL, THETA, ROWS, *_ = CASES["diagonal"]()
REPEATS = 701  # 2.7 % of the spread


def by_point(measured):
    """[2 REPEATS] of two points as [REPEATS, 2]."""
    return (np.reshape(leaf, (2, REPEATS)).T for leaf in measured)


@pytest.mark.parametrize("given", [False, True])
def test_gaps(given):
    # Steps of size 0 leave every q* where it starts, so that only the draws differ. q is near the
    # posterior: the errors of log p are to first order.
    def near(phi, x):
        mean, cholesky = MODEL.posterior(THETA, x)
        return distributions.FullRankNormal(mean + 0.15, 1.2 * cholesky)

    guide, phi = guides.Guide(lambda key: (), near), ()
    x = jnp.repeat(ROWS, REPEATS, axis=0)
    key, noise = jax.random.split(jax.random.key(3))
    log_p = None
    if given:  # with errors of its own, which only the gaps to log p share
        error = jnp.full(2 * REPEATS, 0.05)
        value = -5 + error * jax.random.normal(noise, error.shape)
        log_p = jax.vmap(evidence.from_log_weights)(jnp.zeros((2 * REPEATS, 3)))
        log_p = log_p._replace(log_evidence=value, standard_error=error)
    found = gaps(
        key, MODEL(THETA), guide(phi), x, families={"diagonal": guides.mean_field(2)}, num_samples=201,
        log_evidence=log_p, ascent=Ascent(num_steps=2, num_starts=1, num_draws=1, optimizer=optax.sgd(0.0)), )  # fmt: skip
    diagonal = found.families["diagonal"]
    parts = {"elbo": found.elbo, "inference": found.inference, "log p": found.log_evidence}
    parts |= {"approximation": diagonal.approximation, "amortization": diagonal.amortization}
    for name, one in parts.items():
        check(*by_point(one), name)


def test_channel_without_a_closed_form():
    # A prior that is a mixture: both the rate and the distortion come from the draws.
    class Wide:
        def log_prob(self, z):
            left, right = (distributions.normal(jnp.full(2, m), jnp.ones(2)) for m in (-1.0, 2.0))
            return jnp.logaddexp(left.log_prob(z), right.log_prob(z)) - jnp.log(2.0)

        def sample(self, *, seed, sample_shape=()):
            return jax.random.normal(seed, (*sample_shape, 2))

    model = Model(
        lambda key: (),
        lambda theta: Wide(),
        lambda theta, z: distributions.normal(jnp.sin(2 * z), jnp.full(2, 0.6)),
    )
    guide = guides.shared(guides.mean_field(2))
    phi = guides.families.MeanField(jnp.array([0.4, -0.2]), jnp.array([-0.5, 0.1]))
    x = jnp.repeat(jnp.array([[0.3, -1.0], [2.0, 0.5]]), REPEATS, axis=0)
    found = channel(jax.random.key(1), model(()), guide(phi), x, 101)
    check(*by_point(found.rate), "rate")
    check(*by_point(found.distortion), "distortion")


@pytest.mark.parametrize("num_points, num_samples", [(23, 17), (11, 5)])
def test_surgery(num_points, num_samples):
    model, theta, *_ = CASES["diagonal"]()
    x = rng().normal(size=(23, 3)).astype(np.float32) * [1.0, 2.0, 0.5]
    guide = guides.linear(guides.mean_field(2), 3, ["loc"])
    phi = guides.Amortized(
        guides.families.MeanField(jnp.array([0.4, -0.2]), jnp.array([-0.5, 0.1])),
        jnp.array([[0.5, -0.2, 0.3], [0.1, 0.6, -0.4]]),
    )

    def run(key, places):
        keys, rows = tuple(jax.random.split(key)), jnp.asarray(x, jnp.float32)
        p, q = model(theta), guide(phi)
        return _surgery(keys, p, q, rows, 23, places, num_points, num_samples, 11)

    places = np.argsort(rng().random((1_001, 23)), axis=1)[:, :num_points]
    found = quick_jit(jax.vmap(run))(jax.random.split(jax.random.key(2), 1_001), places)
    for name in ("kl", "mutual_information", "marginal_kl", "mean", "variance"):
        check(*getattr(found, name), name)
