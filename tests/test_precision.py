"""No product of float32 is left to what a GPU or a TPU takes for float32: seen in the programs."""

from functools import partial

import guide_cases
import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from lvm_jax import (
    annealing,
    bounds,
    data,
    decomposition,
    diagnostics,
    distributions,
    em,
    evidence,
    gradients,
    guides,
    likelihoods,
    models,
    networks,
    precision,
    priors,
    training,
    weights,
)
from lvm_jax.compiling import BoundedJit
from lvm_jax.distributions import normal
from lvm_jax.distributions.bits import Bernoulli
from lvm_jax.distributions.normals import LowRankNormal
from lvm_jax.likelihoods.levels import CategoricalLevels
from lvm_jax.models.factor_analysis import expect, maximize
from lvm_jax.training import step
from lvm_jax.training.objective import as_objective

FULL, CHOSEN = {"HIGHEST"}, {"HIGH"}  # HIGH is what JAX makes of tensorfloat32
KEY = jax.random.key(0)
ELEMENTWISE = ("one_hot", "integers")  # models without a product


def products(function, *args):
    """The precisions of all products and convolutions in the program of function(*args)."""
    return precisions(jax.make_jaxpr(function)(*args).jaxpr)


def precisions(jaxpr):
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.add(name(equation.params["precision"]))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                found |= precisions(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
    return found


def is_program(value):
    return isinstance(value, ClosedJaxpr | Jaxpr)


def name(value):
    """Of one precision, or of the pair for both factors."""
    one = value[0] if isinstance(value, tuple) else value
    return getattr(one, "name", str(one))


@pytest.fixture
def run_programs(monkeypatch):
    """The precisions of all products in the programs that a host function runs, and their names."""
    programs, run = [], BoundedJit.__call__

    def watch(program, *args):
        jitted = jax.jit(program.function, static_argnums=program.static_argnums)
        found = precisions(jitted.trace(*args).jaxpr.jaxpr)
        programs.append((program.function.__name__, found))
        return run(program, *args)

    monkeypatch.setattr(BoundedJit, "__call__", watch)

    def seen(function):
        programs.clear()
        function()
        return {one for _, found in programs for one in found}, {name for name, _ in programs}

    return seen


def test_what_jax_does_by_itself_would_be_seen():
    x = jnp.ones((3, 3))
    assert products(lambda x: x @ x, x) == {"None"}
    assert products(lambda x: jax.lax.map(lambda row: x @ row, x), x) == {"None"}
    assert products(jax.grad(lambda x: precision.full(jnp.matmul)(x, x).sum()), x) == FULL


def joint_of(case):
    return case.model(case.theta).log_joint(case.x[0])


@pytest.mark.parametrize("case", model_cases.CASES)
def test_models(case):
    problem = model_cases.CASES[case]()
    z = jax.tree.map(lambda leaf: leaf[0], problem.z)

    def all_of_it(theta, x):
        q = problem.model.posterior(theta, x)
        draws, log_q = weights.sample_and_log_prob(KEY, q, 3)
        return problem.model.log_evidence(theta, x), jax.vmap(q.log_prob)(draws), log_q

    def joint(theta):
        return problem.model(theta).log_joint(problem.x[0])(z)

    expected = set() if case in ELEMENTWISE else FULL
    if case != "chain":  # whose exact answers are the test's
        assert products(all_of_it, problem.theta, problem.x[0]) == expected
    assert products(jax.value_and_grad(joint), problem.theta) == expected


@guide_cases.each_family
def test_guides(name):
    guide = guide_cases.mlp(guide_cases.FAMILIES[name])

    def draw(phi, x):
        q = guide.posterior(phi, x)
        z, log_q = weights.sample_and_log_prob(KEY, q, 3)
        return jax.vmap(q.log_prob)(z), log_q

    assert products(draw, guide.init(KEY), jnp.ones(guide_cases.X_DIM)) == FULL


def gaussian_parts(factor):
    """Of a low-rank normal: its covariance, and the divergence between two."""
    q = LowRankNormal(jnp.zeros(3), factor, jnp.ones(3))
    return q.entropy(), distributions.kl_divergence(q, q._replace(mean=jnp.ones(3)))


def factor_analysis_steps(rows):
    return maximize(rows, expect(rows, jnp.ones((3, 2)), jnp.ones(3)))


def linear_likelihood(z):
    model = models.linear_gaussian(2, 3)
    return model.likelihood(model.init(KEY), z).mean()


def deep_likelihood(z):
    model = models.deep_gaussian(2, 3)
    return model.likelihood(model.init(KEY), z).mean()


def linear_guide(x):
    guide = guides.linear(guides.mean_field(2), 3)
    return guide.posterior(guide.init(KEY), x).mean()


def mean_level(logits):
    return CategoricalLevels(logits).mean()


def own_encoder(x):
    """A network of the user's, in a guide."""
    guide = guides.amortized(guides.mean_field(1), lambda key: jnp.ones((2, 3)), jnp.matmul)
    return guide.posterior(guide.init(KEY), x).mean()


def convolutions(x):
    encoder, decoder = networks.conv_encoder((4, 4), 2), networks.conv_decoder(2, (4, 4))
    return decoder.apply(decoder.init(KEY), encoder.apply(encoder.init(KEY), x))


def bits_hessian(logits):
    """Of a compiled function, whose rules are traced after it."""
    return jax.hessian(jax.jit(lambda l: Bernoulli(l).log_prob(jnp.ones(80))))(logits)


def own_rate_and_distortion(key):
    """Of a likelihood of the user's."""
    model = models.Model(
        init=lambda key: jnp.ones((3, 2)),
        prior=lambda theta: normal(jnp.zeros(2), jnp.ones(2)),
        likelihood=lambda theta, z: normal(theta @ z, jnp.ones(3)),
    )
    guide, x = guides.shared(guides.mean_field(2)), np.ones((4, 3))
    theta, betas = jnp.ones((3, 2)), np.array([0.0, 1.0])
    point = decomposition.channel(key, model(theta), guide(guide.init(KEY)), x, 2)
    curve = decomposition.rate_distortion(
        key, model(theta), x, 2, betas=betas, transition=annealing.random_walk(), num_pilot=0
    )
    return point, curve


def finite_mean(key):
    """The mean of a q of finitely many values, exactly."""
    guide = guides.shared(guides.one_hot(1, 3))
    return diagnostics.posterior_means(key, guide(guide.init(KEY)), np.ones((2, 1)), 1)


ALGEBRA = [
    (gaussian_parts, jnp.ones((3, 2))),
    (factor_analysis_steps, jnp.ones((5, 3))),
    (linear_likelihood, jnp.ones(2)),
    (deep_likelihood, jnp.ones(2)),
    (linear_guide, jnp.ones(3)),
    (own_encoder, jnp.ones(3)),
    (convolutions, jnp.ones(16)),
    (bits_hessian, jnp.ones(80)),
    (mean_level, jnp.ones((4, 3))),
]


@pytest.mark.parametrize("function, at", ALGEBRA, ids=lambda v: getattr(v, "__name__", ""))
def test_functions(function, at):
    assert products(function, at) == FULL


def test_laplace():
    joint = joint_of(model_cases.full())

    def draw(z):
        q = guides.laplace(joint, z)
        return q.log_prob(z), q.sample(seed=KEY)

    assert products(draw, jnp.zeros(2)) == FULL


@pytest.mark.parametrize("function", [finite_mean, own_rate_and_distortion])
def test_host_functions(function, run_programs):
    assert run_programs(lambda: function(KEY))[0] == FULL


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_em(covariance_type, run_programs):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    made = []

    def fit():
        options = {"family": covariance_type, "max_steps": 1, "throw": False}
        made.append(em.fit(KEY, x, 2, **options).mixture)

    assert run_programs(fit) == (FULL, {"centres", "segment"})
    mixture = made[0]
    answers = (mixture.log_prob, mixture.responsibilities, mixture.assign, mixture.evaluate)
    assert run_programs(lambda: [answer(x) for answer in answers])[0] == FULL
    expected = FULL if covariance_type in ("full", "tied") else set()
    assert run_programs(lambda: mixture.sample(KEY, 3))[0] == expected
    for function in (lambda: mixture.log_joint(x[0]), lambda: mixture.covariances):
        assert products(function) == expected
    assert products(mixture.as_theta) == set()  # the factors as they are


def test_chains():
    """Their kinetic energy, blackjax's, is a product too."""
    q, joint = normal(jnp.zeros(2), jnp.ones(2)), joint_of(model_cases.full())
    plan = annealing.plan(annealing.sigmoid(4), annealing.hmc(2), num_pilot=4, adaptive=True)
    assert products(partial(evidence.annealed, KEY, joint, q, 4), plan) == FULL
    with jax.default_matmul_precision("tensorfloat32"):
        assert products(partial(evidence.annealed, KEY, joint, q, 4), plan) == FULL


def test_chains_leave_a_network_as_it_was_set():
    q, weight = normal(jnp.zeros(2), jnp.ones(2)), jnp.ones((2, 2))

    def joint(z):
        return -jnp.tanh(weight @ z).sum() - (z**2).sum()

    plan = annealing.plan(annealing.sigmoid(4), annealing.hmc(2))
    with jax.default_matmul_precision("tensorfloat32"):
        assert products(partial(evidence.annealed, KEY, joint, q, 4), plan) == FULL | CHOSEN


def test_thermodynamic_bound():
    reduce = bounds.thermodynamic([0.0, 0.3, 1.0])
    assert products(jax.grad(reduce), jnp.arange(4.0)) == FULL


def vae():
    """Of 80 bits, all in one pass."""
    decoder, encoder = networks.mlp(2, (4,), 80), networks.mlp(80, (4,), 4)
    model = models.deep_latent_gaussian(
        priors.standard_normal(2), decoder, likelihoods.bernoulli(80)
    )
    return model, guides.amortized(guides.mean_field(2), encoder.init, encoder.apply)


def update(model, guide):
    """A training step's program, on binarised rows."""
    optimizer = optax.adam(1e-3)
    program = step.Program(
        training.Separate(model, guide),
        as_objective(gradients.reparameterized(bounds.iwae)),
        2,
        optimizer,
        *(3, data.BINARIZATIONS["dynamic"].transform, None),
    )
    keys = step.Keys(*jax.random.split(KEY, len(step.Keys._fields)))
    state = step.initialize(program, keys, None)
    return lambda x: step.update(program, keys.noise, state, x)


@pytest.mark.parametrize("setting, seen", [("tensorfloat32", "HIGH"), ("default", "DEFAULT")])
def test_a_network_is_full_unless_the_setting_says_otherwise(setting, seen, run_programs):
    model, guide = vae()
    theta, phi, x = model.init(KEY), guide.init(KEY), np.ones((3, 80), np.float32)
    everything = (KEY, model(theta), guide(phi), x, 10)
    assert run_programs(lambda: evidence.evaluate(*everything))[0] == FULL
    assert products(update(model, guide), x) == FULL
    with jax.default_matmul_precision(setting):
        assert products(update(model, guide), x) == FULL | {seen}
        # The bits are algebra: the slope of their log-probability is full all the same.
        slope = jax.grad(lambda logits: Bernoulli(logits).log_prob(x[0]))
        assert products(slope, jnp.ones(80)) == FULL
        assert products(lambda z: model.likelihood(theta, z).logits, jnp.ones(2)) == {seen}
