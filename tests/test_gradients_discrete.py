"""Gradients for any z and for discrete z: zero variances, the published toy, adapted controls."""

import functools
import itertools

import exact_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_tools import KEY, every_key, gradients_of, jit, on_problem
from jax.flatten_util import ravel_pytree

from lvm_jax import distributions, gradients
from lvm_jax.distributions import Bernoulli
from lvm_jax.guides import Guide
from lvm_jax.models import Model


def test_zero_at_an_exact_discrete_posterior(x64):
    names = "leave_one_out", "arm", "disarm", "rebar", "relax", "enumerated"
    phi = jnp.array([0.7, -1.2, 0.1])

    def joint(z):
        return Bernoulli(jnp.array([0.7, -1.2, 0.1])).log_prob(z) - 3.0

    def one(key):
        def slope(name):
            estimate = gradients.ESTIMATORS[name].estimate
            return jax.grad(lambda phi: estimate(key, joint, Bernoulli, phi, 3))(phi)

        return {name: slope(name) for name in names}

    for name, draws in jit(jax.vmap(one))(jax.random.split(KEY, 20)).items():
        assert np.abs(np.asarray(draws)).max() < 1e-12, name


def test_enumeration_has_no_noise_and_no_error(x64):
    for make in (exact_problems.mixture, exact_problems.bits, exact_problems.one_hot):
        problem = make()
        run = on_problem(gradients.enumerated(), problem)
        first, second = (run(jax.random.key(seed)) for seed in (0, 1))
        exact = jit(jax.grad(problem.elbo, (0, 1)))(problem.theta, problem.phi, problem.x)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(first[1], ravel_pytree(exact[0])[0], atol=1e-12)
        np.testing.assert_allclose(first[2], ravel_pytree(exact[1])[0], atol=1e-12)


def test_enumeration_ignores_values_without_mass(x64):
    values = jnp.arange(3)

    def guide(phi):
        return distributions.Table(
            jnp.where(values == 2, -jnp.inf, jax.nn.log_sigmoid(phi)), values
        )

    phi = jnp.array([0.0, 0.0, 0.0])  # two values of mass 1/2
    for there in (-jnp.inf, 3.0):  # whatever the density of the third is

        def joint(z, there=there):
            return jnp.where(z == 2, there, 1.0 * z)

        value, slope = jax.value_and_grad(
            lambda phi, joint=joint: gradients.enumerated()(KEY, joint, guide, phi, 1)
        )(phi)
        np.testing.assert_allclose(value, 0.5 + np.log(2), rtol=1e-12)
        # d/dl of m (log p - log m) with m = sigmoid(l) = 1/2: m (1 - m) (log p - log m - 1)
        by_hand = [0.25 * (np.log(2) - 1), 0.25 * np.log(2), 0.0]
        np.testing.assert_allclose(slope, by_hand, rtol=1e-12)


def test_straight_through_is_exact_for_a_linear_density(x64):
    slope = jnp.array([1.5, -0.4, 0.8])
    phi = jnp.array([0.3, -1.0, 0.6])

    def joint(z):
        return slope @ z

    draws = every_key(gradients.straight_through(), joint, Bernoulli, phi, 10, 2)
    exact = jax.grad(lambda phi: gradients.enumerated()(KEY, joint, Bernoulli, phi, 1))(phi)
    np.testing.assert_allclose(draws, np.broadcast_to(exact, draws.shape), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.7])
def test_relaxed_gradients_are_their_formula_draw_by_draw(x64, temperature):
    # log p = c b: the soft bits are s = sigmoid((l + noise) / temperature), of slope s (1 - s) / t.
    slope, phi, size = np.array([1.5, -0.4, 0.8]), np.array([0.3, -1.0, 0.6]), 5
    noise = np.asarray(jax.random.logistic(KEY, (size, 3), jnp.float64))
    soft = 1 / (1 + np.exp(-(phi[None] + noise) / temperature))
    mean = 1 / (1 + np.exp(-phi))
    of_entropy = -phi * mean * (1 - mean)
    expected = slope * (soft * (1 - soft)).mean(0) / temperature + of_entropy
    entropy = float(Bernoulli(jnp.asarray(phi)).entropy())
    hard = phi[None] + noise > 0
    for make, bits in ((gradients.concrete, soft), (gradients.straight_through, hard)):
        value, found = jax.value_and_grad(
            lambda phi, make=make: make(temperature)(
                KEY, lambda z: jnp.asarray(slope) @ z, Bernoulli, phi, size
            )
        )(jnp.asarray(phi))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        np.testing.assert_allclose(value, (bits @ slope).mean() + entropy, rtol=1e-10)


