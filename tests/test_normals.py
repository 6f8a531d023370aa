"""Densities of own draws, also where log_prob loses the noise in z to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import bounds, gradients, guides, models, weights
from lvm_jax.distributions import FullRankNormal, LowRankNormal
from lvm_jax.distributions.normals import LogCholesky
from lvm_jax.guides.families import FullRank, LowRank

KEY = jax.random.key(0)
LOC = np.array([0.5, -1.0, 2.0])
LOWER = np.array([[1.0, 0, 0], [-0.7, 0.5, 0], [0.3, 0.9, 1.5]])
FACTOR = np.array([[1.2, 0.3], [-0.4, 1.0], [0.9, -0.7]])
SCALE = np.array([0.4, 1.3, 0.8])
NORMALS = {"full": (FullRankNormal, LOC, LOWER), "low": (LowRankNormal, LOC, FACTOR, SCALE)}

# Almost singular: noise of 1 moves z_1 by 1e-20 and z_2 by 50, and is looked for in z_1.
SINGULAR = {
    "full": (guides.full_rank(2), FullRank(jnp.array([3.0, -5.0]), LogCholesky(
        jnp.array([-46.0, -14.0]), jnp.array([50.0])))),
    "low": (guides.low_rank(2, 1), LowRank(jnp.array([3.0, -5.0]), jnp.array([[2.0], [50.0]]),
        jnp.array([-40.0, -40.0]))),
}  # fmt: skip
ESTIMATES = {
    "reparameterized": gradients.reparameterized(),
    "iwae": gradients.reparameterized(bounds.iwae),
    "sticking_the_landing": gradients.sticking_the_landing(),
    "doubly_reparameterized": gradients.doubly_reparameterized(),
}


@pytest.mark.parametrize("name", NORMALS)
@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_a_draw_is_priced_as_log_prob_does(name, shape, x64):
    build, *parameters = NORMALS[name]
    q = build(*(jnp.asarray(value) for value in parameters))

    @quick_jit
    def run(key):
        z, log_q = q.sample_and_log_prob(seed=key, sample_shape=shape)
        want = jax.vmap(q.log_prob)(z.reshape(-1, 3)).reshape(shape)
        return z, log_q, want, q.sample(seed=key, sample_shape=shape)

    z, log_q, want, alone = run(KEY)
    assert (z.shape, log_q.shape) == ((*shape, 3), shape)
    np.testing.assert_array_equal(z, alone)
    np.testing.assert_allclose(log_q, want, rtol=1e-12)


@pytest.mark.parametrize("name", NORMALS)
def test_both_prices_have_the_same_gradient(name, x64):
    """That of log q at the draw, through the draw and directly."""
    build, *parameters = NORMALS[name]

    def own(parameters):
        return build(*parameters).sample_and_log_prob(seed=KEY, sample_shape=(5,))[1].sum()

    def by_log_prob(parameters):
        q = build(*parameters)
        return jax.vmap(q.log_prob)(q.sample(seed=KEY, sample_shape=(5,))).sum()

    at = tuple(jnp.asarray(value) for value in parameters)
    left, right = (quick_jit(jax.grad(function))(at) for function in (own, by_log_prob))
    for one, other in zip(left, right, strict=True):
        lower = jnp.tril(jnp.ones(one.shape)) if name == "full" and one.ndim > 1 else 1.0
        np.testing.assert_allclose(one * lower, other * lower, atol=1e-10)


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_no_bound_of_a_q_that_is_all_but_singular_exceeds_log_p(name, estimate):
    """log q(z) of the rounded draws is below -1e10, and a bound by it would be above 1e10."""
    family, eta = SINGULAR[name]
    model = models.linear_gaussian(2, 3)
    theta, x = model.init(KEY), jnp.array([0.5, -1.0, 2.0])
    joint, q = model(theta).log_joint(x), family.build(eta)
    z = weights.draw(KEY, q, 20)
    assert jax.vmap(q.log_prob)(z).mean() < -1e10
    bound = ESTIMATES[estimate](KEY, joint, family.build, eta, 20)
    assert np.isfinite(bound)
    assert bound < model.log_evidence(theta, x)
