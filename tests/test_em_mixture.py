import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import blobs, compact, e_step
from scipy import stats
from sklearn.mixture import GaussianMixture

from lvm_jax import em
from lvm_jax.em import selection
from lvm_jax.em.gaussian import Gaussians

N, D, K = 301, 3, 3
X = blobs(N, D, K)
PI = np.array([0.5, 0.3, 0.2])
MU = X[:K]
SIGMA = np.stack([np.diag([1.0, 2.0, 0.5]) + 0.2, np.eye(D), 2 * np.eye(D) - 0.3])
TYPES = tuple(em.GAUSSIANS)


def covariances(covariance_type):
    if covariance_type == "tied":
        return np.tile(SIGMA[0], (K, 1, 1))
    if covariance_type == "diag":
        return np.stack([np.diag(np.diag(s)) for s in SIGMA])
    return np.stack([s[0, 0] * np.eye(D) for s in SIGMA]) if covariance_type != "full" else SIGMA


def mixture(covariance_type="full", shift=0.0, **options):
    sigma = compact(covariances(covariance_type), covariance_type)
    return em.gaussian_mixture(PI, MU + shift, sigma, covariance_type, **options)


def oracle(covariance_type):
    """scikit-learn's mixture with the same numbers."""
    model = GaussianMixture(K, covariance_type=covariance_type)
    model.weights_, model.means_ = PI, MU
    model.covariances_ = sigma = compact(covariances(covariance_type), covariance_type)
    if covariance_type == "full":
        model.precisions_cholesky_ = np.stack([np.linalg.cholesky(np.linalg.inv(s)) for s in sigma])
    elif covariance_type == "tied":
        model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(sigma))
    else:
        model.precisions_cholesky_ = 1 / np.sqrt(sigma)
    return model


@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_are_scipys_and_sklearns(x64, covariance_type):
    ours, sklearns = mixture(covariance_type), oracle(covariance_type)
    density = sum(
        p * stats.multivariate_normal.pdf(X, m, s)
        for p, m, s in zip(PI, MU, covariances(covariance_type), strict=True)
    )
    np.testing.assert_allclose(ours.log_prob(X), np.log(density), rtol=1e-12)
    np.testing.assert_allclose(ours.log_prob(X), sklearns.score_samples(X), rtol=1e-12)
    np.testing.assert_allclose(ours.responsibilities(X), sklearns.predict_proba(X), atol=1e-12)
    np.testing.assert_array_equal(ours.assign(X), sklearns.predict(X))
    np.testing.assert_allclose(ours.covariances, covariances(covariance_type), rtol=1e-12)
    joint = jax.vmap(ours.log_joint)(jnp.asarray(X))
    np.testing.assert_allclose(jax.nn.logsumexp(joint, 1), ours.log_prob(X), rtol=1e-12)
    np.testing.assert_allclose(jax.nn.softmax(joint, 1), ours.responsibilities(X), atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_criteria_are_sklearns(x64, covariance_type):
    ours, sklearns = mixture(covariance_type), oracle(covariance_type)
    criteria = em.criteria(ours, X)
    assert criteria.num_parameters == ours.num_parameters == sklearns._n_parameters()
    np.testing.assert_allclose(criteria.aic, sklearns.aic(X), rtol=1e-12)
    np.testing.assert_allclose(criteria.bic, sklearns.bic(X), rtol=1e-12)
    resp, log_p = e_step(X, PI, MU, covariances(covariance_type))
    np.testing.assert_allclose(criteria.log_likelihood, log_p.sum(), rtol=1e-12)
    entropy = stats.entropy(resp, axis=1).sum()
    np.testing.assert_allclose(criteria.entropy, entropy, rtol=1e-10)
    icl = criteria.bic - 2 * np.log(resp.max(1)).sum()
    np.testing.assert_allclose(criteria.icl, icl, rtol=1e-12)


def test_smallest_spread_is_the_share_of_the_datas_variance(x64):
    sigma = np.stack([np.cov(X.T), 0.01 * np.cov(X.T)])
    two = em.gaussian_mixture([0.5, 0.5], MU[:2], sigma)
    assert em.smallest_spread(two, X) == pytest.approx(0.01, rel=1e-9)
    failed = jax.tree.map(lambda leaf: np.nan * leaf, two)  # LAPACK raises on NaN from D = 3
    assert np.isnan(em.smallest_spread(failed, X))


def test_evaluate_weights_are_repetition(x64):
    times = np.random.default_rng(0).integers(0, 4, N)
    weighted = mixture().evaluate(X, times)
    repeated = mixture().evaluate(np.repeat(X, times, axis=0))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-11)
    bic = [
        em.criteria(mixture(), X, times).bic,
        em.criteria(mixture(), np.repeat(X, times, axis=0)).bic,
    ]
    np.testing.assert_allclose(bic[0], bic[1], rtol=1e-12)


