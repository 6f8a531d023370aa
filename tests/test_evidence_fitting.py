"""The proposal of `certify`: its density, and what pilots fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions
from lvm_jax.evidence import fitting
from lvm_jax.evidence.fitting import chunk, first_shares, fit
from lvm_jax.evidence.modes import FREEDOM, WIDTH, Modes, cover, supported

MEANS = jnp.array([[-3.0, 1.0], [4.0, 0.0], [0.0, 0.0]])
COVARIANCES = jnp.array(
    [[[1.0, 0.6], [0.6, 1.0]], [[0.25, 0.0], [0.0, 0.04]], [[1.0, 0.0], [0.0, 1.0]]]
)
FACTORS = jnp.linalg.cholesky(jnp.linalg.inv(COVARIANCES))
MODES = Modes(MEANS, FACTORS, jnp.array([0.0, 0.0, -jnp.inf]))
PRIOR = distributions.normal(jnp.zeros(2), jnp.full(2, 5.0))
Q = distributions.normal(jnp.zeros(2), jnp.ones(2))
SHARES = jnp.log(jnp.array([0.1, 0.1, 0.3, 0.1, 0.2, 0.2, 0.0, 0.0]))
NORMALS = [
    lambda z, k=k: jax.scipy.stats.multivariate_normal.logpdf(z, MEANS[k], COVARIANCES[k])
    for k in range(2)
]


def proposal(modes=MODES, shares=SHARES):
    return cover(Q, PRIOR, modes, shares)


def target(z):
    """0.7 and 0.3 of the two normals, of total mass e^2."""
    parts = jnp.stack([one(z) for one in NORMALS])
    return 2.0 + jax.nn.logsumexp(parts + jnp.log(jnp.array([0.7, 0.3])))


def test_the_components_are_normals_and_student_densities():
    z = jnp.array([1.3, -0.7])
    parts = quick_jit(proposal().log_parts)(z)
    np.testing.assert_allclose(parts[:2], [Q.log_prob(z), PRIOR.log_prob(z)], rtol=1e-5)
    np.testing.assert_allclose(parts[2:6:2], [one(z) for one in NORMALS], rtol=1e-5)
    from scipy.stats import multivariate_t

    for k in range(2):
        student = multivariate_t(np.asarray(MEANS[k]), WIDTH**2 * COVARIANCES[k], FREEDOM)
        np.testing.assert_allclose(parts[3 + 2 * k], student.logpdf(np.asarray(z)), rtol=1e-4)


def test_draws_follow_the_density():
    q = proposal()

    @quick_jit
    def run(key):
        z = q.sample(seed=key, sample_shape=(40_000,))
        log_w = jax.vmap(lambda z: target(z) - q.log_prob(z))(z)
        return log_w, jax.nn.softmax(jax.vmap(q.log_parts)(z) + SHARES[None], axis=1)

    log_w, belongs = (np.asarray(part, float) for part in run(jax.random.key(0)))
    w = np.exp(log_w - 2.0)
    assert abs(w.mean() - 1) < 4.5 * w.std() / 200
    # Each draw belongs to the components in proportion to their parts, on average to the shares.
    error = belongs.std(0) / 200 + 1e-9
    assert (np.abs(belongs.mean(0) - np.exp(SHARES)) < 4.5 * error).all()


@quick_jit
def fitted(key, z):
    own = proposal()
    return fit(chunk(key, target, own)[1], own, fitting.Loose(z, jax.vmap(target)(z)), 0.02)


def test_shares_and_masses_are_those_of_the_target():
    far = jnp.array([[30.0, 0.0], [4.0, 0.0]])
    found = jax.device_get(fitted(jax.random.key(1), far))
    shares = np.exp(found.log_shares)
    np.testing.assert_allclose(shares.sum(), 1.0, rtol=1e-4)
    assert shares[1] > 0.0199
    pairs = shares[2:].reshape(3, 2)
    np.testing.assert_allclose(pairs.sum(1)[:2], [0.7, 0.3], atol=0.06)
    assert (pairs[:2, 1] >= 0.049 * pairs[:2].sum(1)).all()  # the Student components'
    np.testing.assert_allclose(found.masses, [0.7, 0.3, 0.0], atol=0.05)
    assert found.variance < 0.1
    np.testing.assert_allclose(found.modes.means[:2], MEANS[:2], atol=0.2)
    # The loose end (4, 0) is covered: w is about e^2. At (30, 0) p is 0 in float32.
    assert 1.8 < found.reach < 2.2


def test_the_variance_is_that_of_the_fitted_proposal():
    found = jax.device_get(fitted(jax.random.key(2), MEANS[:2]))
    own = proposal(shares=found.log_shares)
    log_w = quick_jit(lambda keys: jax.lax.map(lambda k: chunk(k, target, own)[0], keys))(
        jax.random.split(jax.random.key(3), 20)
    )
    w = np.exp(np.asarray(log_w, float)).ravel()
    np.testing.assert_allclose(w.var() / w.mean() ** 2, found.variance, rtol=0.3)


def test_moments_of_a_mode_follow_the_draws():
    """Laplace's normal of half the width is replaced by the moments of the target."""
    narrow = MODES._replace(factors=2 * FACTORS)

    @quick_jit
    def refit(key):
        own = proposal(narrow, jnp.log(jnp.array([0.05, 0.35, 0.2, 0.1, 0.2, 0.1, 0.0, 0.0])))
        return fit(chunk(key, target, own)[1], own, None, 0.02).modes

    modes = refit(jax.random.key(4))
    covariance = jnp.linalg.inv(modes.factors @ jnp.swapaxes(modes.factors, 1, 2))
    ratio = (
        np.diagonal(covariance, axis1=1, axis2=2)[:2]
        / np.diagonal(COVARIANCES, axis1=1, axis2=2)[:2]
    )
    assert (ratio > 0.7).all()  # from 0.25
    assert (ratio < 1.4).all()


