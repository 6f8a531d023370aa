"""Traced numbers of temperatures: the same schedules and weights as static ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import annealing, distributions
from lvm_jax.annealing import elastic
from lvm_jax.annealing.path import make_path

CAPACITY, CHAINS = 131, 5
WALK = annealing.random_walk(1)
Q = distributions.normal(jnp.array([0.5, -1.0]), jnp.array([1.0, 2.0]))


def log_joint(z):
    return -2.0 * ((z - 1.0) ** 2).sum() - 0.3


@pytest.fixture(scope="module")
def run():
    @quick_jit
    def both(number):
        z = Q.sample(seed=jax.random.key(3), sample_shape=(CHAINS,))
        path = make_path(log_joint, Q, z, True)
        found = elastic.tuned(jax.random.key(1), path, Q, number, CAPACITY, WALK, 4)
        keys = jax.random.split(jax.random.key(2), CHAINS)
        return found, elastic.anneal(keys, path, z, found, number, WALK), z

    return both


@pytest.mark.parametrize("number", [1, 7, 131])
def test_it_is_the_static_schedule_and_the_static_chain(run, number):
    found, (ends, log_w, acceptance), z = run(np.int32(number))
    tuned = quick_jit(lambda: annealing.tune(
        jax.random.key(1), log_joint, Q, annealing.sigmoid(number), WALK, 4, adaptive=True
    ))()  # fmt: skip
    want = tuned.schedule
    np.testing.assert_allclose(found.temperatures[: number + 1], want.temperatures, atol=2e-6)
    np.testing.assert_allclose(found.step_sizes[:number], want.step_sizes, rtol=1e-4)
    np.testing.assert_array_equal(found.scale, want.scale)
    np.testing.assert_array_equal(found.temperatures[number:], np.ones(CAPACITY + 1 - number))
    first = annealing.Schedule(
        found.temperatures[: number + 1], found.step_sizes[:number], found.scale
    )
    path = make_path(log_joint, Q, z, True)
    keys = jax.random.split(jax.random.key(2), CHAINS)
    each = quick_jit(jax.vmap(lambda key, z: annealing.anneal(key, path, z, first, WALK)))(keys, z)
    np.testing.assert_allclose(log_w, each.log_weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ends, each.z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(acceptance[:number], each.acceptance.mean(0), rtol=1e-4)
    np.testing.assert_array_equal(acceptance[number:], np.zeros(CAPACITY - number))
