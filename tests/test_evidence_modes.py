"""The search for modes: which it keeps, what share each gets, and what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions
from lvm_jax.evidence import modes
from lvm_jax.evidence.modes import MOST, SHARE, cover, search

MEANS = jnp.array([[-6.0, 1.0], [5.0, 4.0], [3.0, -7.0]])
SCALES = jnp.array([[0.5, 1.0], [0.3, 0.4], [1.0, 0.2]])
WEIGHTS = jnp.array([0.6, 0.3, 0.1])


def mixture(z):
    """The log of three normals far apart, of total mass exp(-4)."""
    each = jax.scipy.stats.norm.logpdf(z[None], MEANS, SCALES).sum(1)
    return jax.nn.logsumexp(jnp.log(WEIGHTS) + each) - 4.0


WIDE = distributions.normal(jnp.zeros(2), jnp.full(2, 5.0))


def places(count=41):
    return WIDE.sample(seed=jax.random.key(0), sample_shape=(count,))


@pytest.fixture(scope="module")
def searched():
    return quick_jit(lambda z: search(mixture, WIDE, z))(places())


def used(found):
    return np.asarray(found.shares) > 0


def test_each_mode_is_kept_once_with_half_a_share_by_mass(searched):
    found, _ = searched
    kept = used(found)
    assert kept.sum() == 3
    modes_, shares = np.asarray(found.normals.mode)[kept], np.asarray(found.shares)[kept]
    order = [int(np.abs(modes_ - mean).sum(1).argmin()) for mean in np.asarray(MEANS)]
    np.testing.assert_allclose(modes_[order], MEANS, atol=0.02)
    np.testing.assert_allclose(shares[order], SHARE / 2 * (np.asarray(WEIGHTS) + 1 / 3), rtol=0.01)
    # The normals are Laplace's, widened.
    cholesky = np.linalg.inv(np.asarray(found.normals.factor)[kept][order])
    deviations = np.sqrt(np.einsum("kij,kij->kj", cholesky, cholesky))
    np.testing.assert_allclose(deviations, modes.WIDEN * np.asarray(SCALES), rtol=0.01)


def test_a_narrow_mode_on_the_shoulder_of_a_wide_one_is_another():
    # 0.9 standard deviations of the wide one apart, 90 of the narrow one.
    def joint(z):
        wide = jax.scipy.stats.norm.logpdf(z, 0.0, 1.0).sum()
        narrow = jax.scipy.stats.norm.logpdf(z, 0.9, 0.01).sum()
        return jnp.logaddexp(wide, narrow)

    q = distributions.normal(jnp.zeros(1), jnp.ones(1))
    z = jnp.array([[-1.5], [-0.4], [0.895], [0.3], [2.0]])
    found, _ = quick_jit(lambda z: search(joint, q, z))(z)
    kept = np.sort(np.asarray(found.normals.mode)[used(found), 0])
    np.testing.assert_allclose(kept, [0.0, 0.9], atol=0.01)


def test_the_cover_is_a_density_of_the_shares_given(searched):
    found, reach = searched
    q = cover(WIDE, found)
    z = quick_jit(lambda key: q.sample(seed=key, sample_shape=(4_000,)))(jax.random.key(1))
    log_q = quick_jit(jax.vmap(q.log_prob))
    means, scales = np.asarray(MEANS), modes.WIDEN * np.asarray(SCALES)
    near = np.abs((np.asarray(z)[:, None] - means) / scales).max(2) < 2
    inside = 0.9545**2  # of a widened normal; WIDE adds the mass that it has there
    boxes = np.prod(4 * scales, 1)
    wide = 0.7 * np.exp(np.asarray(quick_jit(jax.vmap(WIDE.log_prob))(MEANS))) * boxes
    shares = SHARE / 2 * (np.asarray(WEIGHTS) + 1 / 3)
    expected = shares * inside + wide
    error = np.sqrt(expected * (1 - expected) / 4_000)
    assert (np.abs(near.mean(0) - expected) < 4 * error + 0.1 * wide).all()
    # E_q[p / q] is the mass of p, to the error of so many draws.
    w = np.exp(np.asarray(quick_jit(jax.vmap(mixture))(z)) + 4.0 - np.asarray(log_q(z)))
    assert abs(w.mean() - 1) < 4 * w.std() / 4_000**0.5 < 0.11
    # What remains at the places: nothing as large as a place that no normal covers.
    log_w = quick_jit(jax.vmap(lambda z: mixture(z) - WIDE.log_prob(z)))(places())
    uncovered = np.asarray(log_w).max()
    assert reach < uncovered - 1


def test_what_is_no_mode_gets_no_share_and_its_height_remains():
    # A ridge: log p rises to a plateau, and the curvature along it is 0.
    def ridge(z):
        return -jnp.maximum(4.0 - z[0], 0.0) - 0.5 * z[1] ** 2

    found, reach = quick_jit(lambda z: search(ridge, WIDE, z))(places(7) - 8.0)
    assert not used(found).any()
    assert found.shares.shape == (MOST,)
    at_the_end = 0.0 - WIDE.log_prob(jnp.array([4.0, 0.0]))  # higher than at any place
    assert reach > at_the_end - 0.1
    np.testing.assert_array_equal(
        cover(WIDE, found).log_prob(jnp.ones(2)), WIDE.log_prob(jnp.ones(2))
    )


def test_places_without_a_density_start_no_climb():
    def half(z):
        return jnp.where(z[0] > 0, -0.5 * (z**2).sum(), -jnp.inf) + 2 * jnp.log(
            jnp.maximum(z[0], 0.0)
        )

    z = jnp.array([[-1.0, 2.0], [0.7, 0.3], [-2.0, 0.1], [2.0, 1.0]])
    found, reach = quick_jit(lambda z: search(half, WIDE, z))(z)
    kept = np.asarray(found.normals.mode)[used(found)]
    np.testing.assert_allclose(kept, [[2**0.5, 0.0]], atol=0.01)  # z exp(-z^2 / 2): at sqrt(2)
    assert np.isfinite(reach)
