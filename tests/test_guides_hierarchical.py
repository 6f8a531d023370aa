"""Hierarchical guides: their densities by hand, and the gradients of the estimators over a tuple."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_cases import GUIDES, POINTS, bent_guides, bent_model, drawn, exact_case, moved
from gradient_tools import KEY, gradients_of
from model_cases import quick_jit
from scipy.stats import multivariate_normal, norm

from lvm_jax import bounds, distributions, evidence, gradients, guides, models, networks
from lvm_jax.distributions import kinds

each_guide = pytest.mark.parametrize("name", GUIDES)
DIMS = (2, 3)


def tanh_mlp(params, u):
    """An mlp of one hidden layer or none, in numpy."""
    if "hidden_0" in params:
        u = np.tanh(u @ np.asarray(params["hidden_0"]["kernel"]) + params["hidden_0"]["bias"])
    return u @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"])


def halves(outputs):
    loc, free = np.split(np.asarray(outputs, np.float64), 2)
    return loc, np.exp(8 * np.tanh(free / 8))


def gaussians_by_hand(name, phi, x, z):
    """Mean and standard deviation of z_1 and of z_2, given the other where q does."""
    if name == "bottom_up":
        return halves(tanh_mlp(phi[0], x)), halves(tanh_mlp(phi[1], z[0]))
    d_1 = np.tanh(tanh_mlp(phi.upward[0], x))
    d_2 = np.tanh(tanh_mlp(phi.upward[1], d_1))
    (seen, b), top = halves(tanh_mlp(phi.heads[0], d_1)), halves(tanh_mlp(phi.heads[1], d_2))
    loc, s = halves(tanh_mlp(phi.layers[0], z[1]))
    precision = b**-2 + s**-2
    return ((seen * b**-2 + loc * s**-2) / precision, precision**-0.5), top


@each_guide
def test_log_q_is_the_product_of_its_factors(x64, name):
    guide, phi = bent_guides(DIMS)[name]
    x = jnp.asarray(POINTS)

    @quick_jit
    def compute(phi, x):
        def one(x):
            q = guide.posterior(phi, x)
            z = q.sample(seed=jax.random.key(2), sample_shape=(3,))
            return z, jax.vmap(q.log_prob)(z)

        return jax.vmap(one)(x), jax.lax.map(one, x)

    (z, log_q), apart = compute(phi, x)
    assert log_q.dtype == z[0].dtype == jnp.float64
    assert [part.shape for part in z] == [(2, 3, 2), (2, 3, 3)]
    for n, s in np.ndindex(2, 3):
        here = [np.asarray(part[n, s]) for part in z]
        parts = gaussians_by_hand(name, phi, POINTS[n], here)
        want = sum(norm(*g).logpdf(part).sum() for g, part in zip(parts, here, strict=True))
        np.testing.assert_allclose(log_q[n, s], want, rtol=1e-10)
    # A batch of two is the two apart.
    for one, other in zip(jax.tree.leaves((z, log_q)), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@each_guide
def test_q_is_reparameterised_and_stops_with_phi(name):
    guide, phi = bent_guides(DIMS)[name]
    x = jnp.asarray(POINTS[0])
    q = guide.posterior(phi, x)
    shape = jax.eval_shape(lambda key: q.log_prob(q.sample(seed=key)), KEY)
    assert shape.dtype == jnp.float32
    assert distributions.is_reparameterized(q)
    assert kinds.latent_kinds(q) == {"any", "reparameterized"}

    def log_q(phi, z):
        return guide.posterior(jax.lax.stop_gradient(phi), x).log_prob(z)

    @quick_jit
    def compute(phi):
        q = guide.posterior(phi, x)
        z = q.sample(seed=KEY)
        return *jax.grad(log_q, (0, 1))(phi, z), jax.grad(q.log_prob)(z)

    slopes, along, plain = compute(phi)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(slopes))
    # ... and still moves with z, as q itself does.
    for one, other in zip(along, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
        assert np.abs(other).min() > 1e-3


def sample_by_hand(name, guide, phi, x, noise):
    """z = g(noise; phi), for gradients, with the layers' Gaussians read off q's own factors."""
    q = guide.posterior(phi, x)
    first = distributions.gaussian_parts(q.first)
    z = first[0] + jnp.diag(first[1]) * noise[0]
    loc, scale = q.steps[0](q.params[0], z)
    other = loc + scale * noise[1]
    return (other, z) if name == "ladder" else (z, other)


@functools.cache
def expected_elbo(name, order=40):
    """The ELBO of the bent model and its gradient, by Gauss-Hermite quadrature over the noise."""
    (model, theta), (guide, phi) = bent_model(), bent_guides()[name]
    nodes, mass = np.polynomial.hermite_e.hermegauss(order)
    nodes, mass = nodes.astype(float), mass / mass.sum()
    x = jnp.asarray(POINTS[0])
    pairs = [jnp.asarray(g.reshape(-1, 1)) for g in np.meshgrid(nodes, nodes, indexing="ij")]
    masses = jnp.asarray(np.outer(mass, mass).ravel())

    def elbo(theta, phi):
        q, joint = guide.posterior(phi, x), model(theta).log_joint(x)

        def one(*noise):
            z = sample_by_hand(name, guide, phi, x, noise)
            return joint(z) - q.log_prob(z)

        return masses @ jax.vmap(one)(*pairs)

    value, slopes = quick_jit(jax.value_and_grad(elbo, (0, 1)))(theta, phi)
    return np.concatenate([[value], *map(flat, slopes)])


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


NUM_KEYS = 4_000


@functools.cache
def monte_carlo(name, estimators, num_samples):
    """Values and gradients of the bent model for many keys, [NUM_KEYS, 1 + P], by estimator.

    Estimators of one program share their draws, in time as well.
    """
    with jax.enable_x64(True):
        (model, theta), (guide, phi) = bent_model(), bent_guides()[name]
        x = jnp.asarray(POINTS[0])
        runs = [
            gradients_of(
                ESTIMATES[estimator],
                lambda theta: model(theta).log_joint(x),
                lambda phi: guide.posterior(phi, x),
                num_samples,
            )
            for estimator in estimators
        ]

        def one(key):
            each = [run(theta, phi, key) for run in runs]
            return [jnp.concatenate([leaf.reshape(-1) for leaf in found]) for found in each]

        return jax.device_get(quick_jit(jax.vmap(one))(jax.random.split(KEY, NUM_KEYS)))


ESTIMATES = {
    "reparameterized": gradients.reparameterized(),
    "reparameterized_iwae": gradients.reparameterized(bounds.iwae),
    "sticking_the_landing": gradients.sticking_the_landing(),
    "doubly_reparameterized": gradients.doubly_reparameterized(),
}


@each_guide
def test_gradients_of_the_elbo_are_those_of_quadrature(x64, name):
    want = expected_elbo(name)
    for found in monte_carlo(name, ("reparameterized", "sticking_the_landing"), 1):
        error = found.std(0) / np.sqrt(NUM_KEYS)
        assert (np.abs(found.mean(0) - want) <= 5 * error + 1e-12).all()
        signal = np.abs(want) / np.maximum(error, 1e-12)
        assert (signal > 10).mean() > 0.3  # so that a wrong sign or factor would show


@each_guide
def test_dreg_and_the_plain_gradient_of_iwae_agree_in_expectation(name):
    plain, dreg = monte_carlo(name, ("reparameterized_iwae", "doubly_reparameterized"), 3)
    difference = dreg - plain  # the same draws: paired
    np.testing.assert_allclose(difference[:, 0], 0, atol=1e-10)
    error = difference.std(0) / np.sqrt(NUM_KEYS)
    assert (np.abs(difference.mean(0)) <= 5 * error + 1e-12).all()
    signal = np.abs(plain.mean(0)) / np.maximum(error, 1e-12)
    assert (signal > 10).mean() > 0.3


@each_guide
def test_the_gradient_is_zero_at_the_exact_posterior(x64, name):
    model, theta, guide, phi, _ = exact_case(name)
    x = jnp.asarray(POINTS[0])
    names = ("sticking_the_landing", "doubly_reparameterized", "reparameterized")

    def one(key):
        return [
            gradients_of(
                ESTIMATES[estimator],
                lambda theta: model(theta).log_joint(x),
                lambda phi: guide.posterior(phi, x),
                3,
            )(theta, phi, key)
            for estimator in names
        ]

    *still, plain = quick_jit(jax.vmap(one))(jax.random.split(KEY, 20))
    for _, theta_slopes, phi_slopes in still:
        assert np.abs(phi_slopes).max() < 1e-11
        assert np.abs(theta_slopes).max() > 0.1
    assert plain[2].std(0).max() > 0.1


def test_the_gap_of_a_guide_that_misses_closes_by_importance_sampling():
    model, theta, guide, phi, data = exact_case("ladder")
    away = moved(phi, seed=4, size=0.1)
    found = evidence.evaluate(KEY, model(theta), guide(away), jnp.asarray(POINTS), 4_000)
    error = np.asarray(found.standard_error)
    assert (error > 0.001).all()
    assert (error < 0.1).all()
    assert (
        np.abs(found.log_evidence - multivariate_normal.logpdf(POINTS, *data)) < 5 * error
    ).all()


def test_a_ladder_tied_to_the_model_sends_gradients_to_theta():
    _, theta, guide, phi, _ = exact_case("ladder")
    assert jax.tree.structure(phi.layers) == jax.tree.structure(theta.layers)
    x, z = jnp.asarray(POINTS[0]), (jnp.array([0.2, -0.4]), jnp.array([0.9]))

    def log_q(theta, phi):
        return guide.posterior(phi._replace(layers=theta.layers), x).log_prob(z)

    def own_q(phi):
        return guide.posterior(phi, x).log_prob(z)

    (tied, own), alone = quick_jit(
        lambda theta, phi: (jax.grad(log_q, (0, 1))(theta, phi), jax.grad(own_q)(phi))
    )(theta, phi)
    np.testing.assert_array_equal(flat(own.layers), 0.0)
    for one, other in zip(jax.tree.leaves(tied.layers), jax.tree.leaves(alone.layers), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert np.abs(other).max() > 0.01


@each_guide
def test_another_phi_key_or_point_does_not_compile_again(name):
    guide, _ = bent_guides(DIMS)[name]
    traces = []

    @quick_jit
    def weigh(phi, key, x):
        traces.append(None)
        q = guide.posterior(phi, x)
        return q.log_prob(q.sample(seed=key))

    found = [
        float(weigh(drawn(guide, s), jax.random.key(s), jnp.asarray(POINTS[s % 2])))
        for s in range(3)
    ]
    assert len(traces) == 1
    assert len(set(found)) == 3


def layer(num_inputs, dim):
    return models.Layer(networks.mlp(num_inputs, (), 2 * dim), dim)


REFUSALS = (
    ("layers: expected at least 2, got 1", lambda: guides.bottom_up([layer(3, 2)])),
    (
        r"layers\[1\]: expected a network of 4 outputs",
        lambda: guides.bottom_up([layer(3, 2), models.Layer(networks.mlp(2, (), 2), 2)]),
    ),
    (
        "upward: expected 2 networks, one for each layer of z, got 1",
        lambda: guides.ladder([networks.mlp(3, (), 2)], 1, [layer(1, 2)]),
    ),
    (
        "top_dim: expected an integer >= 1",
        lambda: guides.ladder([networks.mlp(3, (), 2)] * 2, 0, [layer(1, 2)]),
    ),
    (
        "did you mean 'tanh'",
        lambda: guides.ladder([networks.mlp(3, (), 2)] * 2, 1, [layer(1, 2)], "tanhh"),
    ),
)


@pytest.mark.parametrize(("message", "call"), REFUSALS)
def test_what_does_not_fit_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()