def test_first_shares_are_half_equal_and_half_by_mass():
    masses = np.log([[0.9, 0.1, 0.5]])
    # The third is a shoulder, of at most the mass of the largest mode; the factors are 1.
    modes = Modes(np.zeros((1, 3, 2)), np.broadcast_to(np.eye(2), (1, 3, 2, 2)), masses)
    shares = np.exp(first_shares(modes, np.array([2]), 0.02))[0]
    by_mass = np.array([0.9, 0.1, 0.5]) / 1.5
    np.testing.assert_allclose(shares[2::2] * 2, 0.25 * (1 / 3 + by_mass), rtol=1e-5)
    np.testing.assert_allclose(shares[:2], [0.4, 0.1], rtol=1e-5)
    np.testing.assert_allclose(np.exp(first_shares(None, np.zeros(1), 0.0)), [[1.0, 0.0]])


def test_a_prior_without_density_outside_its_support_weighs_nothing_there():
    class Gamma:
        def sample(self, *, seed, sample_shape=()):
            return jax.random.gamma(seed, 2.0, (*sample_shape, 1))

        def log_prob(self, z):
            return (jnp.log(z) - z).sum()  # NaN below 0

    joint = supported(lambda z: Gamma().log_prob(z), Gamma())
    assert quick_jit(joint)(jnp.array([-1.0])) == -jnp.inf
    np.testing.assert_allclose(quick_jit(joint)(jnp.array([2.0])), np.log(2) - 2, rtol=1e-5)

    class Broken(Gamma):
        def log_prob(self, z):
            return jnp.nan * z.sum()

    assert np.isnan(quick_jit(supported(Broken().log_prob, Broken()))(jnp.array([2.0])))


@pytest.mark.parametrize("dtype", [jnp.float32])
def test_unused_slots_have_no_share(dtype):
    modes = Modes.none(jnp.zeros(2, dtype))
    assert modes.number == 0
    parts = first_shares(
        jax.tree.map(lambda leaf: np.asarray(leaf)[None], modes), np.zeros(1), 0.02
    )
    assert np.isneginf(parts[0, 2:]).all()
