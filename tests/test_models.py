import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CASES, expectation, grid, quick_jit
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from lvm_jax import em, models
from lvm_jax.weights import log_weights

each_case = pytest.mark.parametrize("name", CASES)
both_precisions = pytest.mark.parametrize("x64", [False, True])
# In float32 one of each kind: the others take the same formulas.
in_precisions = pytest.mark.parametrize(
    ("name", "x64"),
    [(name, True) for name in CASES]
    + [(name, False) for name in ("full", "chain", "mixture", "bits")],
)
TOLERANCE = {False: 1e-5, True: 1e-10}  # relative to log p, or to 1


def assert_close(got, want, x64):
    tolerance = TOLERANCE[x64]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


class Facts(NamedTuple):
    joints: Any  # [2, M]
    references: Any  # [2, M]
    log_posteriors: Any  # [2, M]
    evidence: Any  # [2], mapped over the two points
    evidence_apart: Any  # [2], one point at a time
    log_weights: Any  # [2, S] at the posterior
    gradients: Any  # of log p in theta, and of the energy at the posterior; in float64 alone


@functools.cache
def facts(name, x64):
    """All numbers of a case, in one compilation."""
    with jax.enable_x64(x64):
        model, theta, x, z, _, reference = CASES[name]()
        found = quick_jit(compute, static_argnums=(0, 1))(model, reference, theta, x, z)
        return jax.tree.map(np.asarray, found)


def compute(model, reference, theta, x, z):
    def energy(theta, q, x):
        return expectation(q, model(theta).log_joint(x))

    def gradients(theta, q, x):
        return jax.grad(model.log_evidence)(theta, x), jax.grad(energy)(theta, q, x)

    def one(x):
        joint, q = model(theta).log_joint(x), model.posterior(theta, x)
        return (
            jax.vmap(joint)(z),
            jax.vmap(reference(x))(z),
            jax.vmap(q.log_prob)(z),
            model.log_evidence(theta, x),
            log_weights(jax.random.key(3), joint, q, 50),
            gradients(theta, q, x) if x.dtype == jnp.float64 else (),
        )

    joints, references, log_posteriors, evidence, log_w, slopes = jax.vmap(one)(x)
    apart = jax.lax.map(partial(model.log_evidence, theta), x)
    return Facts(joints, references, log_posteriors, evidence, apart, log_w, slopes)


@in_precisions
def test_evidence_and_posterior_follow_from_the_joint(name, x64):
    found = facts(name, x64)
    assert found.evidence.dtype == (np.float64 if x64 else np.float32)
    assert_close(found.joints, found.references, x64)
    # The grid, or the enumeration, is the integral to rounding.
    integral = logsumexp(found.joints, axis=1) + np.log(CASES[name]().cell)
    assert_close(found.evidence, integral, x64)
    assert_close(found.log_posteriors, found.joints - found.evidence[:, None], x64)
    assert_close(found.evidence, found.evidence_apart, x64)
    assert np.ptp(found.evidence) > 1  # so a swap of the points would show


@in_precisions
def test_every_log_weight_is_log_p_at_the_posterior(name, x64):
    found = facts(name, x64)
    assert_close(found.log_weights, np.tile(found.evidence, (50, 1)).T, x64)


@each_case
def test_gradient_of_the_evidence_is_that_of_the_elbo_at_the_posterior(name):
    # Fisher's identity: grad log p(x) = E_posterior[grad log p(x, z)]; the joint of the
    # linear-Gaussian model is quadratic in z, so cubature is exact.
    for got, want in zip(*map(jax.tree.leaves, facts(name, True).gradients), strict=True):
        assert_close(got, want, True)
        assert np.abs(want).max() > 0.01


