"""Pathwise gradients: closed forms, quadrature for every bound, zero variance, pytrees."""

import functools
import itertools
from typing import NamedTuple

import exact_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_tools import KEY, gradients_of, jit, on_problem
from jax.flatten_util import ravel_pytree

from lvm_jax import bounds, distributions, gradients
from lvm_jax.distributions import FullRankNormal
from lvm_jax.gradients.pathwise import derivatives
from lvm_jax.weights import draw, log_weights


class GivenNormal(NamedTuple):
    """A normal on the line whose draws are given, so that expectations are sums over a grid."""

    loc: jax.Array
    scale: jax.Array
    noise: jax.Array  # [S]

    def log_prob(self, z):
        return -0.5 * ((z - self.loc) / self.scale) ** 2 - jnp.log(self.scale)

    def sample(self, *, seed, sample_shape=()):
        return self.loc + self.scale * (self.noise if sample_shape else self.noise[0])


def grid_of_draws(num_samples, order):
    nodes, mass = np.polynomial.hermite_e.hermegauss(order)
    noise = np.array(list(itertools.product(nodes, repeat=num_samples)))
    masses = np.prod(list(itertools.product(mass / mass.sum(), repeat=num_samples)), axis=1)
    return jnp.asarray(noise), jnp.asarray(masses)


def expected(estimates, num_samples, order=20):
    """The exact expectations of values and gradients on a skew density, by quadrature.

    [value, theta, phi] of each of the estimates, by one program.
    """
    noise, mass = grid_of_draws(num_samples, order)

    def log_joint(theta):
        return lambda z: -theta[0] * (z - 0.5) ** 2 + theta[1] * jnp.sin(z)

    def one(noise):
        def guide(phi):
            return GivenNormal(phi[0], jnp.exp(phi[1]), noise)

        theta, phi = jnp.array([0.4, 0.3]), jnp.array([0.9, 0.1])
        return [
            gradients_of(estimate, log_joint, guide, num_samples)(theta, phi)
            for estimate in estimates
        ]

    out = jax.device_get(jit(jax.vmap(one))(noise))
    return [[mass @ leaf for leaf in found] for found in out]


# Two, three or four draws: what the bound needs at least.
SIZES = {"miwae_two": (4, 14), "jackknife_two": (3, 24)}


