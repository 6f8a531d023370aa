import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import blobs, compact
from scipy import stats

from lvm_jax import em
from lvm_jax.em import priors, starts

N, D, K = 301, 3, 3
X = blobs(N, D, K)
KEY = jax.random.key(0)
TYPES = tuple(em.GAUSSIANS)
ALPHA = np.array([2.0, 3.5, 1.0])


def strong_prior(covariance_type):
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(D, D))
    scale = {
        "full": factor @ factor.T + np.eye(D),
        "tied": factor @ factor.T + np.eye(D),
        "diag": np.array([1.0, 2.0, 3.0]),
        "spherical": 1.5,
    }[covariance_type]
    niw = em.NormalInverseWishart(np.array([0.5, -1.0, 2.0]), 7.0, 11.0, scale)
    return em.ConjugatePrior(ALPHA, niw)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_map_step_is_the_stationary_point_of_the_log_posterior(x64, covariance_type):
    family = em.GAUSSIANS[covariance_type]
    prior = priors.cast(strong_prior(covariance_type), jnp.float64)
    settings = em.Settings(jnp.zeros(()), prior.components, prior.concentration)
    x = jnp.asarray(X)
    resp = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(K), N))

    @jax.jit
    def solve():
        summary = family.summarize_assigned(x, resp)
        return starts.maximize(family, summary, family.start(x[:K], x.std(0)), settings)

    @jax.jit
    @jax.value_and_grad
    def posterior(theta):
        logits, components = theta
        log_weights = jax.nn.log_softmax(logits)
        joint = family.exact_log_prob(components, x) + log_weights[None]
        log_prior = family.log_prior(components, prior.components)
        return (
            (resp * joint).sum() + log_prior + priors.log_dirichlet(log_weights, jnp.asarray(ALPHA))
        )

    best = tuple(solve())
    value, gradient = posterior(best)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-9 * N)
    rng = np.random.default_rng(3)
    for _ in range(5):  # and a maximum, not a saddle: every small move loses
        moved = jax.tree.map(lambda leaf: leaf * (1 + 1e-3 * rng.normal(size=leaf.shape)), best)
        assert posterior(moved)[0] < value


def test_log_inverse_wishart_is_scipys(x64):
    prior = priors.cast(strong_prior("full"), jnp.float64).components
    sigma = np.cov(X, rowvar=False)
    got = priors.log_inverse_wishart(jnp.linalg.cholesky(jnp.asarray(sigma)), prior)
    want = stats.invwishart.logpdf(sigma, 11.0, np.asarray(prior.scale))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_log_inverse_gamma_is_scipys(x64):
    prior = priors.cast(strong_prior("diag"), jnp.float64).components
    variance = np.array([0.3, 1.0, 4.0])
    want = stats.invgamma.logpdf(variance, 11.0 / 2, scale=np.asarray(prior.scale) / 2)
    np.testing.assert_allclose(priors.log_inverse_gamma(variance, prior), want, rtol=1e-12)


