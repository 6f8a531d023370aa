"""The defensive mixture: its density, its draws, and the weights that it bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions, evidence, guides
from lvm_jax.guides import Guide
from lvm_jax.models import Model

MODEL = Model(
    init=lambda key: jnp.zeros(2),
    prior=lambda theta: distributions.normal(theta, jnp.ones(2)),
    likelihood=lambda theta, z: distributions.normal(z, jnp.ones(2)),
)
NARROW = Guide(
    lambda key: jnp.float32(0.2), lambda phi, x: distributions.normal(0.5 * x, jnp.full(2, phi))
)
X = np.array([[1.0, -0.5], [0.2, 2.0]], np.float32)


def test_density_and_draws():
    q = guides.defensive(MODEL(jnp.array([3.0, 3.0])), NARROW(0.2), 0.25)(X[0])
    z = jnp.array([0.6, 0.1])
    parts = [
        np.prod(np.exp(-0.5 * ((z - m) / s) ** 2) / (s * np.sqrt(2 * np.pi)))
        for m, s in ((0.5 * X[0], 0.2), (3.0, 1.0))
    ]
    np.testing.assert_allclose(q.log_prob(z), np.log(0.75 * parts[0] + 0.25 * parts[1]), rtol=1e-5)
    draws = quick_jit(lambda key: q.sample(seed=key, sample_shape=(4_000,)))(jax.random.key(0))
    from_prior = (np.asarray(draws).sum(1) > 2.5).mean()  # 2.5 errors of the prior's sum, 8 of q's
    exact = 0.25 * 0.99335  # Phi(3.5 / sqrt(2))
    assert abs(from_prior - exact) < 5 * (exact * (1 - exact) / 4_000) ** 0.5
    assert not distributions.is_reparameterized(q)


def test_weights_of_a_narrow_q_become_trustworthy():
    # Two normals of 0.2 where the posterior has 0.71: the variance of q's own weights is infinite.
    p, q = MODEL(jnp.zeros(2)), NARROW(0.2)
    alone = evidence.evaluate(jax.random.key(1), p, q, X, 4_000)
    mixed = evidence.evaluate(jax.random.key(1), p, guides.defensive(p, q), X, 4_000)
    truth = -(X**2).sum(1) / 4 - np.log(4 * np.pi)
    assert (np.asarray(alone.k_hat) > 0.5).all()
    assert (np.asarray(mixed.k_hat) < 0.5).all()
    off = (np.asarray(mixed.log_evidence) - truth) / np.asarray(mixed.standard_error)
    assert (np.abs(off) < 5).all()
    assert (np.asarray(mixed.standard_error) < 0.06).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_refusals(share):
    with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\)"):
        guides.defensive(MODEL(jnp.zeros(2)), NARROW(0.2), share)
