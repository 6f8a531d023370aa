"""What every prior promises: one table, a row for each."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_cases import linear
from model_cases import grid, quick_jit

from lvm_jax import guides, networks, priors
from lvm_jax.priors import MixturePrior, Prior

NUM_DRAWS = 20_000


class Row(NamedTuple):
    prior: Prior  # of a z in two dimensions
    params: Any  # away from its start; NumPy arrays, or a tree of them
    radius: float  # of a square that holds all but 1e-6 of the mass


def vamp():
    network = networks.mlp(3, (), 4)
    guide = guides.amortized(guides.mean_field(2), network.init, network.apply)
    weight = np.array([[0.7, -0.3, 0.2], [-0.5, 0.4, 1.0], [0.2, 0.1, -0.3], [0.0, -0.4, 0.1]])
    phi = jax.eval_shape(guide.init, jax.random.key(0))
    phi = jax.tree.map(lambda leaf: np.zeros(leaf.shape), phi)
    phi = phi._replace(network=jax.tree.map(np.asarray, linear(weight, [0.3, -0.6, -0.5, 0.2])))
    rows = np.array([[0.1, 1.0, -0.5], [2.0, 0.3, 0.0], [-1.0, 0.5, 0.8]])

    def build(params):
        inputs, logits, phi = params
        return priors.mixture_of(guide(phi), inputs, logits)

    def init(key):
        return *priors.vamp(3, rows).init(key), jax.tree.map(jnp.float32, phi)

    return Row(Prior(init, build), (rows, np.array([0.3, -1.0, 1.2]), phi), 12.0)


PRIORS = {
    "standard_normal": Row(priors.standard_normal(2), (), 7.0),
    "mixture": Row(
        priors.mixture(2, 3),
        MixturePrior(
            np.array([0.3, -1.0, 1.2]),
            np.array([[0.5, -2.0], [3.0, 0.1], [-1.0, 1.0]]),
            np.log([[0.4, 1.5], [1.0, 0.2], [0.7, 0.7]]),
        ),
        10.0,
    ),
    "vamp": vamp(),
}
each_prior = pytest.mark.parametrize("name", PRIORS)


def as_floats(params, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


@each_prior
def test_the_mass_is_one_and_draws_have_the_moments_of_the_density(name):
    prior, params, radius = PRIORS[name]
    with jax.enable_x64(True):
        step = 0.05
        z = grid(radius, step, 2)

        @quick_jit
        def density(params, z):
            return jax.vmap(prior.build(params).log_prob)(z)

        mass = np.exp(density(as_floats(params, float), z)) * step**2
        z = np.asarray(z)
    assert mass.sum() == pytest.approx(1, abs=2e-6)
    params = as_floats(params, np.float32)
    draw = quick_jit(lambda key: prior.build(params).sample(seed=key, sample_shape=(NUM_DRAWS,)))
    draws = draw(jax.random.key(1))
    assert draws.shape == (NUM_DRAWS, 2)
    assert draws.dtype == jnp.float32
    draws = np.asarray(draws, float)
    for f in (lambda z: z, lambda z: z[:, :, None] * z[:, None], np.abs):
        error = f(draws).std(0) / np.sqrt(NUM_DRAWS)
        assert (np.abs(f(draws).mean(0) - np.tensordot(mass, f(z), 1)) < 5 * error).all()


@each_prior
@pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-5), (True, 1e-12)])
def test_it_is_built_afresh_from_its_parameters(name, x64, rtol):
    """Mapped, stopped and live parameters, and one draw, in the precision that they have."""
    prior, params, _ = PRIORS[name]
    z = np.array([0.4, -0.9])
    with jax.enable_x64(x64):
        dtype = float if x64 else np.float32
        params = as_floats(params, dtype)
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), params)

        @quick_jit
        def compute(params, both, z):
            def log_prob(p):
                return prior.build(p).log_prob(z)

            stopped = jax.grad(lambda p: jax.lax.stop_gradient(prior.build(p)).log_prob(z))(params)
            mapped = jax.vmap(log_prob)(both) if jax.tree.leaves(both) else ()
            draw = prior.build(params).sample(seed=jax.random.key(0))
            return jax.value_and_grad(log_prob)(params), stopped, mapped, draw

        (value, live), stopped, mapped, draw = compute(params, both, jnp.asarray(z, dtype))
        assert value.dtype == draw.dtype == dtype
        assert draw.shape == (2,)
        assert not any(leaf.any() for leaf in jax.tree.leaves(stopped))
        if jax.tree.leaves(params):
            assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(live)) > 1e-3
            np.testing.assert_allclose(mapped[0], value, rtol=rtol)
            assert abs(mapped[1] - mapped[0]) > 1e-3


@each_prior
def test_init_makes_parameters_of_the_same_shapes(name):
    prior, params, _ = PRIORS[name]
    fresh = quick_jit(prior.init)(jax.random.key(2))
    assert jax.tree.structure(fresh) == jax.tree.structure(params)
    for leaf, like in zip(jax.tree.leaves(fresh), jax.tree.leaves(params), strict=True):
        assert leaf.shape == like.shape
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
