"""With linear networks a deep model is one dense Gaussian: joint, evidence, draws, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_cases import POINTS, bent_model, dense_data, drawn, exact_case, exact_guide, linear_chain
from model_cases import quick_jit
from scipy.stats import multivariate_normal

from lvm_jax import decomposition, evidence, likelihoods, models, networks, priors

both_precisions = pytest.mark.parametrize("x64", [False, True])
TOLERANCE = {False: 1e-5, True: 1e-10}


@both_precisions
def test_the_joint_of_a_linear_chain_is_the_dense_gaussian(x64):
    with jax.enable_x64(x64):
        model, theta, joint = linear_chain()
        x = jnp.asarray(POINTS)
        z = model.prior(theta).sample(seed=jax.random.key(0), sample_shape=(20,))

        @quick_jit
        def joints(theta, x, z):
            return jax.vmap(lambda x: jax.vmap(model(theta).log_joint(x))(z))(x)

        found = joints(theta, x, z)
        assert found.dtype == (jnp.float64 if x64 else jnp.float32)
        flat = np.concatenate(z, axis=1)
        for row, got in zip(POINTS, found, strict=True):
            both = np.concatenate([flat, np.tile(row, (20, 1))], axis=1)
            want = multivariate_normal.logpdf(both, *joint)
            np.testing.assert_allclose(got, want, rtol=TOLERANCE[x64], atol=TOLERANCE[x64])
        # A batch of two is the two apart.
        np.testing.assert_allclose(found[1:], joints(theta, x[1:], z), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "x64"), [("dense", False), ("dense", True), ("ladder", True), ("bottom_up", True)]
)
def test_the_evidence_at_the_posterior_is_that_of_the_dense_gaussian(name, x64):
    with jax.enable_x64(x64):
        if name == "dense":
            model, theta, joint = linear_chain()
            guide, phi, data = exact_guide(joint), (), dense_data()
        else:
            model, theta, guide, phi, data = exact_case(name)
        points = jnp.asarray(POINTS)
        found = evidence.evaluate(jax.random.key(1), model(theta), guide(phi), points, 10)
        want = multivariate_normal.logpdf(POINTS, *data)
        rtol = TOLERANCE[x64]
        np.testing.assert_allclose(found.log_evidence, want, rtol=rtol)
        assert np.ptp(want) > 1
        assert (np.asarray(found.standard_error) < 10 * rtol).all()


def test_draws_have_the_moments_of_the_dense_gaussian():
    model, theta, joint = linear_chain()

    @quick_jit
    def draw(key):
        key_z, key_x = jax.random.split(key)
        z = model.prior(theta).sample(seed=key_z, sample_shape=(4, 5_000))
        one = jax.vmap(lambda z, key: model.likelihood(theta, z).sample(seed=key))
        return *z, jax.vmap(one)(z, jax.random.split(key_x, (4, 5_000)))

    parts = draw(jax.random.key(3))
    assert [part.shape for part in parts] == [(4, 5_000, 2), (4, 5_000, 1), (4, 5_000, 3)]
    draws = np.concatenate(parts, axis=-1).reshape(-1, 6).astype(np.float64)
    error = np.sqrt(np.diag(joint.covariance) / len(draws))
    assert (np.abs(draws.mean(0) - joint.mean) < 5 * error).all()
    centred = draws - joint.mean
    products = centred[:, :, None] * centred[:, None]
    error = products.std(0) / np.sqrt(len(draws))
    assert (np.abs(products.mean(0) - joint.covariance) < 5 * error).all()


def test_the_gradient_of_the_evidence_is_that_of_the_elbo_at_the_posterior(x64):
    # Fisher's identity, for every array of theta: with linear networks the joint is quadratic in
    # z, so 2 * 3 points of the dense posterior give its expectation without error.
    model, theta, joint = linear_chain()
    x = jnp.asarray(POINTS[0])
    normal = exact_guide(joint).posterior((), x).normal
    offsets = np.sqrt(3) * np.asarray(normal.cholesky).T
    nodes = np.asarray(normal.mean) + np.concatenate([offsets, -offsets])
    nodes = (jnp.asarray(nodes[:, :2]), jnp.asarray(nodes[:, 2:]))

    def energy(theta):
        return jax.vmap(model(theta).log_joint(x))(nodes).mean()

    def log_p(theta):  # the dense Gaussian again, from the arrays of theta this time
        kernel, bias = theta.layers[0]["output"]["kernel"], theta.layers[0]["output"]["bias"]
        out, noise = theta.decoder["output"], jnp.exp(16 * jnp.tanh(theta.likelihood / 8))
        scale = jnp.exp(8 * jnp.tanh(bias[2:] / 8))
        up = kernel[:, :2].T @ kernel[:, :2] + jnp.diag(scale**2)
        covariance = out["kernel"].T @ up @ out["kernel"] + noise * jnp.eye(3)
        residual = x - bias[:2] @ out["kernel"] - out["bias"]
        log_det = jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]
        return -0.5 * (residual @ jnp.linalg.solve(covariance, residual) + log_det)

    got, want = quick_jit(lambda theta: (jax.grad(energy)(theta), jax.grad(log_p)(theta)))(theta)
    # The scales' dependence on z_2 is off at 0, but may be learned: the dense Gaussian has none.
    got.layers[0]["output"]["kernel"] = got.layers[0]["output"]["kernel"][:, :2]
    want.layers[0]["output"]["kernel"] = want.layers[0]["output"]["kernel"][:, :2]
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        assert np.abs(other).max() > 0.01


def test_one_layer_has_an_array_z_and_the_given_prior():
    model = models.deep_latent_gaussian(
        priors.standard_normal(2), networks.mlp(2, (3,), 4), likelihoods.gaussian(4)
    )
    theta = drawn(model, 0)
    assert theta.layers == theta.prior == ()
    z = model.prior(theta).sample(seed=jax.random.key(1))
    np.testing.assert_allclose(
        model.prior(theta).log_prob(z), multivariate_normal.logpdf(z, np.zeros(2)), rtol=1e-5
    )
    outputs = networks.mlp(2, (3,), 4).apply(theta.decoder, z)
    x = jnp.array([0.5, -1.0, 2.0, 0.0])
    want = multivariate_normal.logpdf(x, outputs, np.exp(16 * np.tanh(theta.likelihood / 8)))
    np.testing.assert_allclose(model.likelihood(theta, z).log_prob(x), want, rtol=1e-5)


def test_three_layers_are_drawn_and_weighed_in_order(x64):
    # z_3 -> z_2 -> z_1: dimensions 1, 2, 3 upwards from x.
    layers = [
        models.Layer(networks.mlp(2, (3,), 2), 1),
        models.Layer(networks.mlp(3, (3,), 4), 2),
    ]
    model = models.deep_latent_gaussian(
        priors.standard_normal(3), networks.mlp(1, (), 2), likelihoods.gaussian(2), layers
    )
    theta = drawn(model, 0)
    prior = model.prior(theta)
    z = quick_jit(lambda key: prior.sample(seed=key))(jax.random.key(1))
    assert [part.shape for part in z] == [(1,), (2,), (3,)]
    want = multivariate_normal.logpdf(z[2], np.zeros(3))
    for layer, params, given, part in zip(layers, theta.layers, z[1:], z, strict=False):
        loc, free = np.split(np.asarray(layer.network.apply(params, given)), 2)
        want += multivariate_normal.logpdf(part, loc, np.diag(np.exp(8 * np.tanh(free / 8)) ** 2))
    np.testing.assert_allclose(quick_jit(prior.log_prob)(z), want, rtol=1e-10)


def test_products_take_all_draws_as_rows_and_are_done_once():
    # Sampling and weighing: one product for each layer of the prior, not two.
    model, theta = bent_model()

    def weigh(theta, key):
        prior = model.prior(theta)
        z = prior.sample(seed=key, sample_shape=(9,))
        return jax.vmap(prior.log_prob)(z)

    program = jax.jit(weigh).lower(theta, jax.random.key(0)).compile()
    products = [line for line in program.as_text().splitlines() if " dot(" in line]
    assert len(products) <= 2
    assert all("f32[9," in line for line in products)


def test_a_new_theta_key_or_point_does_not_compile_again():
    model, _ = bent_model()
    traces = []

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def joint(theta, key, x):
        traces.append(None)
        return model(theta).log_joint(x)(model.prior(theta).sample(seed=key))

    for seed in range(3):
        joint(drawn(model, seed), jax.random.key(seed), jnp.asarray(POINTS[seed % 2]))
    assert len(traces) == 1


def test_decomposition_takes_a_tuple_of_layers():
    model, theta, guide, phi, data = exact_case("ladder")
    x = jnp.asarray(POINTS[0])

    @quick_jit
    def decompose(theta, phi):
        joint, q = model(theta).log_joint(x), guide.posterior(phi, x)
        key, prior = jax.random.key(0), model.prior(theta)
        terms = decomposition.decompose(key, joint, q, 50, prior=prior)
        return terms.elbo, terms.reconstruction, terms.kl_prior

    elbo, reconstruction, kl_prior = (term.value for term in decompose(theta, phi))
    want = multivariate_normal.logpdf(POINTS[0], *data)
    np.testing.assert_allclose(elbo, want, rtol=1e-5)
    np.testing.assert_allclose(reconstruction - kl_prior, want, rtol=1e-5)


PRIOR, DECODER_OF_4 = priors.standard_normal(2), networks.mlp(2, (), 4)
WRONG = models.Layer(networks.mlp(1, (), 3), 2)


def refused_z():
    model, theta = bent_model()
    return model.prior(theta).log_prob(jnp.zeros(2))


def wrong_top():
    layer = models.Layer(networks.mlp(3, (), 4), 2)
    model = models.deep_latent_gaussian(PRIOR, DECODER_OF_4, likelihoods.gaussian(4), [layer])
    return model.prior(model.init(jax.random.key(0))).sample(seed=jax.random.key(0))


REFUSALS = (
    (
        "decoder: expected 3 outputs.* got 4",
        lambda: models.deep_latent_gaussian(PRIOR, DECODER_OF_4, likelihoods.gaussian(3)),
    ),
    (
        r"layers\[0\]: expected a network of 4 outputs.* got 3",
        lambda: models.deep_latent_gaussian(PRIOR, DECODER_OF_4, likelihoods.gaussian(4), [WRONG]),
    ),
    ("z: expected a tuple of 2 arrays, got", refused_z),
    (r"expected one input of shape \(3,\), got \(2,\)", wrong_top),
)


@pytest.mark.parametrize(("message", "call"), REFUSALS)
def test_what_does_not_fit_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()
