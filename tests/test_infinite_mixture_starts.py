"""Training from several starts: steps by hand, the maximum of PPCA, and the choice of the best."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import ESTIMATE, GUIDE, KEY, MODEL, data

from lvm_jax import models, training
from lvm_jax.problems import linear_vae

SETTINGS = {
    "estimate": ESTIMATE, "num_samples": 2, "optimizer": optax.adam(0.05), "batch_size": 8,
    "num_steps": 6, "num_starts": 3, "num_records": 3,
}  # fmt: skip


def run(**options):
    return training.fit_starts(KEY, MODEL, GUIDE, data(), **SETTINGS | options)


def by_hand(start):
    """theta and the bound of every step of one start, by a loop that shares the keys alone."""
    key_theta, key_phi, key_steps, _ = jax.random.split(KEY, 4)
    theta = MODEL.init(jax.random.split(key_theta, 3)[start])
    parameters = (theta, GUIDE.init(jax.random.split(key_phi, 3)[start]))
    optimizer, x, bounds = SETTINGS["optimizer"], jnp.asarray(data()), []
    state = optimizer.init(parameters)

    @jax.jit
    def value_and_slope(parameters, key, rows):
        def one(parameters, key, row):
            theta, phi = parameters
            joint = MODEL(theta).log_joint(row)
            return ESTIMATE(key, joint, lambda phi: GUIDE.posterior(phi, row), phi, 2)

        def loss(parameters):
            pairs = zip(jax.random.split(key, 8), rows, strict=True)
            return -sum(one(parameters, key, row) for key, row in pairs) / 8

        return jax.value_and_grad(loss)(parameters)

    for index in range(6):
        key_batch, key_noise = jax.random.split(jax.random.fold_in(key_steps, index))
        rows = x[jax.random.randint(key_batch, (8,), 0, len(x))]
        value, slope = value_and_slope(parameters, key_noise, rows)
        updates, state = optimizer.update(slope, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
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
    found = run(num_steps=1_500, num_records=1, batch_size=43, optimizer=optax.adam(rate))
    best = models.ppca(data(), 2)
    log_p = jax.vmap(MODEL.log_evidence, (None, 0))
    want, got = (float(log_p(theta, data()).mean()) for theta in (best, found.p.theta))
    assert want - 0.02 < got
    assert found.watched.shape == (1, 0)
    assert linear_vae.noise_variance(found.p.theta) == pytest.approx(
        linear_vae.noise_variance(best), rel=0.15
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 7}, "num_steps: expected a multiple of 3, got 7"),
        ({"num_starts": 0}, "num_starts: expected"),
        ({"batch_size": 0}, "batch_size: expected"),
    ],
)
def test_bad_counts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_a_divergence_of_every_start_is_an_error():
    with pytest.raises(FloatingPointError, match="the bound of every start is NaN by step"):
        run(optimizer=optax.sgd(1e30))


def test_an_ascent_of_a_quadratic_is_its_recurrence_and_counts_steps():
    """Of -(p - t)^2 / 2 plain gradient steps leave p_n - t = (1 - rate)^n (p_0 - t)."""
    target, start = {"a": 2.0, "b": jnp.array([1.0, -1.0])}, {"a": 0.0, "b": jnp.zeros(2)}

    def objective(step, p):
        apart = jax.tree.map(jnp.subtract, p, target)
        return -0.5 * sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(apart))

    found = training.ascend(objective, start, optax.sgd(0.1), 12)
    for name, want in target.items():
        np.testing.assert_allclose(found[name], np.asarray(want) * (1 - 0.9**12), rtol=1e-5)
    summed = training.ascend(lambda step, p: step * p, jnp.float32(0), optax.sgd(1.0), 5)
    assert float(summed) == 0 + 1 + 2 + 3 + 4
    assert training.ascend(objective, start, optax.sgd(0.1), 0)["a"] == 0
    with pytest.raises(ValueError, match="num_steps: expected"):
        training.ascend(objective, start, optax.sgd(0.1), -1)