def test_log_dirichlet_is_scipys(x64):
    pi = np.array([0.2, 0.5, 0.3])
    got = priors.log_dirichlet(jnp.log(pi), jnp.asarray(ALPHA))
    np.testing.assert_allclose(got, stats.dirichlet.logpdf(pi, ALPHA), rtol=1e-12)
    # 0 log 0 = 0: a flat Dirichlet of three weights has density 2 everywhere, corners too.
    flat = priors.log_dirichlet(jnp.log(jnp.array([0.0, 0.5, 0.5])), jnp.ones(3))
    np.testing.assert_allclose(flat, np.log(2), rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_prior_is_the_sum_of_scipys_densities(x64, covariance_type):
    _, niw = strong_prior(covariance_type)
    rng = np.random.default_rng(4)
    sigma = np.stack([np.diag(rng.uniform(0.5, 2.0, D)) for _ in range(K)])
    if covariance_type == "tied":
        sigma = np.tile(sigma[:1], (K, 1, 1))
    elif covariance_type == "spherical":
        sigma = np.stack([s[0, 0] * np.eye(D) for s in sigma])
    mixture = em.gaussian_mixture(
        np.full(K, 1 / K), X[:K], compact(sigma, covariance_type), covariance_type, np.zeros(D)
    )
    want = sum(
        stats.multivariate_normal.logpdf(mean, niw.mean, s / niw.strength)
        for mean, s in zip(X[:K], sigma, strict=True)
    )
    variances = compact(sigma, covariance_type)
    if covariance_type in ("full", "tied"):
        each = [stats.invwishart.logpdf(s, niw.degrees, niw.scale) for s in sigma]
        want += each[0] if covariance_type == "tied" else sum(each)
    else:
        want += stats.invgamma.logpdf(variances, niw.degrees / 2, scale=niw.scale / 2).sum()
    prior = priors.cast(niw, jnp.float64)
    got = mixture.family.log_prior(mixture.components, prior)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_map_objective_never_falls(x64, covariance_type):
    prior = strong_prior(covariance_type)
    fit = em.fit(
        KEY, X, K, covariance_type, start="random", prior=prior, max_steps=60,
        regularization=0.0, tolerance=0.0, throw=False,
    )  # fmt: skip
    trace = np.append(fit.info.trace, fit.info.map_objective)
    assert np.diff(trace).min() >= -1e-10
    components = fit.mixture.components
    shifted = prior.components._replace(mean=prior.components.mean - fit.mixture.origin)
    log_prior = fit.mixture.family.log_prior(components, priors.cast(shifted, jnp.float64))
    log_prior = log_prior + stats.dirichlet.logpdf(np.asarray(fit.mixture.weights), ALPHA)
    want = fit.info.log_likelihood + log_prior / N
    np.testing.assert_allclose(fit.info.map_objective, want, rtol=1e-10)


def test_default_prior_is_fraley_and_rafterys():
    alpha, niw = em.default_prior(X, K)
    assert (alpha, niw.strength, niw.degrees) == (1.0, 0.01, D + 2)
    covariance = np.cov(X, rowvar=False)
    np.testing.assert_allclose(niw.mean, X.mean(0))
    np.testing.assert_allclose(niw.scale, covariance / K ** (2 / D))
    diagonal = em.default_prior(X, K, "diag").components.scale
    np.testing.assert_allclose(diagonal, np.diag(covariance) / K ** (2 / D))
    spherical = em.default_prior(X, K, "spherical").components.scale
    np.testing.assert_allclose(spherical, np.trace(covariance) / D / K ** (2 / D))
    with pytest.raises(ValueError, match="covariance_type: expected one of .*did you mean 'diag'"):
        em.default_prior(X, K, "diagonal")
    with pytest.raises(ValueError, match="num_components: expected an integer >= 1, got 0"):
        em.default_prior(X, 0)


GOOD = strong_prior("full").components
BAD_PRIORS = {
    "type": (GOOD, TypeError, "prior: expected an em.ConjugatePrior, got NormalInverseWishart"),
    "alpha": (em.ConjugatePrior(0.5), ValueError, r"prior\.concentration: expected numbers >= 1"),
    "components": (
        em.ConjugatePrior(None, 3.0),
        TypeError,
        r"prior\.components: expected an em\.Normal",
    ),
    "mean": (
        em.ConjugatePrior(1.0, GOOD._replace(mean=np.zeros(2))),
        ValueError,
        r"components\.mean: .*\(3",
    ),
    "shape": (
        em.ConjugatePrior(1.0, GOOD._replace(scale=np.ones(3))),
        ValueError,
        r"\.scale: .*\(3, 3\)",
    ),
    "scale": (
        em.ConjugatePrior(1.0, GOOD._replace(scale=-np.eye(3))),
        ValueError,
        "positive definite",
    ),
    "strength": (
        em.ConjugatePrior(1.0, GOOD._replace(strength=0.0)),
        ValueError,
        r"\.strength: .*positive",
    ),
    "degrees": (
        em.ConjugatePrior(1.0, GOOD._replace(degrees=2.0)),
        ValueError,
        "more than D - 1 = 2, got 2",
    ),
}


@pytest.mark.parametrize(("prior", "error", "message"), BAD_PRIORS.values(), ids=BAD_PRIORS)
def test_bad_priors_are_refused(prior, error, message):
    with pytest.raises(error, match=message):
        em.fit(KEY, X, K, prior=prior)
