"""No product of float32 is left to what a GPU or a TPU takes for float32: seen in the programs."""

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
    em,
    evidence,
    gradients,
    guides,
    likelihoods,
    models,
    networks,
    precision,
    priors,
    weights,
)
from lvm_jax.distributions import normal
from lvm_jax.em import compiling
from lvm_jax.training import step

FULL, CHOSEN = {"HIGHEST"}, {"HIGH"}  # HIGH is what JAX makes of tensorfloat32
KEY = jax.random.key(0)


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


def test_what_jax_does_by_itself_would_be_seen():
    x = jnp.ones((3, 3))
    assert products(lambda x: x @ x, x) == {"None"}
    assert products(lambda x: jax.lax.map(lambda row: x @ row, x), x) == {"None"}
    assert products(jax.grad(lambda x: precision.full(jnp.matmul)(x, x).sum()), x) == FULL


def joint_of(case):
    return models.log_joint(case.model, case.theta, case.x[0])


@pytest.mark.parametrize("case", model_cases.CASES)
def test_models(case):
    bed = model_cases.CASES[case]()
    z = jax.tree.map(lambda leaf: leaf[0], bed.z)

    def all_of_it(theta, x):
        q = bed.model.posterior(theta, x)
        draws, log_q = weights.draw_and_price(KEY, q, 3)
        return bed.model.log_evidence(theta, x), jax.vmap(q.log_prob)(draws), log_q

    def joint(theta):
        return models.log_joint(bed.model, theta, bed.x[0])(z)

    if case != "chain":  # whose exact answers are the test's
        assert products(all_of_it, bed.theta, bed.x[0]) <= FULL
    assert products(jax.value_and_grad(joint), bed.theta) <= FULL


@guide_cases.each_family
def test_guides(name):
    guide = guide_cases.mlp(guide_cases.FAMILIES[name])

    def draw(phi, x):
        q = guide.posterior(phi, x)
        z, log_q = weights.draw_and_price(KEY, q, 3)
        return jax.vmap(q.log_prob)(z), log_q

    assert products(draw, guide.init(KEY), jnp.ones(guide_cases.X_DIM)) == FULL


def test_laplace():
    joint = joint_of(model_cases.full())

    def draw(z):
        q = guides.laplace(joint, z)
        return q.log_prob(z), q.sample(seed=KEY)

    assert products(draw, jnp.zeros(2)) == FULL


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_em(covariance_type, monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    programs = []

    def watch(program, *args):
        found = precisions(program.jitted.trace(*args).jaxpr.jaxpr)
        programs.append((program.function.__name__, found))
        return run(program, *args)

    run = compiling.Program.__call__
    monkeypatch.setattr(compiling.Program, "__call__", watch)
    mixture = em.fit(KEY, x, 2, covariance_type=covariance_type, max_steps=1, throw=False).mixture
    assert dict(programs).keys() == {"centres", "start", "segment", "finish"}
    assert {one for _, found in programs for one in found} == FULL
    answers = (mixture.log_prob, mixture.responsibilities, mixture.assign, mixture.evaluate)
    assert products(lambda: [answer(x) for answer in answers]) == FULL
    assert products(mixture.log_joint, x[0]) <= FULL
    assert products(lambda key: mixture.sample(key, 3), KEY) <= FULL


def test_chains():
    """Their kinetic energy, blackjax's, is a product too."""
    q, joint = normal(jnp.zeros(2), jnp.ones(2)), joint_of(model_cases.full())
    plan = annealing.plan(annealing.sigmoid(4), annealing.hmc(2), num_pilot=4, adaptive=True)
    assert products(lambda key: evidence.annealed(key, joint, q, 4, plan), KEY) == FULL


def test_thermodynamic_bound():
    reduce = bounds.thermodynamic([0.0, 0.3, 1.0])
    assert products(jax.grad(reduce), jnp.arange(4.0)) == FULL


def vae():
    """Of 80 bits: as many as are priced in one pass."""
    decoder, encoder = networks.mlp(2, (4,), 80), networks.mlp(80, (4,), 4)
    model = models.deep_latent_gaussian(
        priors.standard_normal(2), decoder, likelihoods.bernoulli(80)
    )
    return model, guides.amortized(guides.mean_field(2), encoder.init, encoder.apply)


def update(model, guide):
    """A training step's program, on binarised rows."""
    optimizer = optax.adam(1e-3)
    program = step.Program(
        *(model, guide, gradients.reparameterized(bounds.iwae), None, 2, optimizer, 3),
        *(data.BINARIZATIONS["dynamic"].transform, None, None, None),
    )
    keys = step.Keys(*jax.random.split(KEY, len(step.Keys._fields)))
    state = step.initialize(program, keys, None)
    return lambda x: step.update(program, keys.noise, state, x)


def test_a_network_is_full_unless_the_setting_says_otherwise():
    model, guide = vae()
    theta, phi, x = model.init(KEY), guide.init(KEY), np.full((3, 80), 0.5, np.float32)
    assert products(lambda: evidence.evaluate(KEY, model, guide, theta, phi, x, 10)) == FULL
    assert products(update(model, guide), x) == FULL
    with jax.default_matmul_precision("tensorfloat32"):
        assert products(update(model, guide), x) == FULL | CHOSEN
        # The bits are algebra: their log-probability is full all the same.
        bits = model.likelihood(theta, jnp.ones(2))
        assert products(bits.log_prob, x[0]) <= FULL
        assert products(jax.grad(lambda l: type(bits)(l).log_prob(x[0])), bits.logits) == FULL
        assert products(lambda z: model.likelihood(theta, z).logits, jnp.ones(2)) == CHOSEN
