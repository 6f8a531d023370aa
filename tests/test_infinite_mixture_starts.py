"""Training from several starts: steps by hand, the maximum of PPCA, and the choice of the best."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import ESTIMATE, GUIDE, KEY, MODEL, data

from experiments.infinite_mixture.starts import Steps, fit_starts
from lvm_jax import models, training
from lvm_jax.problems import linear_vae

STEPS = Steps(ESTIMATE, 2, optax.adam(0.05), batch_size=8, num_starts=3, num_records=3, length=2)


def run(watch=lambda key, p, q: (), on_record=lambda step, watched: None, **options):
    pair = training.Separate(MODEL, GUIDE)
    return fit_starts(KEY, pair, data(), STEPS._replace(**options), watch, on_record)


def by_hand(start):
    """theta and the bound of every step of one start, by a loop that shares the keys alone."""
    key_theta, key_phi, key_steps, _ = jax.random.split(KEY, 4)
    theta = MODEL.init(jax.random.split(key_theta, 3)[start])
    parameters = (theta, GUIDE.init(jax.random.split(key_phi, 3)[start]))
    optimizer, x, bounds = STEPS.optimizer, jnp.asarray(data()), []
    state = optimizer.init(parameters)

    @jax.jit
    def advance(parameters, state, key, rows):
        def one(parameters, key, row):
            theta, phi = parameters
            joint = MODEL(theta).log_joint(row)
            return ESTIMATE(key, joint, lambda phi: GUIDE.posterior(phi, row), phi, 2)

        def loss(parameters):
            keys = jax.random.split(key, 8)
            return -jax.vmap(one, (None, 0, 0))(parameters, keys, rows).mean()

        value, slope = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(slope, state, parameters)
        return value, optax.apply_updates(parameters, updates), state

    for index in range(6):
        key_batch, key_noise = jax.random.split(jax.random.fold_in(key_steps, index))
        rows = x[jax.random.randint(key_batch, (8,), 0, len(x))]
        value, parameters, state = advance(parameters, state, key_noise, rows)
        bounds.append(-float(value))
    return parameters[0], np.reshape(bounds, (3, 2)).mean(1)


def test_steps_are_those_of_a_loop_and_the_best_start_is_kept():
    records = []
    found = run(
        watch=lambda key, p, q: (p.theta.log_noise, q.phi.network.sum()),
        on_record=lambda step, watched: records.append((step, *watched)),
    )
    best = int(found.last_bounds.argmax())
    theta, bounds = by_hand(best)
    np.testing.assert_allclose(found.bound, bounds, rtol=1e-4)
    assert found.bound[-1] == found.last_bounds[best]
    for one, other in zip(found.p.theta, theta, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert found.step.tolist() == [2, 4, 6]
    assert found.watched.shape == (3, 2)
    assert found.watched[-1, 0] == found.p.theta.log_noise
    assert records[-1] == pytest.approx((6, *found.watched[-1]))


def test_a_long_run_reaches_the_maximum_of_ppca():
    rate = optax.cosine_decay_schedule(0.05, 1_500)
    found = run(length=1_500, num_records=1, batch_size=43, optimizer=optax.adam(rate))
    best = models.ppca(data(), 2)
    log_p = jax.jit(jax.vmap(MODEL.log_evidence, (None, 0)))
    want, got = (float(log_p(theta, data()).mean()) for theta in (best, found.p.theta))
    assert want - 0.02 < got
    assert found.watched.shape == (1, 0)
    assert linear_vae.noise_variance(found.p.theta) == pytest.approx(
        linear_vae.noise_variance(best), rel=0.15
    )


def test_a_divergence_of_every_start_is_an_error():
    with pytest.raises(FloatingPointError, match="the bound of every start is NaN by step"):
        run(optimizer=optax.sgd(1e30))