@pytest.mark.parametrize("size, order", [(2, 32), (3, 24), (4, 14)])
def test_dreg_and_the_plain_pathwise_gradient_agree_in_expectation(x64, size, order):
    names = [name for name in bounds.BOUNDS if SIZES.get(name, (2, 32)) == (size, order)]
    assert names
    reductions = [bounds.BOUNDS[name].reduce for name in names]
    both = gradients.reparameterized, gradients.doubly_reparameterized
    found = expected([make(bound) for make in both for bound in reductions], size, order)
    for name, plain, dreg in zip(names, found[: len(names)], found[len(names) :], strict=True):
        np.testing.assert_allclose(dreg[0], plain[0], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(dreg[1], plain[1], rtol=1e-10, err_msg=name)
        # Quadrature's own error.
        np.testing.assert_allclose(dreg[2], plain[2], rtol=1e-4, err_msg=name)


def test_sticking_the_landing_is_off_under_iwae(x64):
    both = gradients.reparameterized(bounds.iwae), gradients.sticking_the_landing(bounds.iwae)
    (_, theta, phi), (_, stl_theta, stl_phi) = expected(both, 2)
    np.testing.assert_allclose(stl_theta, theta, rtol=1e-12)
    assert (np.abs(stl_phi / phi - 1) > 0.1).all()


def test_wake_phi_and_its_reparameterised_form_agree_in_expectation(x64):
    both = gradients.reweighted_wake_sleep(), gradients.doubly_reparameterized_wake_sleep()
    (value, theta, phi), other = expected(both, 3, 24)
    np.testing.assert_allclose(other[0], value, rtol=1e-12)
    np.testing.assert_allclose(other[1], theta, rtol=1e-10)
    np.testing.assert_allclose(other[2], phi, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_coefficients_of_dreg_have_their_closed_form(x64, alpha):
    log_w = jnp.array([-3.0, -1.0, -4.5, 0.3, -0.2])
    first, second = derivatives(bounds.renyi(alpha), log_w)
    v = jax.nn.softmax((1 - alpha) * log_w)
    np.testing.assert_allclose(first, v, rtol=1e-12)
    np.testing.assert_allclose(first - second, alpha * v + (1 - alpha) * v**2, rtol=1e-12)


def test_coefficients_in_chunks_are_the_diagonal_of_the_hessian(x64):
    log_w = jax.random.normal(KEY, (150,))
    _, second = jit(functools.partial(derivatives, bounds.eubo))(log_w)
    whole = jnp.diagonal(jit(jax.hessian(bounds.eubo))(log_w))
    np.testing.assert_allclose(second, whole, atol=1e-15)


def test_dreg_for_a_log_scale_by_hand(x64):
    # distrax keeps old parameters in some distributions; this is the gradient that came out wrong.
    problem = exact_problems.linear_gaussian()
    _, _, phi = on_problem(gradients.doubly_reparameterized(), problem, 5)(KEY)
    loc, scale = problem.phi["loc"], jnp.exp(problem.phi["log_scale"])
    z = draw(KEY, problem.guide(problem.phi), 5)
    noise = (z - loc[None]) / scale[None]
    joint = problem.log_joint(problem.theta, problem.x)
    log_q = -0.5 * (noise**2).sum(1) - jnp.log(scale).sum() - jnp.log(2 * jnp.pi)
    v = jax.nn.softmax(jax.vmap(joint)(z) - log_q)
    slopes = jax.vmap(jax.grad(joint))(z) + noise / scale[None]  # dlog w/dz
    by_hand = {
        "loc": (v[:, None] ** 2 * slopes).sum(0),
        "log_scale": (v[:, None] ** 2 * slopes * noise * scale[None]).sum(0),
    }
    np.testing.assert_allclose(phi, ravel_pytree(by_hand)[0], rtol=1e-10)


def test_dreg_survives_weights_that_underflow():
    def log_joint(theta):
        return lambda z: -theta * (z**2).sum()

    def guide(phi):
        return distributions.normal(phi, jnp.array([1.0, 2.0]))

    theta, phi = jnp.float32(1e4), jnp.array([0.5, -0.5])
    estimate = gradients.doubly_reparameterized()
    _, slope, move = jit(gradients_of(estimate, log_joint, guide, 30))(theta, phi)
    z = draw(KEY, guide(phi), 30)
    log_w = jax.vmap(lambda one: log_joint(theta)(one) - guide(phi).log_prob(one))(z)
    best = z[jnp.argmax(log_w)]  # every other weight is exactly 0 in float32
    assert jax.nn.softmax(log_w).max() == 1
    np.testing.assert_allclose(slope[0], -(best**2).sum(), rtol=1e-5)
    pull = -2e4 * best + (best - phi) / jnp.array([1.0, 4.0])
    np.testing.assert_allclose(move, pull, rtol=1e-5)


def test_relatives_share_draws_and_gradients_key_by_key(x64):
    problem = exact_problems.linear_gaussian()
    estimates = (
        gradients.sticking_the_landing(),
        gradients.doubly_reparameterized(bounds.elbo),
        gradients.piwae(2),
        gradients.reparameterized(bounds.iwae),
        gradients.reparameterized(bounds.miwae(2)),
    )
    joint = lambda theta: problem.log_joint(theta, problem.x)  # noqa: E731
    each = [gradients_of(estimate, joint, problem.guide) for estimate in estimates]
    run = jit(lambda theta, phi: [one(theta, phi) for one in each])
    stl, dreg, piwae, iwae, miwae = run(problem.theta, problem.phi)
    for one, other in zip(stl, dreg, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    np.testing.assert_allclose(piwae[0], iwae[0], rtol=1e-12)
    np.testing.assert_allclose(piwae[1], iwae[1], rtol=1e-10)
    np.testing.assert_allclose(piwae[2], miwae[2], rtol=1e-10)


def test_zero_at_the_exact_posterior(x64):
    problem = exact_problems.linear_gaussian()
    phi = problem.posterior(problem.theta, problem.x)  # mean and Cholesky factor, as a pytree
    joint = problem.log_joint(problem.theta, problem.x)
    names = "sticking_the_landing", "doubly_reparameterized", "doubly_reparameterized_wake_sleep"

    def guide(phi):
        return FullRankNormal(phi.mean, phi.cholesky)

    def one(key):
        def slope(estimate):
            return ravel_pytree(jax.grad(lambda phi: estimate(key, joint, guide, phi, 5))(phi))[0]

        still = [slope(gradients.ESTIMATORS[name].estimate) for name in names]
        return still, slope(gradients.reparameterized())

    still, plain = jax.device_get(jit(jax.vmap(one))(jax.random.split(KEY, 20)))
    for name, slopes in zip(names, still, strict=True):
        assert np.abs(slopes).max() < 1e-12, name
    assert plain.std(0).max() > 0.1


class Pair(NamedTuple):
    """Two normals under names; `flat` draws the same numbers end to end."""

    loc: jax.Array  # [3]
    flat: bool

    def log_prob(self, z):
        z = z if self.flat else jnp.concatenate([z["top"], z["bottom"]])
        return distributions.normal(self.loc, jnp.array([0.5, 1.0, 1.5])).log_prob(z)

    def sample(self, *, seed, sample_shape=()):
        q = distributions.normal(self.loc, jnp.array([0.5, 1.0, 1.5]))
        z = q.sample(seed=seed, sample_shape=sample_shape)
        return z if self.flat else {"top": z[..., :1], "bottom": z[..., 1:]}


def test_a_pytree_of_latents_equals_its_flat_form(x64):
    # One for each way in which draws and log-weights are made.
    names = "reparameterized", "sticking_the_landing", "piwae", "vimco"
    theta, phi = jnp.array(0.8), jnp.arange(3.0)

    def joint(theta):
        return lambda z: -theta * z["top"][0] ** 2 * (z["bottom"] ** 2).sum()

    def flat_joint(theta):
        return lambda z: joint(theta)({"top": z[:1], "bottom": z[1:]})

    @jit
    def run(theta, phi):
        return [
            (
                gradients_of(row.estimate, joint, lambda phi: Pair(phi, False))(theta, phi),
                gradients_of(row.estimate, flat_joint, lambda phi: Pair(phi, True))(theta, phi),
            )
            for row in map(gradients.ESTIMATORS.get, names)
        ]

    for name, (tree, flat) in zip(names, run(theta, phi), strict=True):
        for one, other in zip(tree, flat, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, err_msg=name)


def test_the_value_is_by_the_price_of_the_draws():
    # Deviations of 1e-6 at 1,000, where float32 has steps of 6e-5: log_prob of such a z finds noise
    # that was never drawn, thousands of deviations, and a bound by it would exceed log p.
    names = "sticking_the_landing", "doubly_reparameterized", "piwae", "reparameterized"

    def guide(phi):
        return distributions.FullRankNormal(phi, 1e-6 * jnp.eye(2))

    def joint(z):
        return -0.5 * ((z - 1_000) ** 2).sum()

    @jit
    def run(phi):
        rows = [gradients.ESTIMATORS[name] for name in names]
        log_w = log_weights(KEY, joint, guide(phi), 4)
        return [
            (row.estimate(KEY, joint, guide, phi, 4), bounds.BOUNDS[row.bound].reduce(log_w))
            for row in rows
        ]

    for name, (value, wanted) in zip(names, run(jnp.full(2, 1_000.0)), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, err_msg=name)
        assert abs(value - 2 * np.log(1e-6)) < 10, name  # H(q) up to what S = 4 leaves
