"""Objectives other than the bound, the reported bound, and the schedule of rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from deep_cases import moved
from model_cases import quick_jit
from training_cases import GUIDE, KEY, MODEL, data, fit

from lvm_jax import decomposition, gradients, training
from lvm_jax.distributions import normal

OBJECTIVES = {  # away from where they are the ELBO; for q and prior as in training_cases
    "annealed": training.kl_warmup(0.3),
    "free_bits": training.free_bits(20.0, "all"),
}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


@each_objective
def test_the_reported_bound_is_the_elbo_and_shows_what_is_not_finite(name):
    """In expectation over the draws, where the ELBO is known; and no NaN is masked."""
    theta, phi, x = moved(MODEL.init(KEY), size=0.3), moved(GUIDE.init(KEY), size=0.3), data()[0]
    num = 2_000

    @quick_jit
    def compute(theta, phi, x):
        def one(key):
            point = training.point(
                training.Separate(MODEL, GUIDE), training.Parameters(theta, phi), x
            )
            return jax.vmap(
                lambda key: OBJECTIVES[name](key, point, 2, jnp.int32(5)), axis_name="batch"
            )(key[None])

        joint, q = MODEL(theta).log_joint(x), GUIDE.posterior(phi, x)
        exact = decomposition.decompose_exactly(joint, q).elbo.value
        return jax.vmap(one)(jax.random.split(KEY, num)), exact

    found, exact = compute(theta, phi, x)
    bound, objective = np.asarray(found.bound, float), np.asarray(found.objective, float)
    assert abs(bound.mean() - exact) < 5 * bound.std() / np.sqrt(num) + 1e-4
    assert np.abs(objective - bound).max() > 0.01
    broken, _ = compute(theta, phi, jnp.asarray(x).at[0].set(jnp.nan))
    assert np.isnan(broken.bound).all()
    assert np.isnan(broken.objective).all()


def test_annealed_at_one_is_the_elbo_and_its_schedule_counts_steps():
    theta, phi, x = MODEL.init(KEY), GUIDE.init(KEY), data()[0]
    point = training.point(training.Separate(MODEL, GUIDE), training.Parameters(theta, phi), x)

    def terms(weight, step=0):
        return training.kl_warmup(weight)(KEY, point, 50, jnp.int32(step))

    ramp = optax.linear_schedule(0.0, 1.0, 10)

    @quick_jit
    def compute(theta, phi):
        joint = MODEL(theta).log_joint(x)
        want = gradients.reparameterized()(KEY, joint, lambda p: GUIDE.posterior(p, x), phi, 50)
        q = GUIDE.posterior(phi, x)
        z = q.sample(seed=KEY, sample_shape=(50,))
        likelihood = jax.vmap(lambda one: MODEL.likelihood(theta, one).log_prob(x))(z).mean()
        kl = jax.vmap(lambda one: q.log_prob(one) - MODEL.prior(theta).log_prob(one))(z).mean()
        ramped = [terms(ramp, step) for step in (0, 5, 10)]
        return terms(1.0), ramped, want, likelihood, kl

    whole, ramped, want, likelihood, kl = compute(theta, phi)
    np.testing.assert_allclose(whole, [want, want], rtol=1e-5)
    for found, beta in zip(ramped, (0.0, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(found, [likelihood - beta * kl, want], rtol=1e-5)


def test_history_holds_the_true_bound_beside_the_objective():
    """Without draws' noise: the warm-up at weight 0 lies above the bound by the KL divergence."""
    found = fit(estimate=training.kl_warmup(optax.linear_schedule(0.0, 1.0, 12)))
    gap = found.history.objective - found.history.bound
    assert (gap[:3] > 0).all()
    np.testing.assert_array_equal(found.history.objective[3:], found.history.bound[3:])


