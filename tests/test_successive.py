"""A latent of two kinds: its density and draws, and estimators that enumerate the finite part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from model_cases import quick_jit

from lvm_jax import distributions, evidence, gradients, guides, models
from lvm_jax.distributions import normal
from lvm_jax.distributions.successive import Successive

X = jnp.array([0.7, -0.4])
THETA = {
    "logits": jnp.array([0.3, -0.5, 0.9]),
    "shift": jnp.array([[0.0, 1.0], [2.0, -0.3], [-1.1, 0.4]]),
}
PHI = {
    "logits": jnp.array([0.6, -0.2, 0.1]),
    "loc": jnp.array([[0.5, -0.8], [-0.6, 0.2], [1.0, -0.5]]),
    "log_scale": jnp.array([[-0.6, -0.4], [-0.3, -0.8], [-0.7, -0.5]]),
}
NOISE = 0.5


def categorical(logits):
    return distributions.Categorical(logits=logits)


MODEL = models.Model(
    lambda key: THETA,
    lambda theta: Successive(
        categorical(theta["logits"]), lambda y: normal(jnp.zeros(2), jnp.ones(2))
    ),
    lambda theta, z: normal(z["z"] + theta["shift"][z["y"]], jnp.full(2, NOISE)),
)


def q_of(phi, x=X):
    def second(y):
        return normal(phi["loc"][y], jnp.exp(phi["log_scale"][y]))

    return Successive(categorical(phi["logits"]), second)


def log_evidence(theta):
    each = -0.5 * ((X[None] - theta["shift"]) ** 2).sum(1) / (1 + NOISE**2)
    each -= jnp.log(2 * jnp.pi * (1 + NOISE**2))
    return jax.nn.logsumexp(jax.nn.log_softmax(theta["logits"]) + each)


def elbo(theta, phi):
    """In closed form."""
    log_q, var = jax.nn.log_softmax(phi["logits"]), jnp.exp(2 * phi["log_scale"])
    kl = 0.5 * (var + phi["loc"] ** 2 - 1 - jnp.log(var)).sum(1)
    away = (X[None] - theta["shift"] - phi["loc"]) ** 2 + var
    fit = -0.5 * (away / NOISE**2).sum(1) - jnp.log(2 * jnp.pi * NOISE**2)
    value = jax.nn.log_softmax(theta["logits"]) + fit - kl - log_q
    return (jnp.exp(log_q) * value).sum()


@pytest.mark.parametrize("inner", ["reparameterized", "sticking_the_landing", "score_function"])
def test_enumerating_the_finite_part_is_unbiased(inner):
    """4,000 keys: the mean of both gradients, coordinate by coordinate, within 5 errors."""
    estimate = gradients.enumerated(inner)

    def draw(key):
        def value(theta, phi):
            return estimate(key, MODEL(theta).log_joint(X), q_of, phi, 2)

        found, slopes = jax.value_and_grad(value, (0, 1))(THETA, PHI)
        return found, *(ravel_pytree(slope)[0] for slope in slopes)

    keys = jax.random.split(jax.random.key(2), 4_000)
    draws = quick_jit(lambda keys: jax.lax.map(draw, keys, batch_size=500))(keys)
    value, slopes = jax.value_and_grad(elbo, (0, 1))(THETA, PHI)
    want = (value, *(ravel_pytree(slope)[0] for slope in slopes))
    for found, exact in zip(draws, want, strict=True):
        found = np.asarray(found, float)
        error = found.std(0, ddof=1) / np.sqrt(len(found)) + 1e-6
        assert (np.abs(found.mean(0) - exact) < 5 * error).all()
        assert error.max() < 0.08 * np.abs(exact).max()


def test_the_landing_is_without_noise_at_the_posterior():
    shrunk = (X[None] - THETA["shift"]) / (1 + NOISE**2)
    each = -0.5 * ((X[None] - THETA["shift"]) ** 2).sum(1) / (1 + NOISE**2)
    scale = jnp.full((3, 2), 0.5 * np.log(NOISE**2 / (1 + NOISE**2)))
    exact = {"logits": THETA["logits"] + each, "loc": shrunk, "log_scale": scale}
    estimate = gradients.enumerated("sticking_the_landing")

    def value(phi):
        return estimate(jax.random.key(0), MODEL(THETA).log_joint(X), q_of, phi, 1)

    found, slope = jax.value_and_grad(value)(exact)
    assert found == pytest.approx(float(log_evidence(THETA)), abs=1e-5)
    assert np.abs(ravel_pytree(slope)[0]).max() < 1e-5


def test_evidence_of_a_latent_of_two_kinds():
    q = guides.Guide(lambda key: PHI, q_of)(PHI)
    found = evidence.evaluate(jax.random.key(1), MODEL(THETA), q, X[None], 20_000)
    away = found.log_evidence[0] - log_evidence(THETA)
    assert abs(away) < 5 * found.standard_error[0]
    assert found.standard_error[0] < 0.03


def test_density_and_draws_are_those_of_the_parts():
    q = q_of(PHI)
    z = jnp.array([0.2, -0.7])
    want = jax.nn.log_softmax(PHI["logits"])[1] + q.second(1).log_prob(z)
    assert q.log_prob({"y": jnp.int32(1), "z": z}) == pytest.approx(float(want), rel=1e-6)
    drawn = quick_jit(lambda key: q.sample(seed=key, sample_shape=(4_000,)))(jax.random.key(3))
    y = np.asarray(drawn["y"])
    mass = np.asarray(jax.nn.softmax(PHI["logits"]))
    share = np.bincount(y, minlength=3) / 4_000
    assert (np.abs(share - mass) < 5 * np.sqrt(mass * (1 - mass) / 4_000)).all()
    for value in range(3):
        rows = np.asarray(drawn["z"])[y == value]
        sd = np.exp(np.asarray(PHI["log_scale"])[value])
        away = np.abs(rows.mean(0) - np.asarray(PHI["loc"])[value])
        assert (away < 5 * sd / np.sqrt(len(rows))).all()
    assert q.sample(seed=jax.random.key(0), sample_shape=(2, 3))["z"].shape == (2, 3, 2)
    assert not distributions.is_reparameterized(q)
    assert not distributions.is_discrete(q)
    both = Successive(normal(jnp.zeros(1), jnp.ones(1)), lambda y: normal(y, jnp.ones(1)))
    assert distributions.is_reparameterized(both)


def test_refusals():
    q = Successive(normal(jnp.zeros(1), jnp.ones(1)), lambda y: normal(y, jnp.ones(1)))
    with pytest.raises(TypeError, match="q: expected a Successive whose first part is finite"):
        gradients.enumerated()(jax.random.key(0), lambda z: 0.0, lambda phi: q, (), 3)
    with pytest.raises(ValueError, match="inner: expected one of .* did you mean 'vimco'"):
        gradients.enumerated("vimc")(jax.random.key(0), MODEL(THETA).log_joint(X), q_of, PHI, 3)
