"""Distributions of distrax, NumPyro and TFP, rebuilt from their parameters at each use."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import quick_jit

from lvm_jax import bounds, distributions, evidence, gradients, weights
from lvm_jax._core.support import BITS, REAL
from lvm_jax.distributions import adapted, base, kinds

# What the other packages warn of.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Explicitly requested dtype"),
]
KEY = jax.random.key(5)
LOC = jnp.array([0.5, -1.0, 2.0])
SCALE = jnp.array([0.4, 1.3, 0.8])
LOGITS = jnp.array([[0.3, -1.0, 0.8], [1.5, 0.0, -0.4]])
Z = jnp.array([0.1, 0.2, 0.3])


@pytest.fixture(autouse=True)
def broadcasts():
    """The other packages need them."""
    with jax.numpy_rank_promotion("allow"):
        yield


def distrax_families():
    distrax = pytest.importorskip("distrax")
    return {
        "normal": lambda m, s: distrax.Independent(distrax.Normal(m, s), 1),
        "full": lambda m, s: distrax.MultivariateNormalDiag(m, s),
        "label": lambda logits: distrax.Categorical(logits=logits),
        "labels": lambda logits: distrax.Independent(distrax.Categorical(logits=logits), 1),
        "rows": lambda logits: distrax.Independent(distrax.OneHotCategorical(logits=logits), 1),
        "bits": lambda logits: distrax.Independent(distrax.Bernoulli(logits=logits), 1),
        "gamma": lambda a, b: distrax.Independent(distrax.Gamma(a, b), 1),
    }


def numpyro_families():
    numpyro = pytest.importorskip("numpyro.distributions")
    return {
        "normal": lambda m, s: numpyro.Normal(m, s).to_event(1),
        "full": lambda m, s: numpyro.MultivariateNormal(m, scale_tril=jnp.diag(s)),
        "label": lambda logits: numpyro.Categorical(logits=logits),
        "labels": lambda logits: numpyro.Categorical(logits=logits).to_event(1),
        "bits": lambda logits: numpyro.Bernoulli(logits=logits).to_event(1),
        "gamma": lambda a, b: numpyro.Gamma(a, b).to_event(1),
        "counts": lambda rate: numpyro.Poisson(rate).to_event(1),
    }


def tfp_families():
    tfd = pytest.importorskip("tensorflow_probability.substrates.jax").distributions
    return {
        "normal": lambda m, s: tfd.Independent(tfd.Normal(m, s), 1),
        "full": lambda m, s: tfd.MultivariateNormalDiag(m, s),
        "label": lambda logits: tfd.Categorical(logits=logits),
        "labels": lambda logits: tfd.Independent(tfd.Categorical(logits=logits), 1),
        "rows": lambda logits: tfd.Independent(tfd.OneHotCategorical(logits=logits), 1),
        "bits": lambda logits: tfd.Independent(tfd.Bernoulli(logits=logits), 1),
        "gamma": lambda a, b: tfd.Independent(tfd.Gamma(a, b), 1),
        "counts": lambda rate: tfd.Independent(tfd.Poisson(rate), 1),
    }


PACKAGES = {"distrax": distrax_families, "numpyro": numpyro_families, "tfp": tfp_families}
PARAMS = {
    "normal": (LOC, SCALE), "full": (LOC, SCALE), "gamma": (SCALE, SCALE), "counts": (SCALE,),
    "label": (LOGITS[0],), "labels": (LOGITS,), "rows": (LOGITS,), "bits": (LOC,),
}  # fmt: skip
SHAPES = {"label": (), "labels": (2,), "rows": (2, 3)}
CONTINUOUS = ("normal", "full", "gamma")
FINITE = ("label", "labels", "rows")
each_package = pytest.mark.parametrize("package", PACKAGES)
each_case = pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in PACKAGES for name in PARAMS
     if name not in {"distrax": ("counts",), "numpyro": ("rows",)}.get(package, ())],
)  # fmt: skip


def build(package, name):
    return adapted(PACKAGES[package]()[name], *PARAMS[name])


@each_case
def test_draws_and_densities_are_those_of_the_package(package, name):
    q, size = build(package, name), SHAPES.get(name, (3,))

    def numbers(key):
        draws, foreign = q.sample(seed=key, sample_shape=(7,)), q.build()
        log_q = q.log_prob(draws[0]), foreign.log_prob(draws[0])
        if name in FINITE:
            return draws, log_q, None
        mean = foreign.mean
        return draws, log_q, (q.mean(), mean() if callable(mean) else mean)

    draws, (found, want), means = quick_jit(numbers)(KEY)
    assert draws.shape == (7, *size)
    assert name != "normal" or q.sample(seed=KEY).shape == size
    assert found.shape == ()
    np.testing.assert_array_equal(found, want)
    if name not in FINITE:
        np.testing.assert_array_equal(*means)
    weights.check_log_prob(q)


@each_case
def test_what_it_is_is_read_from_its_type(package, name):
    q = build(package, name)
    assert distributions.is_discrete(q) == (name not in CONTINUOUS)
    want = {"any"} | ({"reparameterized"} if name in CONTINUOUS else set())
    assert kinds.latent_kinds(q) == want | ({"finite"} if name in FINITE else set())
    support = base.data_support(q)
    wanted = {"rows": BITS, "bits": BITS, "label": support, "labels": support}.get(name, REAL)
    assert support == wanted
    if name in ("label", "labels"):
        assert (support.low, support.high, support.step) == (0.0, 2.0, 1.0)
    values = distributions.support(q)
    if name in FINITE:
        assert values.shape == (3 if name == "label" else 9, *SHAPES[name])
        values = values.astype(jax.eval_shape(lambda: q.sample(seed=KEY)).dtype)
        log_q = quick_jit(jax.vmap(q.log_prob))(values)
        np.testing.assert_allclose(np.exp(log_q).sum(), 1.0, rtol=1e-5)
    else:
        assert values is None
    assert not base.has_sample_and_log_prob(q)


@each_package
def test_normals_have_our_closed_forms(package):
    q, p = build(package, "normal"), distributions.normal(LOC, SCALE)
    np.testing.assert_array_equal(distributions.gaussian_parts(q)[0], LOC)
    np.testing.assert_array_equal(distributions.entropy(q), p.entropy())
    other = distributions.normal(jnp.zeros(3), jnp.ones(3))
    kl = distributions.kl_divergence(q, other)
    np.testing.assert_array_equal(kl, distributions.kl_divergence(p, other))
    np.testing.assert_allclose(kinds.factors(q)(Z).sum(), p.log_prob(Z), rtol=1e-6)
    assert kinds.type_name(q) == "Independent(Normal)"


@each_package
@pytest.mark.parametrize("name", ["normal", "full"])
def test_no_parameters_are_kept(package, name):
    """q crosses grad, stop_gradient, jit, vmap and scan with its own parameters, and no others."""
    make = PACKAGES[package]()[name]

    def live(params):
        return adapted(make, *params).log_prob(Z)

    def frozen(params):
        return jax.lax.stop_gradient(adapted(make, *params)).log_prob(Z)

    def by_hand(loc, scale):
        white = (Z - loc) / scale
        return (-0.5 * white**2 - jnp.log(scale) - 0.5 * np.log(2 * np.pi)).sum()

    slopes = jax.grad(live)((LOC, SCALE))
    white = (Z - LOC) / SCALE
    np.testing.assert_allclose(slopes[0], white / SCALE, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes[1], (white**2 - 1) / SCALE, rtol=1e-5, atol=1e-6)
    assert not any(leaf.any() for leaf in jax.grad(frozen)((LOC, SCALE)))

    first, second = adapted(make, LOC, SCALE), adapted(make, LOC + 1, 2 * SCALE)
    program = jax.jit(lambda q: q.log_prob(Z))
    np.testing.assert_allclose(program(first), by_hand(LOC, SCALE), rtol=1e-5)
    np.testing.assert_allclose(program(second), by_hand(LOC + 1, 2 * SCALE), rtol=1e-5)
    assert program._cache_size() == 1
    out = jax.jit(lambda loc, scale: adapted(make, loc, scale))(LOC + 1, 2 * SCALE)
    np.testing.assert_allclose(out.log_prob(Z), by_hand(LOC + 1, 2 * SCALE), rtol=1e-5)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), first, second)
    rows = jax.vmap(lambda q: q.log_prob(Z))(both)
    np.testing.assert_allclose(rows, [program(first), program(second)], rtol=1e-5)
    carried = jax.lax.scan(
        lambda q, _: (jax.tree.map(lambda leaf: 2 * leaf, q), None), first, length=2
    )[0]
    np.testing.assert_allclose(carried.log_prob(Z), by_hand(4 * LOC, 4 * SCALE), rtol=1e-5)


@each_package
def test_the_other_package_may_broadcast_where_it_is_forbidden(package):
    with jax.numpy_rank_promotion("raise"):
        q = build(package, "gamma")
        z = q.sample(seed=KEY, sample_shape=(2,))
        assert jnp.isfinite(jax.vmap(q.log_prob)(z)).all()
        q.mean()


def test_equal_functions_share_a_program():
    families = [numpyro_families()["normal"] for _ in range(2)]
    left, right = (adapted(make, LOC, SCALE) for make in families)
    assert families[0] is not families[1]
    assert jax.tree.structure(left) == jax.tree.structure(right)


@each_package
def test_an_elbo_is_trained_by_reparameterized_gradients(package):
    make = PACKAGES[package]()["normal"]
    target = distributions.normal(LOC, SCALE)

    def guide(phi):
        return adapted(make, phi["loc"], jnp.exp(phi["log_scale"]))

    def loss(phi, key):
        estimate = gradients.reparameterized()
        return -estimate(key, target.log_prob, guide, phi, 32)

    optimiser = optax.adam(0.05)

    @jax.jit
    def train(phi):
        def step(state, key):
            phi, inner = state
            value, slope = jax.value_and_grad(loss)(phi, key)
            change, inner = optimiser.update(slope, inner)
            return (optax.apply_updates(phi, change), inner), value

        return jax.lax.scan(step, (phi, optimiser.init(phi)), jax.random.split(KEY, 400))

    (phi, _), losses = train({"loc": jnp.zeros(3), "log_scale": jnp.zeros(3)})
    np.testing.assert_allclose(phi["loc"], LOC, atol=0.1)
    np.testing.assert_allclose(jnp.exp(phi["log_scale"]), SCALE, rtol=0.1)
    assert losses[-20:].mean() < losses[:20].mean() - 1


@each_package
def test_labels_are_enumerated_and_evidence_is_measured(package):
    q = build(package, "labels")
    log_joint = lambda z: distributions.categorical(LOGITS).log_prob(z) - 2.0  # noqa: E731

    @quick_jit
    def answers(key):
        return (
            gradients.enumerated()(key, log_joint, lambda phi: q, None, 1),
            evidence.importance(key, log_joint, q, 50).log_evidence,
            bounds.elbo(weights.log_weights(key, log_joint, q, 5)),
        )

    np.testing.assert_allclose(answers(KEY), [-2.0] * 3, atol=1e-5)


def test_a_bijector_of_distrax_learns_through_its_parameters():
    distrax = pytest.importorskip("distrax")

    def make(loc, scale):
        base = distrax.MultivariateNormalDiag(loc, scale)
        return distrax.Transformed(base, distrax.Block(distrax.Tanh(), 1))

    def by_hand(loc, scale):
        normal = distributions.normal(loc, scale).log_prob(jnp.arctanh(Z))
        return normal - jnp.log1p(-(Z**2)).sum()

    q = adapted(make, LOC, SCALE)
    assert kinds.latent_kinds(q) == {"any", "reparameterized"}
    np.testing.assert_allclose(q.log_prob(Z), by_hand(LOC, SCALE), rtol=1e-5)
    found = jax.grad(lambda q: q.log_prob(Z))(q).params
    want = jax.grad(by_hand, (0, 1))(LOC, SCALE)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def refused(error, words, make, *params):
    with pytest.raises(error, match=words):
        adapted(make, *params)


def test_what_cannot_be_adapted_is_refused():
    numpyro = pytest.importorskip("numpyro.distributions")
    refused(
        TypeError,
        "make: expected a function of the 0 params .*, got Normal; call",
        numpyro.Normal(0.0, 1.0),
    )
    refused(TypeError, r"make: .* of the 3 params given .* got <lambda>\(a\)", lambda a: a, 1, 2, 3)
    refused(TypeError, "make: .* got one that returns builtins.int; return", lambda a: 3, LOC)
    words = r"make: expected a distribution of one z, got numpyro.Normal with a batch of shape \(3,\); .*to_event"
    refused(ValueError, words, numpyro.Normal, LOC, SCALE)
    refused(ValueError, "parameters: no such scale", bad, LOC)
    inside = functools.partial(lambda scale, loc: numpyro.Normal(loc, scale).to_event(1))
    for make, name in (
        (lambda scale: lambda loc: inside(scale, loc), "scale"),
        (lambda scale: functools.partial(inside, scale), "an argument of functools.partial"),
        (lambda scale: lambda loc, s=scale: inside(s, loc), "a default"),
        (lambda scale: held(lambda loc: inside(scale, loc)), "function"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"closes over {name}, a traced array")):
            jax.grad(lambda scale, make=make: adapted(make(scale), LOC).log_prob(Z))(SCALE)
    q = adapted(held(lambda loc: inside(SCALE, loc)), LOC)  # a constant may stay
    np.testing.assert_allclose(
        q.log_prob(Z), distributions.normal(LOC, SCALE).log_prob(Z), rtol=1e-6
    )


def bad(loc):
    raise ValueError("parameters: no such scale")


def held(function):
    def make(loc):
        return function(loc)

    return make


def test_distributions_of_distrax_are_read_as_they_are():
    distrax = pytest.importorskip("distrax")
    q = distrax.Independent(distrax.Normal(LOC, SCALE), 1)
    assert kinds.latent_kinds(q) == {"any", "reparameterized"}
    np.testing.assert_array_equal(distributions.gaussian_parts(q)[1], jnp.diag(SCALE))
    assert not base.has_sample_and_log_prob(q)
    rows = distrax.Independent(distrax.OneHotCategorical(logits=LOGITS, dtype=float), 1)
    assert kinds.latent_kinds(rows) == {"any", "finite", "relaxable"}
    assert distributions.support(rows).shape == (9, 2, 3)
    box = distrax.Independent(distrax.Uniform(LOC, LOC + SCALE), 1)
    np.testing.assert_array_equal(distributions.flatten(box).log_prob(LOC), box.log_prob(LOC))
    gamma = distributions.Independent(distrax.Gamma(SCALE, SCALE), 1)
    assert kinds.type_name(gamma) == "Independent(Gamma)"
    assert kinds.latent_kinds(gamma) == {"any", "reparameterized"}
    np.testing.assert_allclose(gamma.log_prob(Z), distrax.Gamma(SCALE, SCALE).log_prob(Z).sum())
    full = distrax.MultivariateNormalDiag(LOC, SCALE)
    assert kinds.latent_kinds(full) == {"any", "reparameterized"}
    bits = distrax.Independent(distrax.Bernoulli(logits=LOC), 1)
    assert base.data_support(bits) == BITS
    assert not distributions.is_reparameterized(bits)