@each_case
def test_samples_have_the_density_of_the_evidence(name):
    model, theta, x, *_ = CASES[name]()
    points = np.asarray(grid(14.0, 0.5, x.shape[1]))
    density = quick_jit(jax.vmap(model.log_evidence, (None, 0)))(theta, points)
    p = np.exp(np.asarray(density, np.float64)) * 0.5 ** x.shape[1]
    np.testing.assert_allclose(p.sum(), 1.0, atol=1e-5)
    mean = p @ points
    covariance = ((points - mean) * p[:, None]).T @ (points - mean)

    draw = quick_jit(jax.vmap(lambda key: model(theta).sample(key).x))
    draws = np.asarray(draw(jax.random.split(jax.random.key(1), 20_000)))
    error = np.sqrt(np.diag(covariance) / len(draws))
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    error = products.std(0) / np.sqrt(len(draws))
    assert (np.abs(products.mean(0) - covariance) < 5 * error).all()


@each_case
def test_init_gives_a_theta_of_the_same_shapes(name):
    model, theta, *_ = CASES[name]()
    start = model.init(jax.random.key(0))
    assert jax.tree.structure(start) == jax.tree.structure(theta)
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, theta)


def test_a_point_of_another_shape_is_refused():
    model = models.linear_gaussian(2, 3)
    theta = model.init(jax.random.key(0))
    for shape in ((1,), (2,), (5, 3), ()):  # (1,) and () would broadcast in silence
        with pytest.raises(ValueError, match=r"one data point of shape \(3,\)"):
            model(theta).log_joint(jnp.ones(shape))


@both_precisions
def test_a_fitted_mixture_is_a_model(x64):
    weights, means = np.array([0.2, 0.5, 0.3]), np.array([[0.0, 1.0], [3.0, -2.0], [-4.0, 0.5]])
    covariances = np.array([[[1, 0.6], [0.6, 2]], [[0.5, -0.2], [-0.2, 0.3]], [[2, 0], [0, 0.1]]])
    x = np.array([[0.3, 0.7], [2.5, -1.5], [-3.0, 0.4], [10.0, 10.0]])
    with jax.enable_x64(x64):
        dtype, rtol = (np.float64, 1e-12) if x64 else (np.float32, 2e-5)
        mixture = em.gaussian_mixture(*(a.astype(dtype) for a in (weights, means, covariances)))
        model, theta = models.gaussian_mixture(3, 2), mixture.as_theta()
        density = np.array(
            [multivariate_normal(m, s).pdf(x) for m, s in zip(means, covariances, strict=True)]
        ).T
        joint, rows = density * weights, jnp.asarray(x, dtype)

        def answers(theta, rows):
            probs = jax.vmap(lambda row: model.posterior(theta, row).probs)(rows)
            return jax.vmap(model.log_evidence, (None, 0))(theta, rows), probs

        evidence, probs = jax.jit(answers)(theta, rows)
        np.testing.assert_allclose(evidence, np.log(joint.sum(1)), rtol=rtol)
        np.testing.assert_allclose(mixture.log_prob(rows), evidence, rtol=rtol)
        np.testing.assert_allclose(
            probs, joint / joint.sum(1, keepdims=True), rtol=20 * rtol, atol=np.finfo(dtype).tiny
        )


def test_simulated_pairs_have_the_joint_moments_of_a_linear_gaussian_model():
    model = models.linear_gaussian(2, 3)
    theta = model.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), 20_000)
    z, x = quick_jit(jax.vmap(lambda key: tuple(model(theta).sample(key))))(keys)
    w, noise = np.asarray(theta.loadings), np.exp(2 * np.asarray(theta.log_noise))
    want = np.block([[np.eye(2), w.T], [w, w @ w.T + noise * np.eye(3)]])
    pairs = np.concatenate([z, x], axis=1)
    np.testing.assert_allclose(pairs.mean(0), [0, 0, *theta.offset], atol=0.06)
    sd = np.sqrt(np.outer(np.diag(want), np.diag(want)) + want**2) / 20_000**0.5
    assert (np.abs(np.cov(pairs.T) - want) < 5 * sd).all()