def test_free_bits_floor_each_dimension_of_the_minibatch_mean():
    mean = np.array([[0.2, 3.0], [0.6, -1.0]], np.float32)
    scale = np.array([[0.9, 0.3], [1.2, 0.5]], np.float32)
    prior_mean, x = np.array([0.5, -0.2], np.float32), data()[:2]
    theta = MODEL.init(KEY)._replace(prior_mean=jnp.array(prior_mean))
    kl = -np.log(scale) + 0.5 * (scale**2 + (mean - prior_mean) ** 2) - 0.5  # [n, k]
    floor = 0.3
    assert (kl.mean(0) < floor).any()
    assert (kl.mean(0) > floor).any()

    def run(group, minimum=floor):
        objective = training.free_bits(minimum, group)

        def one(key, mean, scale, x):
            guide = GUIDE._replace(posterior=lambda phi, x: normal(mean, scale))
            return objective(
                key,
                training.point(training.Separate(MODEL, guide), training.Parameters(theta, ()), x),
                3,
                jnp.int32(0),
            )

        keys = jax.random.split(KEY, 2)
        return jax.device_get(quick_jit(jax.vmap(one, axis_name="batch"))(keys, mean, scale, x))

    apart, together = run("dimension"), run("all", 2 * floor)
    likelihood = np.asarray(apart.bound) + kl.sum(1)
    np.testing.assert_allclose(
        apart.objective, likelihood - np.maximum(floor, kl.mean(0)).sum(), rtol=1e-5
    )
    np.testing.assert_allclose(together.bound, apart.bound, rtol=1e-5)
    want = likelihood - np.maximum(2 * floor, kl.sum(1).mean())
    np.testing.assert_allclose(together.objective, want, rtol=1e-5)
    np.testing.assert_allclose(
        run("dimension", 0.0).objective.mean(), apart.bound.mean(), rtol=1e-5
    )


def test_free_bits_without_a_closed_form_take_the_draws():
    """A q that is not Gaussian: the mean of log q - log p over the draws, here against its own draws."""

    class Logistic(tuple):
        def sample(self, *, seed, sample_shape=()):
            return jax.random.logistic(seed, (*sample_shape, 2))

        def log_prob(self, z):
            return (-z - 2 * jax.nn.softplus(-z)).sum()

    theta, x = MODEL.init(KEY), data()[0]
    guide = GUIDE._replace(posterior=lambda phi, x: Logistic())
    options = (
        training.point(training.Separate(MODEL, guide), training.Parameters(theta, ()), x),
        40,
        jnp.int32(0),
    )
    one = lambda key: training.free_bits(0.1, "all")(key, *options)  # noqa: E731

    @quick_jit
    def both(keys):
        joint, q = MODEL(theta).log_joint(x), lambda p: Logistic()
        want = gradients.reparameterized()(keys[0], joint, q, (), 40)
        return jax.vmap(one, axis_name="batch")(keys), want

    terms, want = both(jax.random.split(KEY, 1))
    np.testing.assert_allclose(terms.bound[0], want, rtol=1e-5)
    with pytest.raises(TypeError, match='product of Normals.*free_bits\\(minimum, "all"\\)'):
        training.free_bits(0.1)(KEY, *options)


def test_burda_stages_are_the_papers():
    """8 stages, 3^i epochs at 1e-3 * 10^(-i/7): 3,280 epochs that end at a rate of 1e-4."""
    schedule = training.burda_stages(8, steps_per_epoch=10)
    steps = np.array([0, 9, 10, 39, 40, 32_799, 10**6])
    stages = np.array([0, 0, 1, 1, 2, 7, 7])
    np.testing.assert_allclose([schedule(s) for s in steps], 1e-3 * 10 ** (-stages / 7), rtol=1e-6)
    assert training.burda_epochs(8) == 3280
    np.testing.assert_allclose(schedule(jnp.int32(32_799)), 1e-4, rtol=1e-6)
    assert float(training.burda_stages(1, 5)(jnp.int32(7))) == np.float32(1e-3)
