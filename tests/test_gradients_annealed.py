"""Bounds on annealed chains: learned dynamics, the side of the bound, and what training gains by it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from annealed_reference import expected_log_weight
from exact_problems import linear_gaussian
from gradient_tools import KEY, gradients_of, jit
from jax.flatten_util import ravel_pytree
from model_cases import quick_jit
from test_gradients_contract import TIGHT, Mean

from lvm_jax import annealing, bounds, distributions, gradients, guides, models, training
from lvm_jax.gradients import Annealable, Dynamics
from lvm_jax.weights import log_weights


def expected(problem, phi, theta=None):
    """The exact ELBO of the chains of an `Annealable`."""
    theta, moved = problem.theta if theta is None else theta, phi.dynamics
    return expected_log_weight(problem, theta, phi.q, moved.temperatures, moved.step_sizes)


def start(problem):
    """phi, in the precision of the moment, and phi -> q."""
    steps = Dynamics(jnp.array([0.4, -0.5, 0.2]), jnp.array([-1.2, -1.6, -0.9]))
    return Annealable(problem.phi, steps), lambda phi: problem.guide(phi.q)


def test_learned_dynamics_have_the_gradient_of_the_exact_bound():
    problem = linear_gaussian()
    phi, guide = start(problem)
    with jax.enable_x64(True):
        wide = linear_gaussian()
        value, slope = jit(jax.value_and_grad(lambda phi: expected(wide, phi)))(start(wide)[0])
        value, parts = float(value), [np.asarray(ravel_pytree(part)[0]) for part in slope]
    run = gradients_of(
        gradients.annealed_learned(), lambda theta: problem.log_joint(theta, problem.x), guide, 2
    )
    keys = jax.random.split(KEY, 60_000)
    values, _, slopes = jit(jax.vmap(lambda key: run(problem.theta, phi, key)))(keys)
    # q's four numbers, then the increments and the steps: each part held to a factor of 1.1.
    draws = np.split(np.asarray(slopes), [4], axis=1)
    for found, exact in ((values[:, None], np.array([value])), *zip(draws, parts, strict=True)):
        mean = Mean(exact)
        mean.add(found)
        assert mean.standard_errors_off < 5
        assert mean.size_error < TIGHT


def test_the_bound_lies_between_that_of_q_and_log_p(x64):
    problem = linear_gaussian()
    elbo, log_p = (
        problem.elbo(problem.theta, problem.phi, problem.x),
        problem.log_evidence(problem.theta, problem.x),
    )

    def of(step):
        betas = jnp.linspace(0, 1, 7)
        return expected_log_weight(problem, problem.theta, problem.phi, betas, jnp.full(6, step))

    still, short, good, wild = quick_jit(jax.vmap(of))(jnp.array([0.0, 0.1, 0.3, 2.0]))
    np.testing.assert_allclose(still, elbo, rtol=1e-12)
    assert elbo < short - 0.01 < good - 0.03 < log_p - 0.03
    assert wild < elbo


@pytest.mark.parametrize("shift", [0.0, -3.0, 120.0])
def test_temperatures_are_shares_of_the_increments_up_to_a_constant(shift):
    # Increments 1 : 2 : 5; in float32 exp(120) would overflow.
    increments = jnp.log(jnp.array([1.0, 2.0, 5.0])) + shift
    found = Dynamics(increments, jnp.log(jnp.array([0.1, 0.3, 0.2])))
    np.testing.assert_allclose(found.temperatures, [0, 1 / 8, 3 / 8, 1], rtol=1e-5)
    np.testing.assert_allclose(found.step_sizes, [0.1, 0.3, 0.2], rtol=1e-6)
    even = gradients.annealable(guides.shared(guides.mean_field(1)), 5, step_size=0.2)
    dynamics = even.init(KEY).dynamics
    np.testing.assert_allclose(dynamics.temperatures, np.arange(6) / 5, atol=1e-6)
    np.testing.assert_allclose(dynamics.step_sizes, np.full(5, 0.2), rtol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_options_reach_the_chains(learned, x64):
    problem = linear_gaussian()
    phi, guide = start(problem)
    options = {"temperatures": phi.dynamics.temperatures, "step_size": phi.dynamics.step_sizes}
    if learned:
        estimate = gradients.annealed_learned(bounds.iwae, refreshment=0.7)
    else:
        estimate = gradients.annealed(bounds.iwae, refreshment=0.7, **options)
    joint = problem.log_joint(problem.theta, problem.x)

    def both(key):
        log_w = annealing.unadjusted_log_weights(
            key, joint, guide(phi), 3, refreshment=0.7, **options
        )
        return estimate(key, joint, guide, phi, 3), bounds.iwae(log_w)

    np.testing.assert_allclose(*quick_jit(both)(KEY), rtol=1e-12)


def test_chains_that_stand_still_are_the_plain_weights(x64):
    problem = linear_gaussian()
    estimate = gradients.annealed(bounds.iwae, step_size=1e-12)
    joint, guide = (lambda theta: problem.log_joint(theta, problem.x)), problem.guide
    value, *slopes = quick_jit(gradients_of(estimate, joint, guide))(problem.theta, problem.phi)

    def plain(theta, phi):
        key = jax.random.split(KEY)[0]
        return bounds.iwae(log_weights(key, joint(theta), guide(phi), 4))

    want, parts = quick_jit(jax.value_and_grad(plain, (0, 1)))(problem.theta, problem.phi)
    np.testing.assert_allclose(value, want, rtol=1e-9)
    for found, part in zip(slopes, parts, strict=True):
        np.testing.assert_allclose(found, ravel_pytree(part)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["iwae", "renyi_minus_one"])
def test_the_gradient_is_the_slope_of_the_value(x64, name):
    # The draws are a smooth function of phi and theta: the mean slope is the slope of the mean.
    problem = linear_gaussian()
    phi, guide = start(problem)
    estimate = gradients.annealed_learned(bounds.BOUNDS[name].reduce)
    point, unravel = ravel_pytree((problem.theta, phi))
    along = jnp.cos(jnp.arange(point.size))

    def value(point):
        theta, phi = unravel(point)
        return estimate(KEY, problem.log_joint(theta, problem.x), guide, phi, 4)

    h = 1e-5
    slope, ends = quick_jit(
        lambda: (
            jax.jvp(value, (point,), (along,))[1],
            jax.lax.map(value, jnp.stack([point + h * along, point - h * along])),
        )
    )()
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("wide", [jnp.float32, jnp.float64])
def test_the_dtype_is_that_of_the_parameters(x64, wide):
    problem = linear_gaussian()
    guide = guides.shared(guides.mean_field(2))

    def run(theta, phi):
        return gradients.annealed(bounds.iwae, temperatures=np.array([0.0, 0.4, 1.0]))(
            KEY,
            problem.log_joint(theta, problem.x.astype(wide)),
            lambda phi: guide.posterior(phi, None),
            phi,
            3,
        )

    given = jax.tree.map(lambda leaf: leaf.astype(wide), (problem.theta, guide.init(KEY)))
    shapes = jax.eval_shape(jax.value_and_grad(run, (0, 1)), *given)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(wide)}


def correlated():
    """z ~ N(0, I_2), x | z ~ N(W z, I / 4) in 3 dimensions: a posterior of correlation -0.94."""
    problem = linear_gaussian()
    theta = {
        "mean": jnp.zeros(2),
        "weight": jnp.array([[1.0, 0.9], [0.8, 1.0], [-0.7, -0.6]]),
        "bias": jnp.zeros(3),
        "log_noise": jnp.full(3, jnp.log(0.5)),
    }
    model = models.Model(
        lambda key: (),
        lambda _: distributions.normal(jnp.zeros(2), jnp.ones(2)),
        lambda _, z: distributions.normal(theta["weight"] @ z, jnp.full(3, 0.5)),
    )
    return problem._replace(theta=theta), model


def test_training_closes_the_gap_that_a_mean_field_leaves():
    problem, model = correlated()
    family = guides.linear(guides.mean_field(2), 3, ["loc"])
    z, noise = jnp.split(jax.random.normal(KEY, (400, 5)), [2], axis=1)
    x = z @ problem.theta["weight"].T + 0.5 * noise

    def fit(guide, estimate):
        return training.fit(
            KEY, model, guide, x, estimate=estimate, num_samples=1, batch_size=100,
            optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 800)), num_epochs=200,
        )  # fmt: skip

    found = fit(gradients.annealable(family, 10), gradients.annealed_learned()).q.phi
    factor = jnp.linalg.inv(problem.posterior(problem.theta, x[0]).cholesky)
    precision = factor.T @ factor
    # The best product of normals has the precision's diagonal: log p - ELBO is the same for all x.
    best = 0.5 * (jnp.log(jnp.diagonal(precision)).sum() - jnp.linalg.slogdet(precision)[1])

    def gap(x):
        q = {"loc": family.posterior(found.q, x).mean(), "log_scale": found.q.offset.log_scale}
        here = problem._replace(x=x)
        return problem.log_evidence(problem.theta, x) - expected(here, found._replace(q=q))

    assert 0 < quick_jit(gap)(x[0]) < 0.3 * best


def test_refusals():
    problem = linear_gaussian()
    joint = problem.log_joint(problem.theta, problem.x)
    for options, message in (
        ({"step_size": 0.0}, "step_size: expected a finite number > 0, got 0.0"),
        ({"step_size": np.ones(3)}, r"step_size: expected one number or 4, .* got shape \(3,\)"),
        ({"refreshment": 0.0}, r"refreshment: expected a share in \(0, 1\], got 0.0"),
        (
            {"temperatures": np.array([0.0, 0.5])},
            "temperatures: expected to start at 0 and end at 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            gradients.annealed(**options)
    with pytest.raises(TypeError, match=r"phi: expected an Annealable, as gradients\.annealable"):
        gradients.annealed_learned()(KEY, joint, problem.guide, problem.phi, 2)
    phi = start(problem)[0]._replace(q=jnp.zeros(2))
    with pytest.raises(TypeError, match="annealed_learned: expected a reparameterised q"):
        gradients.annealed_learned()(KEY, joint, lambda phi: distributions.Bernoulli(phi.q), phi, 2)
    with pytest.raises(ValueError, match="num_temperatures: expected an integer >= 1, got 0"):
        gradients.annealable(guides.shared(guides.mean_field(2)), 0)
