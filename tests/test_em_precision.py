"""float32 on tight clusters far from the origin, against float64 on the same rounded data."""

import jax
import numpy as np
import pytest
from em_reference import compact, numbers
from model_cases import quick_jit
from scipy import special, stats

from lvm_jax import em
from lvm_jax.em.statistics import Data, MixtureParameters, compensated_add, exact_pass

N, D, K, SD = 301, 3, 3, 1e-3  # SD: of a cluster, as a share of the spread of the centres


def tight_clusters(offset):
    """Clusters `offset` of their standard deviations from the origin, rounded to float32."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, D))
    noise = SD * rng.normal(size=(N, D))
    return (offset * SD + centres[np.arange(N) % K] + noise).astype(np.float32)


def fit(x, covariance_type):
    sigma = compact(np.tile(0.01 * np.eye(D), (K, 1, 1)), covariance_type)
    initial = em.gaussian_mixture(np.full(K, 1 / K), x[:K], sigma, covariance_type)
    return em.fit(
        jax.random.key(0), x, K, covariance_type, start=initial, max_steps=10,
        tolerance=0.0, regularization=0.0, throw=False,
    )  # fmt: skip


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_float32_keeps_the_digits_of_tight_clusters_far_away(covariance_type):
    for offset in (1e4, 1e6):  # at 1e6 a unit in the last place of x is 0.06 cluster deviations
        x = tight_clusters(offset)
        single = fit(x, covariance_type)
        with jax.enable_x64(True):
            double = fit(x.astype(np.float64), covariance_type)
            pi, mu, sigma = numbers(double.mixture)
        assert single.mixture.components.deviations.dtype == np.float32
        assert single.info.exact_steps == 10
        got_pi, _, got_sigma = numbers(single.mixture)
        # Means relative to the origin have the digits: 1e-3 sd is 4 units in the last place of
        # the spread of 2000 sd. Measured 2e-4; covariances 1.3e-6, likelihood 1.7e-6 nats.
        got_mu = np.asarray(single.mixture.components.deviations, np.float64)
        got_mu = got_mu + np.asarray(single.mixture.origin, np.float64)
        deviation = np.sqrt(sigma.max())
        np.testing.assert_allclose(got_mu, mu, rtol=0, atol=1e-3 * deviation)
        np.testing.assert_allclose(got_sigma, sigma, rtol=0, atol=5e-6 * sigma.max())
        np.testing.assert_allclose(got_pi, pi, rtol=1e-6)
        np.testing.assert_allclose(
            single.info.log_likelihood, double.info.log_likelihood, rtol=0, atol=1e-5
        )
        variances = np.diagonal(got_sigma, axis1=1, axis2=2)
        assert (variances > 0).all()
        # The truth: SD^2, and the rounding of x to multiples of u, which adds u^2 / 12.
        unit = np.spacing(x.max())
        truth = SD**2 + unit**2 / 12
        np.testing.assert_allclose(variances, truth, rtol=5 * np.sqrt(2 / 100))


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_density_keeps_the_digits_of_tight_clusters_far_away(covariance_type):
    x = tight_clusters(1e4)
    mixture = fit(x, covariance_type).mixture
    pi = np.asarray(mixture.log_weights, np.float64)
    mu = np.asarray(mixture.components.deviations, np.float64)
    centred = (x - np.asarray(mixture.origin)).astype(np.float64)
    sigma = np.asarray(mixture.covariances, np.float64)
    joint = []
    for k in range(K):
        delta = centred - mu[k]
        quadratic = (delta * np.linalg.solve(sigma[k], delta.T).T).sum(1)
        log_det = np.linalg.slogdet(2 * np.pi * sigma[k])[1]
        joint.append(pi[k] - 0.5 * (quadratic + log_det))
    expected = np.logaddexp.reduce(joint)
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=0, atol=4e-4)


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_float32_keeps_the_digits_of_tight_clusters_far_apart(covariance_type):
    # One origin cannot centre them: at 1000 a unit in the last place is 3% of a deviation.
    rng = np.random.default_rng(1)
    side = np.where(rng.random(N) < 0.4, -1000.0, 1000.0)
    x = (side[:, None] + 2e-3 * rng.normal(size=(N, D))).astype(np.float32)
    sigma = compact(np.tile(0.01 * np.eye(D), (2, 1, 1)), covariance_type)
    fits = []
    for dtype in (np.float32, np.float64):
        means = np.outer([-999.875, 1000.125], np.ones(D)).astype(dtype)
        with jax.enable_x64(dtype == np.float64):
            initial = em.gaussian_mixture([0.5, 0.5], means, sigma, covariance_type)
            fits.append(
                em.fit(
                    jax.random.key(0), x.astype(dtype), 2, covariance_type, start=initial,
                    max_steps=3, tolerance=0.0, regularization=1e-6, throw=False,
                )
            )  # fmt: skip
            fits.append(np.asarray(fits[-1].mixture.log_prob(x.astype(dtype)), np.float64))
    single, log_p, double, expected = fits
    assert single.info.exact_steps == 3
    # Measured 2e-6 nats; log p of one row differs by the rounding of 14 nats and of its square.
    truth = double.info.log_likelihood
    np.testing.assert_allclose(single.info.log_likelihood, truth, rtol=0, atol=1e-5)
    np.testing.assert_allclose(single.info.trace, double.info.trace, rtol=2e-6)
    np.testing.assert_allclose(log_p, expected, rtol=0, atol=1e-4)
    components = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), single.mixture.components)
    origin = np.asarray(single.mixture.origin, np.float64)
    means = origin + components.deviations + components.remainder
    np.testing.assert_allclose(means, double.mixture.means, rtol=0, atol=1e-4 * 2e-3)
    point = jax.jit(single.mixture.log_joint)(x[0])
    np.testing.assert_allclose(jax.nn.logsumexp(point), expected[0], rtol=0, atol=1e-4)


def test_float32_keeps_the_digits_of_rows_near_zero_among_large_ones():
    # x - origin would round the rows near 0.3 to multiples of 3e-5, three of their deviations.
    rng = np.random.default_rng(2)
    x = 0.3 + 1e-5 * rng.normal(size=(N, D))
    x[: N // 3] = 1000 + rng.normal(size=(N // 3, D))
    x = x.astype(np.float32)
    sigma = np.stack([np.eye(D), 1e-8 * np.eye(D)])
    fits = []
    for dtype in (np.float32, np.float64):
        means = np.outer([1001.0, 0.3], np.ones(D)).astype(dtype)
        with jax.enable_x64(dtype == np.float64):
            initial = em.gaussian_mixture([0.5, 0.5], means, sigma)
            fits.append(
                em.fit(
                    jax.random.key(0), x.astype(dtype), 2, start=initial, max_steps=3,
                    tolerance=0.0, regularization=0.0, throw=False,
                )
            )  # fmt: skip
    single, double = (jax.tree.map(np.asarray, fit) for fit in fits)
    np.testing.assert_allclose(single.info.log_likelihood, double.info.log_likelihood, atol=1e-4)
    got, truth = numbers(single.mixture)[2], numbers(double.mixture)[2]
    np.testing.assert_allclose(got[0], truth[0], rtol=0, atol=1e-5 * truth[0].max())
    np.testing.assert_allclose(got[1], truth[1], rtol=0, atol=1e-5 * truth[1].max())


@pytest.mark.parametrize("rates", [(1e6, 1.003e6), (3.0, 1e7)])
def test_float32_keeps_the_digits_of_large_poisson_counts(rates):
    rng = np.random.default_rng(3)
    rates = np.outer(rates, [1.0, 1.001, 0.999])
    x = rng.poisson(rates[rng.integers(2, size=N)]).astype(np.float32)
    start = rates * [[1.0001], [0.9999]]
    weight = rng.uniform(0.1, 3.0, N)
    pi, theta, trace, exact = np.array([0.4, 0.6]), start.astype(np.float32), [], x.astype(float)
    mixture = em.Mixture(
        np.log(pi.astype(np.float32)), theta, np.zeros(3, np.float32), em.Poisson()
    )
    theta = theta.astype(np.float64)
    joint = np.log(pi) + stats.poisson.logpmf(exact[:, None], theta).sum(-1)
    log_p = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(mixture.log_prob(x), log_p, rtol=0, atol=2e-4)
    resp = np.exp(joint - log_p[:, None])
    np.testing.assert_allclose(mixture.responsibilities(x), resp, rtol=0, atol=1e-5)
    fit = em.fit(
        jax.random.key(0), x, 2, family=em.Poisson(), start=mixture, max_steps=2,
        tolerance=0.0, sample_weight=weight, throw=False,
    )  # fmt: skip
    for _ in range(2):
        joint = np.log(pi) + stats.poisson.logpmf(exact[:, None], theta).sum(-1)
        log_p = np.logaddexp.reduce(joint, axis=1)
        trace.append(weight @ log_p / weight.sum())
        resp = np.exp(joint - log_p[:, None]) * weight[:, None]
        pi, theta = resp.sum(0) / weight.sum(), resp.T @ exact / resp.sum(0)[:, None]
    assert fit.info.exact_steps == 2
    np.testing.assert_allclose(fit.mixture.means, theta, rtol=1.2e-7)  # the rounding of a rate
    np.testing.assert_allclose(fit.mixture.weights, pi, rtol=0, atol=2e-6)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=0, atol=1e-5)


def test_float32_keeps_the_digits_of_many_extreme_bits():
    rng = np.random.default_rng(4)
    p = special.expit(rng.uniform(-12, 12, size=(2, 8191))).astype(np.float32)
    x = (rng.random((29, p.shape[1])) < p[rng.integers(2, size=29)]).astype(np.float32)
    family = em.Bernoulli()
    assert not bool(family.is_safe(jax.numpy.asarray(p)))
    assert bool(family.is_safe(jax.numpy.asarray(p[:, :101])))
    mixture = em.Mixture(np.log(np.full(2, 0.5, np.float32)), p, np.zeros(8191, np.float32), family)
    joint = np.log(0.5) + stats.bernoulli.logpmf(x[:, None].astype(int), p.astype(float)).sum(-1)
    expected = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=0, atol=4e-4)


@pytest.mark.parametrize("family", [em.Poisson(), em.Bernoulli()], ids=["poisson", "bernoulli"])
def test_the_default_exact_density_has_every_part(x64, family):
    counts = isinstance(family, em.Poisson)
    law = stats.poisson if counts else stats.bernoulli
    theta = np.array([[0.2, 0.5, 0.8], [0.9, 0.4, 0.3]])
    x = np.array([[0.0, 1, 1], [1, 0, 1], [0, 0, 0]]) * (4 if counts else 1)  # x! is not 1
    got = em.ExponentialFamily.exact_log_prob(family, theta, jax.numpy.asarray(x))
    np.testing.assert_allclose(got, law.logpmf(x[:, None], theta).sum(-1), rtol=1e-13)
    got = family.exact_log_prob(jax.numpy.asarray(theta), jax.numpy.asarray(x))
    np.testing.assert_allclose(got, law.logpmf(x[:, None], theta).sum(-1), rtol=1e-13)


def test_kahans_sum_does_not_drift():
    term = {"a": jax.numpy.float32(0.1), "b": (jax.numpy.full(3, 1 / 3, np.float32),)}
    zero = jax.tree.map(jax.numpy.zeros_like, term)

    @jax.jit
    def add(num):
        return jax.lax.fori_loop(
            0, num, lambda _, carry: compensated_add(carry, term), (zero, zero)
        )[0]

    num = 20_011
    for got, one in zip(jax.tree.leaves(add(num)), jax.tree.leaves(term), strict=True):
        np.testing.assert_allclose(got, num * np.asarray(one, np.float64), rtol=1.2e-7)


@pytest.mark.parametrize("dim", [3, 7, 33])
@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_is_safe_is_false_where_rounding_exceeds_a_thousandth_of_a_nat(covariance_type, dim):
    # u b D / 4 = 1e-3 with b = sqrt(D) (m + 2)^2 / 2 for unit variances and every mean m.
    reach = np.sqrt(1e-3 * 8 / (2.0**-24 * dim**1.5))
    family = em.GAUSSIANS[covariance_type]
    scale = compact(np.tile(np.eye(dim, dtype=np.float32), (1, 1, 1)), covariance_type)

    def component(reach):
        return em.Gaussians(jax.numpy.full((1, dim), reach - 2, np.float32), scale)

    @quick_jit
    def run(inside, at, outside, x):
        eta, offset = family.natural(at)
        fast = family.features(x) @ eta.T + offset[None] + family.base(at, x)[:, None]
        return family.is_safe(inside), family.is_safe(outside), fast

    x = np.random.default_rng(5).normal(size=(N, dim), loc=reach - 2).astype(np.float32)
    safe, beyond, fast = run(*(component(share * reach) for share in (0.97, 1, 1.03)), x)
    assert safe
    assert not beyond
    mean = np.float32(reach - 2).astype(np.float64)
    truth = stats.norm.logpdf(x.astype(np.float64), mean).sum(1)
    error = np.sqrt(np.mean((np.asarray(fast, np.float64)[:, 0] - truth) ** 2))
    assert 1e-3 / 4 < error < 4e-3


def test_chunks_of_the_exact_path_keep_digits_and_empty_components():
    # Three chunks of unequal means; float32 rounds a mean at 1000 to 3% of a deviation. The third
    # component is so far away that it has no row.
    rng = np.random.default_rng(6)
    side = np.where(rng.random(N) < 0.4, -1000.0, 1000.0)
    x = (side[:, None] + 2e-3 * (rng.normal(size=(N, D)) + np.arange(N)[:, None] // 100)).astype(
        np.float32
    )
    shift = np.float32([200.125, 200.25, 200.0625])
    centres = np.outer([-1000, 1000, 1e6], np.ones(D)).astype(np.float32)
    components = em.Gaussians(centres - shift, np.tile(np.eye(D, dtype=np.float32), (3, 1, 1)))
    parameters = MixtureParameters(np.log(np.full((1, 3), 1 / 3, np.float32)), components)
    parameters = jax.tree.map(lambda leaf: leaf if leaf.shape[0] == 1 else leaf[None], parameters)
    family = em.GAUSSIANS["full"]
    run = jax.jit(exact_pass, static_argnums=(0, 3))
    summary = jax.tree.map(
        lambda leaf: leaf[0], run(family, parameters, Data(x, None, shift), 128)[0]
    )
    counts, means, scatter, low = (np.asarray(leaf, np.float64) for leaf in summary)
    for k, sign in enumerate((-1, 1)):
        rows = x[side == sign * 1000].astype(np.float64)
        np.testing.assert_allclose(counts[k], len(rows), rtol=1e-6)
        found = means[k] + low[k] + shift
        np.testing.assert_allclose(found, rows.mean(0), rtol=0, atol=1e-4 * 2e-3)
        truth = np.cov(rows.T, ddof=0) * len(rows)
        np.testing.assert_allclose(scatter[k], truth, rtol=0, atol=1e-5 * truth.max())
    prior = em.NormalInverseWishart(
        np.full(D, 0.3, np.float32), 1.0, 5.0, np.eye(D, dtype=np.float32)
    )
    prior = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, np.float32), prior)
    settings = em.Settings(np.float32(0), prior)
    best = jax.jit(family.maximize)(summary, family.complete(components), settings)
    assert counts[2] == 0
    np.testing.assert_allclose(best.deviations[2], prior.mean, rtol=1e-6)
