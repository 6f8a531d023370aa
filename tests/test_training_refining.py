"""Training through local steps, where these reach the exact posterior: the ELBO is then log p(x)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from deep_cases import moved
from training_cases import KEY, MODEL, data, epoch_order

from lvm_jax import distributions, gradients, guides, training
from lvm_jax.training.step import Keys

FAMILY = guides.full_rank(2)
X = data(30)
RATE = 0.05


def place(family):
    return guides.linear(family, 3)


def refined(num_steps):
    return guides.refined(FAMILY, place, guides.cubature_elbo, optax.sgd(0.1), num_steps)


START = training.Parameters(
    moved(MODEL.init(KEY), size=0.2), moved(place(FAMILY).init(KEY), size=0.2)
)


def fit(guide, num_epochs=1, **options):
    """One step an epoch, on all rows."""

    def pair(params):
        p = MODEL(params.theta)
        return p, guide(p, params.phi)

    settings = {"num_samples": 3, "optimizer": optax.sgd(RATE), "batch_size": len(X)}
    return training.fit(KEY, pair, START, X, num_epochs=num_epochs, **settings | options)


def mean_log_evidence(theta):
    return jax.vmap(MODEL.log_evidence, (None, 0))(theta, jnp.asarray(X)).mean()


def test_steps_to_the_posterior_climb_log_p_itself():
    """No noise of draws in the bound, nor in theta's gradient, that of log p: q follows theta."""
    found = fit(refined(300), estimate=gradients.reparameterized(), num_epochs=3)
    theta, exact = START[0], jax.jit(jax.value_and_grad(mean_log_evidence))
    for bound in found.history.bound:
        log_p, slope = exact(theta)
        assert bound == pytest.approx(float(log_p), abs=1e-4)
        theta = jax.tree.map(lambda leaf, by: leaf + RATE * by, theta, slope)
    for one, want in zip(found.p.theta, theta, strict=True):
        np.testing.assert_allclose(one, want, atol=1e-4)


def test_local_steps_equal_those_of_the_refined_guide():
    """The gradient of the ELBO of the refined q, in theta and in its start, through the steps."""
    guide = refined(2)
    found = fit(guide, estimate=gradients.reparameterized())
    keys = Keys(*jax.random.split(KEY, 5))
    noise = jax.random.split(jax.random.fold_in(keys.noise, 0), len(X))
    rows = jnp.asarray(X)[epoch_order(keys.order, 0, len(X))]

    @jax.jit
    def elbo(parameters):
        theta, start = parameters

        def one(key, x):
            q = guide(MODEL(theta), start)(x)
            z = q.sample(seed=key, sample_shape=(3,))
            log_joint = jax.vmap(
                lambda z: MODEL.prior(theta).log_prob(z) + MODEL.likelihood(theta, z).log_prob(x)
            )(z)
            return (log_joint - jax.vmap(q.log_prob)(z)).mean()

        return jax.vmap(one)(noise, rows).mean()

    value, slope = jax.value_and_grad(elbo)(START)
    assert found.history.bound[0] == pytest.approx(float(value), abs=1e-4)
    moved_by = jax.tree.map(lambda new, old: (new - old) / RATE, found.params, START)
    for one, want in zip(jax.tree.leaves(moved_by), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-3, atol=1e-4)


def test_a_changed_objective_keeps_its_true_bound_beside_it():
    """A KL of weight 2 from the refined q lies below the ELBO of the same q by KL(q || prior)."""
    found = fit(refined(300), estimate=training.kl_warmup(2.0), num_samples=2_000)
    theta = START.theta
    assert found.history.bound[0] == pytest.approx(float(mean_log_evidence(theta)), abs=1e-4)

    def kl(x):
        return distributions.kl_divergence(MODEL.posterior(theta, x), MODEL.prior(theta))

    want = jax.vmap(kl)(jnp.asarray(X)).mean()
    # 60,000 draws of log q - log p, which spread by about 1 around KL.
    gap = found.history.bound[0] - found.history.objective[0]
    assert gap == pytest.approx(float(want), abs=5 / 60_000**0.5)