def test_evaluate_counts_an_empty_component_as_nothing(x64):
    empty = em.gaussian_mixture(np.array([0.6, 0.4, 0.0]), MU, SIGMA)
    two = em.gaussian_mixture(np.array([0.6, 0.4]), MU[:2], SIGMA[:2])
    np.testing.assert_allclose(empty.evaluate(X), two.evaluate(X), rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_have_the_mixtures_moments(covariance_type):
    num = 20_000
    x, z = map(np.asarray, mixture(covariance_type).sample(jax.random.key(1), num))
    assert (np.abs(np.bincount(z, minlength=K) - num * PI) < 5 * np.sqrt(num * PI * (1 - PI))).all()
    for k, sigma in enumerate(covariances(covariance_type)):
        rows = x[z == k]
        standard_error = np.sqrt(np.diag(sigma) / len(rows))
        assert (np.abs(rows.mean(0) - MU[k]) < 5 * standard_error).all()
        # Var(S_ij) = (sigma_ij^2 + sigma_ii sigma_jj) / n
        variance = (sigma**2 + np.outer(np.diag(sigma), np.diag(sigma))) / len(rows)
        assert (np.abs(np.cov(rows, rowvar=False) - sigma) < 5 * np.sqrt(variance)).all()


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_density_does_not_depend_on_where_the_origin_lies(x64, covariance_type):
    near = mixture(covariance_type).log_prob(X)
    elsewhere = mixture(covariance_type, origin=np.array([3.0, -2.0, 1.0])).log_prob(X)
    np.testing.assert_allclose(elsewhere, near, rtol=1e-12)
    # x + 1e6 is itself rounded to 1e-10 of a standard deviation.
    far = mixture(covariance_type, shift=1e6).log_prob(X + 1e6)
    np.testing.assert_allclose(far, near, rtol=1e-8)


def test_float64_data_are_centred_before_they_become_float32():
    shifted = mixture(origin=None)
    far = type(shifted)(*shifted.parameters, shifted.origin + 2.0**20, shifted.family)
    np.testing.assert_array_equal(shifted.origin + 2.0**20 - 2.0**20, far.origin - 2.0**20)
    moved = X - np.asarray(shifted.origin, np.float64) + np.asarray(far.origin, np.float64)
    np.testing.assert_allclose(far.log_prob(moved), shifted.log_prob(X), rtol=1e-5)


def test_wrong_number_of_columns_is_refused():
    with pytest.raises(ValueError, match="x: expected 3 columns as in the fit, got 2"):
        mixture().log_prob(X[:, :2])
    with pytest.raises(ValueError, match=r"sample_weight: expected shape \[301\], got \(4,\)"):
        mixture().evaluate(X, np.ones(4))


BAD_MIXTURES = {
    "sum": ((PI * 2, MU, SIGMA), "weights: expected a sum of 1, got 2"),
    "length": ((PI[:2], MU, SIGMA), r"weights: expected shape \[3\], got \(2,\)"),
    "negative": ((np.array([1.5, -0.5, 0.0]), MU, SIGMA), "weights: expected non-negative"),
    "nan mean": ((PI, MU * np.nan, SIGMA), "means: expected finite numbers, got 9 NaN"),
    "shape": ((PI, MU, SIGMA[0]), r"covariances: expected shape \(3, 3, 3\), got \(3, 3\)"),
    "nan": ((PI, MU, SIGMA * np.nan), "covariances: expected finite numbers, got 27 NaN"),
    "sign": ((PI, MU, -SIGMA), "covariances: expected positive definite matrices"),
    "symmetry": ((PI, MU, np.triu(SIGMA + 0.1)), "covariances: expected symmetric matrices"),
    "variance": ((PI, MU, np.array([1.0, 0.0, 2.0]), "spherical"), "positive variances, got 0"),
    "type": ((PI, MU, SIGMA, "ful"), "covariance_type: .*did you mean 'full'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_MIXTURES.values(), ids=BAD_MIXTURES)
def test_bad_mixtures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        em.gaussian_mixture(*arguments)


def test_only_gaussians_have_covariances():
    bits = em.Mixture(jnp.log(jnp.ones(1)), jnp.full((1, D), 0.5), jnp.zeros(D), em.Bernoulli())
    with pytest.raises(TypeError, match="covariances: Bernoulli components have none"):
        _ = bits.covariances
    with pytest.raises(TypeError, match="as_theta: Bernoulli components have none"):
        bits.as_theta()


def test_theta_keeps_the_factor_of_a_covariance_that_is_singular_in_float32():
    factor = jnp.array([[1.0, 0.0], [1.0, 1e-5]], jnp.float32)
    components = Gaussians(jnp.zeros((1, 2), jnp.float32), factor[None])
    mixture = em.Mixture(jnp.zeros(1), components, jnp.zeros(2), em.Full())
    assert not jnp.linalg.cholesky(mixture.covariances)[0, 1, 1] > 0  # NaN, or 0
    np.testing.assert_array_equal(mixture.as_theta().cholesky[0], factor)


def test_select_takes_the_lowest_criterion(x64):
    """Of fits that are those of `em.fit`."""
    x = np.repeat([[0.0, 0.0], [9.0, 1.0]], 30, 0) + np.random.default_rng(1).normal(size=(60, 2))
    key, options = jax.random.key(3), {**selection.DEFAULTS, "num_restarts": 2, "throw": False}
    weight = np.where(np.arange(60) < 3, 2.0, 1.0)
    found = em.select(key, x, (3, 1, 2), "diag", sample_weight=weight, **options)
    assert found.num_components == 2
    alone = em.fit(key, x, 2, "diag", sample_weight=weight, **options)
    assert alone.info.restart_objectives.size == 2
    np.testing.assert_array_equal(found.mixture.means, alone.mixture.means)
    for k, one in found.fits.items():
        assert found.criteria[k] == em.criteria(one.mixture, x, weight)
    lowest = min(found.criteria, key=lambda k: found.criteria[k].icl)
    options |= {"criterion": "icl", "sample_weight": weight}
    assert em.select(key, x, (1, 2), "diag", **options).num_components == lowest


def test_select_names_the_number_of_components_that_did_not_converge(x64):
    x = np.random.default_rng(1).normal(size=(60, 2))
    options = {"max_steps": 2, "tolerance": 0.0, "num_restarts": 2, "sample_weight": np.ones(60)}
    words = "EM did not converge in 2 steps: 1 of 1 fits (diag of 3); raise max_steps or tolerance"
    with pytest.warns(em.ConvergenceWarning) as caught:
        em.select(jax.random.key(3), x, (3,), "diag", **options)
    assert [str(one.message) for one in caught] == [words]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"criterion": "BIC"}, "criterion: expected one of aic, bic, icl, got 'BIC'"),
        ({"num_components": ()}, r"num_components: expected different numbers >= 1, got \(\)"),
        ({"num_components": (2, 2)}, "num_components: expected different numbers"),
        ({"num_components": (0, 2)}, "num_components: expected an integer >= 1, got 0"),
    ],
)
def test_select_refuses_by_name(change, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        em.select(
            **{"key": jax.random.key(0), "x": np.ones((5, 2)), "num_components": (1, 2)} | change
        )