def test_the_control_of_rebar_is_the_soft_log_weight():
    control = gradients.rebar_control(0.4, 0.7)
    z = jnp.array([0.3, -0.8])
    found = control(lambda b: 2 * b[0] - 3 * b[1] ** 2, jax.nn.sigmoid, z)
    soft = 1 / (1 + np.exp(-np.asarray(z) / 0.4))
    np.testing.assert_allclose(found, 0.7 * (2 * soft[0] - 3 * soft[1] ** 2), rtol=1e-5)


# The published toy: E[(b - t)^2], b ~ Bernoulli(1/2).
@functools.cache
def toy(name, target):
    """Gradients for the logit at 0, the entropy cancelled; as if the square were the ELBO."""
    estimate = {
        "reinforce": gradients.score_function(),
        "arm": gradients.arm(),
        "disarm": gradients.disarm(),
    }[name]

    def one(key):
        def surrogate(phi):
            still = Bernoulli(jax.lax.stop_gradient(phi))
            return estimate(
                key, lambda b: ((b - target) ** 2).sum() + still.log_prob(b), Bernoulli, phi, 1
            )

        return jax.grad(surrogate)(jnp.zeros(1))[0]

    return np.asarray(jit(jax.vmap(one))(jax.random.split(KEY, 200_000)))


@pytest.mark.parametrize(
    "target, gradient, reinforce, arm", [(0.45, 0.025, 0.015939, 2.083e-4), (0.499, 5e-4, 0.015625, 8.33e-8)]
)  # fmt: skip
def test_toy_variances_are_the_published_ones(x64, target, gradient, reinforce, arm):
    # REINFORCE takes two values, one for each b, with probability 1/2 each: no sampling error.
    first, second = np.unique(toy("reinforce", target).round(12))
    np.testing.assert_allclose((first + second) / 2, gradient, rtol=1e-8)
    np.testing.assert_allclose(((first - second) / 2) ** 2, reinforce, rtol=1e-4)
    # ARM is 4 gradient |u - 1/2|: check its mean and variance within 5 standard errors.
    draws = toy("arm", target)
    squares = (draws - gradient) ** 2
    assert abs(draws.mean() - gradient) < 5 * np.sqrt(arm / draws.size)
    assert abs(squares.mean() - arm) < 5 * squares.std() / np.sqrt(draws.size) + 1e-3 * arm
    assert squares.std() / np.sqrt(draws.size) < 0.01 * arm
    # DisARM has no variance at all.
    np.testing.assert_allclose(toy("disarm", target), gradient, rtol=1e-8)


def test_disarm_is_arm_averaged_over_its_uniform():
    problem = exact_problems.bits()
    joint = problem.log_joint(problem.theta, problem.x)
    arm, disarm = (
        every_key(estimate, joint, problem.guide, problem.phi, 50_000, 1)
        for estimate in (gradients.arm(), gradients.disarm())
    )
    assert (disarm.var(0) < 0.98 * arm.var(0)).all()


def test_bias_of_concrete_shrinks_with_the_temperature_which_does_not_recompile():
    problem, traces = exact_problems.bits(), []

    @jit
    def mean_gradient(key, temperature):
        traces.append(None)
        estimate = gradients.concrete(temperature)
        run = gradients_of(
            estimate, lambda theta: problem.log_joint(theta, problem.x), problem.guide, 1
        )
        keys = jax.random.split(key, 100_000)
        out = jax.vmap(lambda key: run(problem.theta, problem.phi, key))(keys)
        flat = jnp.concatenate(out[1:], axis=1)
        return flat.mean(0), flat.std(0) / np.sqrt(100_000)

    exact = ravel_pytree(jax.grad(problem.elbo, (0, 1))(problem.theta, problem.phi, problem.x))[0]
    biases = []
    for seed, temperature in enumerate((1.0, 0.5, 0.25, 0.1)):
        mean, error = mean_gradient(jax.random.key(seed), temperature)
        biases.append(np.linalg.norm(mean - exact))
        assert np.linalg.norm(error) < 0.05
    # Each halving of the temperature removes at least a third of the bias.
    assert all(later < 0.67 * first for first, later in itertools.pairwise(biases)), biases
    assert biases[-1] < 0.2 * biases[0]  # about linear in the temperature
    assert len(traces) == 1


