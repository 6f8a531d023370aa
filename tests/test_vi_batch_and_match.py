"""Batch and match against the equations of its papers, in NumPy, and on Gaussian densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import vi
from lvm_jax.distributions import FullRankNormal
from lvm_jax.guides.families import LowRank
from lvm_jax.vi import natural, patch
from lvm_jax.vi.batch_and_match import full_rank_step, match
from lvm_jax.vi.density import check_density
from lvm_jax.vi.natural import Gaussian

DIM, RATE = 4, jnp.float32(0.6)
RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(DIM, DIM - 1))
COVARIANCE = np.eye(DIM) + FACTOR @ FACTOR.T  # of q_t
ROOT = np.linalg.cholesky(COVARIANCE)


def batch(size, rng=RNG):
    """Some draws around 0, and scores of no special density."""
    z = rng.normal(size=(size, DIM)) @ ROOT.T
    return z, np.tanh(rng.normal(size=(size, DIM)) - z)


def equations(z, scores, weight):
    """V and U of Cai et al. (2024), equations 8 and 9, for a current mean of 0."""
    mean_z, mean_g = z.mean(0), scores.mean(0)
    fraction = weight / (1 + weight)
    v = COVARIANCE + weight * np.cov(z.T, bias=True) + fraction * np.outer(mean_z, mean_z)
    u = weight * np.cov(scores.T, bias=True) + fraction * np.outer(mean_g, mean_g)
    return v, u, lambda s: fraction * (s @ mean_g + mean_z)


@pytest.mark.parametrize("size", [3, 12])
def test_the_updates_solve_the_papers_equations(size):
    """Sigma U Sigma + Sigma = V, by both forms: of full rank, and of low rank before the patch."""
    z, scores = batch(size)
    v, u, mean_of = equations(z, scores, weight=1.5)
    white = np.linalg.solve(ROOT, z.T).T
    matched = match(jnp.asarray(white), jnp.asarray(scores @ ROOT), RATE)
    factor = np.linalg.inv(np.asarray(matched.factor).T)
    full = ROOT @ factor @ factor.T @ ROOT.T
    thin = patch.match(jnp.asarray(FACTOR), jnp.asarray(z), jnp.asarray(scores), RATE)
    low = np.asarray(thin.times(jnp.eye(DIM)))
    for sigma, mean in ((full, ROOT @ matched.mean), (low, thin.mean)):
        np.testing.assert_allclose(sigma @ u @ sigma + sigma, v, rtol=1e-4, atol=1e-4 * v.max())
        np.testing.assert_allclose(mean, mean_of(sigma), atol=1e-4)


def test_a_patch_of_rank_d_minus_1_is_the_full_update():
    z, scores = batch(7)
    matched = patch.match(jnp.asarray(FACTOR), jnp.asarray(z), jnp.asarray(scores), RATE)
    factor, variances = patch.patch(matched, jnp.asarray(FACTOR), 500)
    found = np.asarray(factor @ factor.T) + np.diag(variances)
    np.testing.assert_allclose(found, matched.times(jnp.eye(DIM)), atol=2e-3)


def gaussian(dim, rank, rng=RNG):
    """log N(z; m, diag(s^2) + F F^T) with its parameters."""
    scale = np.exp(rng.normal(size=dim) / 2)
    factor = scale[:, None] * rng.normal(size=(dim, rank))
    mean, covariance = rng.normal(size=dim), np.diag(scale**2) + factor @ factor.T
    root = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    q = FullRankNormal(jnp.asarray(mean, jnp.float32), root)
    return q.log_prob, mean, covariance


def test_one_step_of_infinite_weight_finds_a_gaussian():
    """Where the draws span R^D: D + 1 of them, and a rate of 1."""
    log_density, mean, covariance = gaussian(3, 1)
    start = Gaussian(jnp.zeros(3), 2 * jnp.eye(3))
    state = full_rank_step(12, log_density, jax.random.key(0), start, jnp.float32(1)).state
    np.testing.assert_allclose(state.mean, mean, atol=2e-3)
    precision = natural.average_of(state).precision
    np.testing.assert_allclose(np.linalg.inv(precision), covariance, rtol=2e-3, atol=2e-3)


def test_the_distance_is_the_symmetrised_kl_of_the_dense_normals():
    def dense(q):
        return np.asarray(q.factor @ q.factor.T + jnp.diag(jnp.exp(2 * q.log_scale)))

    one, two = (
        LowRank(*(jnp.asarray(RNG.normal(size=shape) / 2) for shape in ((DIM,), (DIM, 2), (DIM,))))
        for _ in range(2)
    )
    first, second = dense(one), dense(two)
    away = np.asarray(one.loc - two.loc)
    traces = np.trace(np.linalg.solve(first, second) + np.linalg.solve(second, first))
    shift = away @ (np.linalg.inv(first) + np.linalg.inv(second)) @ away
    assert patch.distance(one, two) == pytest.approx((traces - 2 * DIM + shift) / 4, rel=1e-4)


@pytest.mark.parametrize("family", ["full_rank", "low_rank"])
def test_a_fit_finds_a_gaussian(family):
    """q is exact, so that each log-weight is log Z = 0; rank 2 holds the covariance."""
    log_density, _, _ = gaussian(12, 2, np.random.default_rng(1))
    density, _ = check_density(log_density, jnp.zeros(12))
    method = vi.batch_and_match(rank=2 if family == "low_rank" else None)
    found = method.run(jax.random.key(0), vi.Task(density, family, 0.01, 20_000))
    assert found.reason is vi.Reason.CONVERGED
    z, log_q = found.flat.sample_and_log_prob(seed=jax.random.key(1), sample_shape=(500,))
    log_w = jax.vmap(log_density)(z) - log_q
    assert abs(log_w.mean()) < 0.01 + 5 * log_w.std() / 500**0.5
    assert log_w.std() < 0.2


REFUSED = {
    "draws": ({"num_samples": 1}, "num_samples: expected an integer >= 2"),
    "rank": ({"rank": 0}, "rank: expected an integer >= 1"),
    "rate": ({"first_rate": 1.0}, "first_rate: expected a rate between 0 and 1, got 1.0"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_arguments_are_refused_by_name(wrong):
    change, words = REFUSED[wrong]
    with pytest.raises(ValueError, match=words):
        vi.batch_and_match(**change)


def test_a_rank_must_fit_the_family():
    density, _ = check_density(lambda z: -(z**2).sum(), jnp.zeros(3))
    for family, rank, words in (("full_rank", 2, "none for"), ("low_rank", 3, "fewer than the 3")):
        with pytest.raises(ValueError, match=f"rank: expected {words}"):
            vi.batch_and_match(rank=rank).run(
                jax.random.key(0), vi.Task(density, family, 0.01, 100)
            )
