"""What is summed or integrated over z: discrete models of many values, and the deep Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from jax.nn import log_sigmoid
from model_cases import CASES, quick_jit

from lvm_jax import distributions, models
from lvm_jax.models import deep_gaussian, log_evidence_quadrature
from lvm_jax.models.categorical import MAX_TERMS
from lvm_jax.models.streaming import log_sum


def separate_bits(num_variables):
    """x_k | z ~ N(w_k z_k, 1): log p(x) is a sum over k, whatever K."""

    def likelihood(weight, z):
        return distributions.normal(weight * z, jnp.ones_like(weight))

    model = models.bernoulli(num_variables, likelihood, lambda key: jnp.ones(num_variables))
    rng = np.random.default_rng(0)
    theta = models.Discrete(*(jnp.asarray(rng.normal(size=num_variables)) for _ in range(2)))

    def closed_form(theta, x):
        on = log_sigmoid(theta.logits) - 0.5 * (x - theta.likelihood) ** 2
        off = log_sigmoid(-theta.logits) - 0.5 * x**2
        return (jnp.logaddexp(on, off) - 0.5 * jnp.log(2 * jnp.pi)).sum()

    return model, theta, jnp.asarray(rng.normal(size=num_variables)), closed_form


@pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-5), (True, 1e-12)])
def test_sixteen_chunks_sum_to_the_closed_form(x64, rtol):
    with jax.enable_x64(x64):
        model, theta, x, closed_form = separate_bits(16)
        value, gradient = quick_jit(jax.value_and_grad(model.log_evidence))(theta, x)
        want, want_gradient = jax.value_and_grad(closed_form)(theta, x)
        np.testing.assert_allclose(value, want, rtol=rtol)
        for got, true in zip(gradient, want_gradient, strict=True):
            np.testing.assert_allclose(got, true, rtol=rtol, atol=rtol)


def test_chunks_of_a_base_that_does_not_divide_them(x64):
    # 3^9 terms in chunks of 3^7; x = sum_k t[k, z_k] + noise with a table t of one row in use.
    def likelihood(table, z):
        return distributions.normal(table[jnp.arange(9), z].sum()[None], jnp.ones(1))

    model = models.categorical(9, 3, likelihood, lambda key: jnp.zeros((9, 3)))
    rng = np.random.default_rng(1)
    logits, table = rng.normal(size=(2, 9, 3))
    table[1:] = 0.0  # eight variables do nothing, and the ninth is the slowest digit
    theta = models.Discrete(jnp.asarray(logits), jnp.asarray(table))
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    want = np.log(p @ scipy.stats.norm(table[0], 1).pdf(0.7))
    evidence = quick_jit(model.log_evidence)(theta, jnp.array([0.7]))
    np.testing.assert_allclose(evidence, want, rtol=1e-12)
    q = quick_jit(model.posterior)(theta, jnp.array([0.7]))
    first = np.exp(q.log_probs).reshape(3, -1).sum(1)
    np.testing.assert_allclose(first, p * scipy.stats.norm(table[0], 1).pdf(0.7) / np.exp(want))


def test_memory_does_not_grow_with_the_number_of_terms():
    def bytes_of(num_variables):
        model, theta, x, _ = separate_bits(num_variables)
        program = jax.jit(jax.grad(model.log_evidence)).lower(theta, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    # 64 times the terms: z is 22 numbers and not 16, and each chunk leaves two numbers behind.
    assert bytes_of(22) < 1.6 * bytes_of(16)


def test_a_log_sum_keeps_nan_and_infinity():
    def total(rows):
        return float(log_sum(lambda chunk: jnp.asarray(rows)[chunk], len(rows)))

    inf, nan = np.inf, np.nan
    assert total([[-inf, -inf], [-inf, -inf]]) == -inf
    np.testing.assert_allclose(total([[-inf, -inf], [1.0, -inf]]), 1.0)
    np.testing.assert_allclose(total([[900.0, -inf], [-900.0, 900.0]]), 900 + np.log(2), rtol=1e-6)
    assert np.isnan(total([[0.0, nan], [1.0, 2.0]]))
    assert total([[0.0, inf], [1.0, 2.0]]) == inf


def test_too_many_terms_are_refused_and_the_rest_goes_on():
    model, theta, x, _ = separate_bits(31)
    assert MAX_TERMS < 2**31
    with pytest.raises(ValueError, match=r"at most 1,073,741,824 values of z .* got 2\^31"):
        model.log_evidence(theta, x)
    with pytest.raises(ValueError, match=r"at most 4,194,304 values to enumerate, got 2\^31"):
        model.posterior(theta, x)
    z = model.prior(theta).sample(seed=jax.random.key(0))
    log_p = model(theta).log_joint(x)(z)
    prior = np.where(z == 1, log_sigmoid(theta.logits), log_sigmoid(-theta.logits)).sum()
    likelihood = scipy.stats.norm(np.asarray(theta.likelihood) * z, 1).logpdf(x).sum()
    np.testing.assert_allclose(log_p, prior + likelihood, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.categorical(0, 3, None, None), "num_variables: expected an integer >= 1"),
        (lambda: models.categorical(2, 1, None, None), "num_values: expected an integer >= 2"),
        (lambda: models.bernoulli(2.0, None, None), "num_variables: expected an integer"),
        (lambda: deep_gaussian(0, 2), "latent_dim: expected an integer >= 1"),
        (lambda: deep_gaussian(2, 0), "dim: expected an integer >= 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def deep(latent_dim, dim, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (dim, latent_dim), (dim,), (dim, latent_dim), (dim,)
    return models.DeepGaussian(*(jnp.asarray(rng.normal(size=s) * 0.6) for s in shapes))


def test_the_layer_is_its_formula(x64):
    theta, z = deep(2, 3), np.array([0.4, -1.3])
    a, b, c, d = (np.asarray(leaf) for leaf in theta)
    x = np.array([0.2, -0.5, 1.0])
    activations = {"mean_activation": jnp.tanh, "log_variance_activation": jnp.sin}
    found = deep_gaussian(2, 3, **activations).likelihood(theta, jnp.asarray(z)).log_prob(x)
    variance = np.exp(np.sin(c @ z + d))
    want = scipy.stats.multivariate_normal(np.tanh(a @ z + b), np.diag(variance)).logpdf(x)
    np.testing.assert_allclose(found, want, rtol=1e-12)
    q = deep_gaussian(2, 3).likelihood(theta, jnp.asarray(z))
    variance = np.exp(6 * np.tanh((c @ z + d) / 6))
    want = scipy.stats.multivariate_normal(a @ z + b, np.diag(variance)).logpdf(x)
    np.testing.assert_allclose(q.log_prob(x), want, rtol=1e-12)


def test_moments_of_the_layer():
    # With identities: E[x] = b, Cov[x] = A A^T + diag(exp(d + |c|^2 / 2)).
    theta = deep(2, 2)
    model = deep_gaussian(2, 2, log_variance_activation=lambda u: u)

    def draw(key):
        key_z, key_x = jax.random.split(key)
        return model.likelihood(theta, model.prior(theta).sample(seed=key_z)).sample(seed=key_x)

    draws = np.asarray(quick_jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 40_000)))
    a, b, c, d = (np.asarray(leaf) for leaf in theta)
    products = (draws - b)[:, :, None] * (draws - b)[:, None]
    want = a @ a.T + np.diag(np.exp(d + 0.5 * (c**2).sum(1)))
    for got, true in ((draws, b), (products, want)):
        assert (np.abs(got.mean(0) - true) < 5 * got.std(0) / np.sqrt(len(got))).all()


def test_quadrature_of_a_linear_layer_is_the_linear_gaussian_evidence(x64):
    theta = deep(2, 3)._replace(log_variance_weight=jnp.zeros((3, 2)))
    model = deep_gaussian(2, 3, log_variance_activation=lambda u: u)
    linear = models.LinearGaussian(
        jnp.zeros(2), theta.mean_weight, theta.mean_bias, 0.5 * theta.log_variance_bias
    )
    exact = models.linear_gaussian(2, 3, "diagonal")
    x = jnp.array([[0.4, -0.2, 1.0], [3.0, 2.0, -1.0]])
    found = quick_jit(jax.vmap(lambda x: log_evidence_quadrature(model(theta), x, 100)))(x)
    want = quick_jit(jax.vmap(exact.log_evidence, (None, 0)))(linear, x)
    np.testing.assert_allclose(found, want, rtol=1e-12)
    # Its gradient too: it can train.
    x = x[0]

    def evidence(a):
        return log_evidence_quadrature(model(theta._replace(mean_weight=a)), x, 60)

    got = quick_jit(jax.grad(evidence))(theta.mean_weight)
    true = quick_jit(jax.grad(exact.log_evidence))(linear, x).loadings
    np.testing.assert_allclose(got, true, rtol=1e-9)


def test_quadrature_of_a_bent_layer_is_that_of_scipy(x64):
    theta = deep(1, 2, seed=3)
    model = deep_gaussian(1, 2, jnp.tanh)
    a, b, c, d = (np.asarray(leaf) for leaf in theta)

    def integrand(z, x):
        variance = np.exp(6 * np.tanh((c[:, 0] * z + d) / 6))
        log_x = -0.5 * ((x - np.tanh(a[:, 0] * z + b)) ** 2 / variance + np.log(variance)).sum()
        return np.exp(log_x - 0.5 * z**2) / (2 * np.pi) ** 1.5

    program = quick_jit(log_evidence_quadrature)
    for x in (np.array([0.3, -0.4]), np.array([2.0, 1.0])):
        want = np.log(scipy.integrate.quad(integrand, -10, 10, (x,), epsabs=1e-14, limit=200)[0])
        np.testing.assert_allclose(program(model(theta), x), want, rtol=1e-10)


def test_quadrature_in_two_dimensions_is_that_of_gauss_and_hermite(x64):
    theta = deep(2, 2, seed=4)
    model, x = deep_gaussian(2, 2, jnp.arctan), jnp.array([0.3, -0.4])
    nodes, mass = np.polynomial.hermite_e.hermegauss(120)
    z = jnp.asarray(np.stack([m.ravel() for m in np.meshgrid(nodes, nodes)], 1))
    density = jnp.exp(quick_jit(jax.vmap(lambda z: model.likelihood(theta, z).log_prob(x)))(z))
    want = np.log(np.outer(mass, mass).ravel() @ density / (2 * np.pi))
    program = quick_jit(log_evidence_quadrature, static_argnums=2)
    np.testing.assert_allclose(program(model(theta), x, 200), want, rtol=1e-8)
    half = program(model(theta), x, 100)
    np.testing.assert_allclose(program(model(theta), x, 200), half, rtol=1e-8)


def test_quadrature_refuses_what_has_no_small_continuous_z():
    model = deep_gaussian(4, 2)
    theta = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="expected z of K <= 3 real"):
        log_evidence_quadrature(model(theta), jnp.zeros(2))
    for name in ("mixture", "one_hot", "bits"):
        model, theta, x, *_ = CASES[name]()
        with pytest.raises(ValueError, match="expected z of K <= 3 real"):
            log_evidence_quadrature(model(theta), x[0])


def test_soft_clip_bounds_the_standard_deviation():
    model = deep_gaussian(1, 2)
    theta = model.init(jax.random.key(0))._replace(log_variance_bias=jnp.array([1e4, -1e4]))
    scale = model.likelihood(theta, jnp.zeros(1)).distribution.scale
    np.testing.assert_allclose(scale, [np.exp(3), np.exp(-3)], rtol=1e-6)  # 20.1 and 0.0498


def test_two_layer_density_is_its_equations_integrated():
    model = models.two_layer_gaussian(2, 2, 5)
    theta = model.init(jax.random.key(3))
    x = np.array([[0.3, -0.2], [1.1, 0.4], [-0.6, 0.9]], np.float32)
    nodes = np.linspace(-8, 8, 321)  # another rule than the library's, over another square
    z = np.stack([axis.ravel() for axis in np.meshgrid(nodes, nodes)], axis=1)
    weight, bias, (a, b, c, d) = jax.tree.map(np.asarray, theta)
    u = np.tanh(z @ weight.T + bias)
    mean, logs = u @ a.T + b, 6 * np.tanh((u @ c.T + d) / 6)
    log_prior = scipy.stats.norm.logpdf(z).sum(1)
    want = [
        scipy.special.logsumexp(
            log_prior + scipy.stats.norm.logpdf(one, mean, np.exp(logs / 2)).sum(1)
        )
        for one in x
    ] + 2 * np.log(nodes[1] - nodes[0])
    density = jax.vmap(lambda one: models.log_evidence_quadrature(model(theta), one, 240))
    np.testing.assert_allclose(quick_jit(density)(x), want, atol=1e-4)
