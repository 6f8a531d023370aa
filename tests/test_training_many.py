"""Several trainings in one program: each is the single one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import ESTIMATE, GUIDE, KEY, MODEL, OPTIMIZER, data

from lvm_jax import training

KEYS = jax.random.split(KEY, 3)
SETTINGS = {
    "estimate": ESTIMATE, "num_samples": 2, "optimizer": OPTIMIZER, "batch_size": 10, "num_epochs": 5,
}  # fmt: skip


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_every_run_is_the_fit_of_its_key():
    x, noisy = data(), lambda key, row: row + 0.1 * jax.random.normal(key, row.shape)
    found = training.fit_many(KEYS, MODEL, GUIDE, x, transform=noisy, **SETTINGS)
    assert found.bound.shape == (3, 5)
    for place, key in enumerate(KEYS):
        single = training.fit(key, MODEL, GUIDE, x, transform=noisy, **SETTINGS)
        close(jax.tree.map(lambda leaf, r=place: leaf[r], found.params), single.params)
        np.testing.assert_allclose(found.bound[place], single.history.bound, rtol=1e-4)
    each = jax.vmap(lambda p: p.log_evidence(x[0]))(found.p)
    assert each.shape == (3,)
    assert np.ptp(np.asarray(each)) > 1e-3  # the starts differ


def test_a_pair_starts_every_run_from_its_parameters():
    start = training.Separate(MODEL, GUIDE).init(jax.random.key(8))
    found = training.fit_many(
        KEYS, training.Separate(MODEL, GUIDE), start, data(), **SETTINGS | {"num_epochs": 0}
    )
    for place in range(3):
        close(jax.tree.map(lambda leaf, r=place: leaf[r], found.params), start)
    assert found.bound.shape == (3, 0)


def test_another_number_of_steps_and_other_keys_compile_nothing():
    count = []

    def estimate(key, joint, make_q, phi, num_samples):
        count.append(None)
        return ESTIMATE(key, joint, make_q, phi, num_samples)

    settings = SETTINGS | {"estimate": estimate}
    training.fit_many(KEYS, MODEL, GUIDE, data(), **settings)
    first = len(count)
    training.fit_many(KEYS[::-1], MODEL, GUIDE, data(40), **settings | {"num_epochs": 2})
    assert 0 < first == len(count)


def test_refusals():
    with pytest.raises(ValueError, match=r"keys: expected typed keys \[R\], .* got \(\)"):
        training.fit_many(KEY, MODEL, GUIDE, data(), **SETTINGS)
    with pytest.raises(TypeError, match="keys: expected a typed key"):
        training.fit_many(jax.numpy.zeros(3), MODEL, GUIDE, data(), **SETTINGS)
    with pytest.raises(FloatingPointError, match=r"diverged in runs \[0, 1, 2\] at steps \["):
        training.fit_many(KEYS, MODEL, GUIDE, data(), **SETTINGS | {"optimizer": optax.sgd(1e12)})
    with pytest.raises(ValueError, match="x: expected shape"):
        training.fit_many(KEYS, MODEL, GUIDE, data()[:, :2], **SETTINGS)


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
