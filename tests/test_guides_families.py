import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from guide_cases import FAMILIES, FLOWS, GAUSSIAN, NUM_OUTPUTS, X_DIM, each_family, random_phi
from model_cases import quick_jit

from lvm_jax import distributions, guides
from lvm_jax.distributions.normals import LogCholesky
from lvm_jax.guides import Family, Guide

STEP = 1e-2


@each_family
def test_every_family_starts_at_the_standard_member(name):
    family = FAMILIES[name]
    eta = family.init(jax.random.key(0))
    q = family.build(eta)
    if name in FLOWS:
        z = jnp.array([0.3, -0.8])
        np.testing.assert_allclose(q.log_prob(z), scipy.stats.norm.logpdf(z).sum(), rtol=1e-6)
        return
    if name not in GAUSSIAN:
        size = {"label": 3, "categorical": 9, "one_hot": 9, "bernoulli": 8}[name]
        np.testing.assert_allclose(distributions.entropy(q), np.log(size), rtol=1e-6)
        return
    mean, cholesky = distributions.gaussian_parts(q)
    np.testing.assert_array_equal(mean, 0)
    want = np.diag([0.36, 1.96]) if name == "location" else np.eye(2)
    slack = 0.2 if name == "low_rank" else 1e-6  # its factor starts small, and not at zero
    np.testing.assert_allclose(cholesky @ cholesky.T, want, atol=slack)


def test_families_are_what_their_parameters_say():
    z, loc = np.array([0.3, -0.8]), np.array([0.5, 1.0])
    lower = np.array([[2.0, 0.0], [0.7, 0.5]])
    eta = {
        "mean_field": (loc, np.log([0.5, 2.0])),
        "full_rank": (loc, LogCholesky(jnp.log(jnp.array([2.0, 0.5])), jnp.array([0.7]))),
        "low_rank": (loc, np.array([[1.0], [-2.0]]), np.log([0.5, 2.0])),
    }
    covariance = {
        "mean_field": np.diag([0.25, 4.0]),
        "full_rank": lower @ lower.T,
        "low_rank": np.array([[1.25, -2.0], [-2.0, 8.0]]),
    }
    for name, parameters in eta.items():
        family = FAMILIES[name]
        start = family.init(jax.random.key(0))
        q = family.build(type(start)(*jax.tree.map(jnp.asarray, parameters)))
        want = scipy.stats.multivariate_normal(loc, covariance[name]).logpdf(z)
        np.testing.assert_allclose(q.log_prob(jnp.asarray(z)), want, rtol=1e-5)


@each_family
def test_a_stopped_phi_stops_every_gradient_and_a_live_one_none(name):
    # The trap: q must be built from the phi it is given, not hold on to another.
    guide = guides.linear(FAMILIES[name], X_DIM)
    phi, x = random_phi(guide, "linear"), jnp.array([0.5, -1.0, 0.3])
    z = guide.posterior(phi, x).sample(seed=jax.random.key(3))

    def log_q(phi):
        return guide.posterior(phi, x).log_prob(z)

    @quick_jit
    def gradients(phi):
        stopped = jax.grad(lambda phi: log_q(jax.lax.stop_gradient(phi)))(phi)
        # Central differences, in which q is built from numbers.
        shifts = STEP * jnp.eye(NUM_OUTPUTS[name])
        ends = jax.vmap(lambda v: log_q(moved(phi, v)))(jnp.concatenate([shifts, -shifts]))
        up, down = jnp.split(ends, 2)
        return jax.grad(log_q)(phi), stopped, (up - down) / (2 * STEP)

    live, stopped, difference = gradients(phi)
    assert not any(leaf.any() for leaf in jax.tree.leaves(stopped))
    flat = jax.flatten_util.ravel_pytree(live.offset)[0]
    np.testing.assert_allclose(flat, difference, atol=5e-3)
    # eta = b + A x, so the gradient in A is that in b, times x.
    np.testing.assert_allclose(live.network, np.outer(flat, x), rtol=1e-5, atol=1e-6)


def moved(phi, shift):
    flat, unravel = jax.flatten_util.ravel_pytree(phi.offset)
    return phi._replace(offset=unravel(flat + shift))


def test_a_family_of_ones_own_goes_everywhere(x64):
    """A family of one number: N(loc, 1) in one dimension, eta a dict."""
    family = Family(
        init=lambda key: {"loc": jnp.zeros(1)},
        build=lambda eta: distributions.normal(eta["loc"], jnp.ones(1)),
    )
    guide = guides.linear(family, 2)
    assert isinstance(guide, Guide)
    phi = guide.init(jax.random.key(0))._replace(network=jnp.array([[2.0, -1.0]]))
    log_q = guide.posterior(phi, jnp.array([1.0, 3.0])).log_prob(jnp.array([-0.5]))
    np.testing.assert_allclose(log_q, scipy.stats.norm(-1.0, 1.0).logpdf(-0.5), rtol=1e-12)