def test_a_good_baseline_lowers_the_variance_and_does_not_recompile():
    problem, traces = exact_problems.bits(), []
    joint = problem.log_joint(problem.theta, problem.x)

    @jit
    def moments(baseline):
        traces.append(None)

        def one(key):
            estimate = gradients.score_function(baseline=baseline)
            return jax.grad(lambda phi: estimate(key, joint, problem.guide, phi, 1))(problem.phi)

        draws = jax.vmap(one)(jax.random.split(KEY, 50_000))["logits"]
        return draws.mean(0), draws.var(0)

    plain, good = (
        moments(jnp.zeros(())),
        moments(problem.elbo(problem.theta, problem.phi, problem.x)),
    )
    error = np.sqrt((plain[1] + good[1]) / 50_000)
    assert (np.abs(plain[0] - good[0]) < 5 * error).all()
    assert (good[1] < 0.7 * plain[1]).all()
    assert len(traces) == 1


def controlled_variance(problem, key, parameters, num_keys):
    """Mean of `variance_objective` for REBAR at (log temperature, scale)."""
    control = gradients.rebar_control(jnp.exp(parameters[0]), parameters[1])
    objective = gradients.variance_objective(control)
    joint = problem.log_joint(problem.theta, problem.x)
    keys = jax.random.split(key, num_keys)
    return jax.vmap(lambda key: objective(key, joint, problem.guide, problem.phi, 1))(keys).mean()


@pytest.mark.parametrize("make", [exact_problems.bits, exact_problems.one_hot])
def test_variance_objective_is_the_squared_gradient(make):
    problem = make()
    joint = problem.log_joint(problem.theta, problem.x)
    estimate = gradients.variance_objective(gradients.rebar_control(0.5, 0.8))
    objective = jit(lambda key: estimate(key, joint, problem.guide, problem.phi, 3))(KEY)
    _, _, phi = on_problem(gradients.rebar(0.5, 0.8), problem, 3)(KEY)
    np.testing.assert_allclose(objective, phi @ phi, rtol=1e-5)


def test_variance_objective_adapts_temperature_and_scale():
    problem = exact_problems.bits()

    @jit
    def slope(key, parameters):
        return jax.value_and_grad(lambda p: controlled_variance(problem, key, p, 2_000))(parameters)

    parameters = start = jnp.array([1.0, 0.0])  # scale 0: no control, REINFORCE
    for step in range(60):
        move = slope(jax.random.key(step), parameters)[1]
        parameters = parameters - 0.1 * move / (1 + jnp.linalg.norm(move))
    before, after = (np.mean([slope(jax.random.key(s), p)[0] for s in range(100, 110)])
                     for p in (start, parameters))  # fmt: skip
    assert parameters[1] > 0.5  # the relaxed density is a control worth having
    assert after < 0.5 * before


def test_sleep_climbs_minus_the_forward_kl():
    # z ~ N(1/2, 1), x | z ~ N(2 z, s^2), q(z | x) = N(a x + b, exp(2 c)): E log q in closed form.
    theta = jnp.array(0.7)
    model = Model(
        lambda key: theta,
        lambda theta: distributions.normal(jnp.array([0.5]), jnp.ones(1)),
        lambda theta, z: distributions.normal(2 * z, theta[None]),
    )
    guide = Guide(
        lambda key: None,
        lambda phi, x: distributions.normal(phi[0] * x + phi[1], jnp.exp(phi[2])[None]),
    )

    def exact(phi):
        a, b, c = phi
        mean, variance = 0.5 - a * 1.0 - b, (1 - 2 * a) ** 2 + (a * theta) ** 2
        return -0.5 * (mean**2 + variance) * jnp.exp(-2 * c) - c - 0.5 * jnp.log(2 * jnp.pi)

    phi, num_keys = jnp.array([0.3, -0.2, 0.1]), 40_000

    def one(key):
        return jax.value_and_grad(
            lambda theta, phi: gradients.sleep(key, model(theta), guide(phi), 2), (0, 1)
        )(theta, phi)

    value, (theta_slope, slope) = jit(jax.vmap(one))(jax.random.split(KEY, num_keys))
    error = slope.std(0) / np.sqrt(num_keys)
    truth = jax.grad(exact)(phi)
    assert (np.abs(slope.mean(0) - truth) < 5 * error).all()
    assert 5 * np.linalg.norm(error) < 0.1 * np.linalg.norm(truth)
    assert abs(value.mean() - exact(phi)) < 5 * value.std() / np.sqrt(num_keys)
    assert (theta_slope == 0).all()

    # The exact posterior is the maximum.
    gain = 2 / (4 + theta**2)
    best = jnp.array([gain, 0.5 - gain, 0.5 * jnp.log(theta**2 / (4 + theta**2))])
    np.testing.assert_allclose(jax.grad(exact)(best), np.zeros(3), atol=1e-5)
