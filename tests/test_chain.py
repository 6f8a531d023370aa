"""Chains of Gaussians: priors of several layers and hierarchical guides, as distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_cases import GUIDES, POINTS, bent_guides, bent_model, drawn
from model_cases import grid, quick_jit
from scipy.stats import norm

from lvm_jax import distributions, likelihoods, models, networks, priors
from lvm_jax.distributions import chain


def bent_chains():
    """The prior and the guides' q of bent networks, one dimension a layer."""
    model, theta = bent_model()
    x = jnp.asarray(POINTS[0])
    found = {name: guide.posterior(phi, x) for name, (guide, phi) in bent_guides().items()}
    return {"prior": model.prior(theta), **found}


@pytest.mark.parametrize("name", ["prior", *GUIDES])
def test_a_chain_has_mass_one_and_draws_with_its_density(x64, name):
    q, points = bent_chains()[name], grid(14.0, 0.1, 2)

    @quick_jit
    def compute(q):
        log_q = jax.vmap(q.log_prob)((points[:, :1], points[:, 1:]))
        draws = q.sample(seed=jax.random.key(1), sample_shape=(20_000,))
        return log_q, jax.vmap(q.log_prob)(draws), draws

    log_q, drawn, draws = jax.tree.map(np.asarray, compute(q))
    p = np.exp(log_q) * 0.1**2
    np.testing.assert_allclose(p.sum(), 1.0, atol=1e-8)
    for values, expected in (
        (drawn, p @ log_q),
        (draws[0][:, 0] * draws[1][:, 0], p @ points.prod(1)),
        (draws[0][:, 0] ** 2 * draws[1][:, 0], p @ (points[:, 0] ** 2 * points[:, 1])),
    ):
        error = values.std() / np.sqrt(values.size)
        assert abs(values.mean() - expected) < 5 * error


@pytest.mark.parametrize("name", ["prior", *GUIDES])
def test_a_chain_is_a_pytree_of_arrays(name):
    q, z = bent_chains()[name], (jnp.array([0.3]), jnp.array([-0.8]))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(q))
    want = q.log_prob(z)
    # Into a compiled function and out of it through stop_gradient, and stacked for a map.
    stopped = quick_jit(jax.lax.stop_gradient)(q)
    np.testing.assert_allclose(quick_jit(lambda q: q.log_prob(z))(stopped), want, rtol=1e-5)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 0.1]), q)
    both = quick_jit(jax.vmap(lambda q: q.log_prob(z)))(stacked)
    np.testing.assert_allclose(both[0], want, rtol=1e-5)
    assert abs(both[1] - want) > 0.01


def test_a_chain_is_as_reparameterised_as_its_first():
    """The prior of several layers whose top is a mixture: a draw of its label has no slope."""
    model, theta = bent_model()
    assert distributions.is_reparameterized(model.prior(theta))
    layers = [models.Layer(networks.mlp(2, (), 2), 1)]
    likelihood = likelihoods.bernoulli(3)
    mixed = models.deep_latent_gaussian(
        priors.mixture(2, 3), networks.mlp(1, (), 3), likelihood, layers
    )
    theta = drawn(mixed, 0)
    prior = mixed.prior(theta)
    assert not distributions.is_reparameterized(prior)
    z = (jnp.array([0.3]), jnp.array([-0.8, 0.4]))
    loc, scale = layers[0].gaussian(theta.layers[0], z[1])
    want = prior.first.log_prob(z[1]) + norm(loc, scale).logpdf(z[0]).sum()
    np.testing.assert_allclose(prior.log_prob(z), want, rtol=1e-5)


def test_a_scale_is_exp_of_a_small_number_and_never_out_of_bounds():
    u = jnp.array([0.0, 0.1, -0.1, -3.0, 1e4, -1e4], jnp.float32)
    want = [1.0, 1.105164, 0.904843, np.exp(-8 * np.tanh(3 / 8)), np.exp(8), np.exp(-8)]
    np.testing.assert_allclose(chain.positive_scale(u), want, rtol=1e-5)


@pytest.mark.parametrize("name", GUIDES)
def test_single_precision_holds_at_the_bounds_of_the_scales(name):
    # Means and scales as far out as networks of weight 50 drive them.
    def log_q(x64):
        with jax.enable_x64(x64):
            guide, phi = bent_guides()[name]
            phi = jax.tree.map(lambda leaf: 50 * leaf, phi)
            x, z = jnp.asarray(POINTS[0]), (jnp.array([0.7]), jnp.array([-0.4]))
            value, slopes = quick_jit(
                jax.value_and_grad(lambda phi: guide.posterior(phi, x).log_prob(z))
            )(phi)
            return value, np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slopes)])

    (found, slopes), (want, exact) = log_q(False), log_q(True)
    np.testing.assert_allclose(found, want, rtol=1e-3)
    np.testing.assert_allclose(slopes, exact, atol=1e-3 * np.abs(exact).max())


def test_a_scalar_scale_is_that_of_every_dimension():
    """As many draws as dimensions: a scale [S] must not be taken for one of the dimensions."""
    scale = lambda z: 0.1 + jnp.abs(z[0])  # noqa: E731
    first = distributions.normal(jnp.zeros(3), jnp.ones(3))
    scalar, full = (
        chain.Chain(first, ((),), (lambda params, z, n=n: (z, scale(z) * n),), False)
        for n in (1.0, jnp.ones(3))
    )
    drawn, want = (q.sample(seed=jax.random.key(0), sample_shape=(3,)) for q in (scalar, full))
    np.testing.assert_array_equal(drawn[1], want[1])
    one = jax.tree.map(lambda leaf: leaf[0], want)
    np.testing.assert_allclose(scalar.log_prob(one), full.log_prob(one), rtol=1e-6)
    assert scalar.sample(seed=jax.random.key(0), sample_shape=(2,))[1].shape == (2, 3)
