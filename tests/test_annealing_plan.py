"""Plans of annealed chains: what they refuse, what they share, and that they do not recompile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import PROBLEMS
from model_cases import quick_jit

from lvm_jax import annealing, distributions, evidence

NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))


@pytest.mark.parametrize(
    "temperatures, message",
    [
        ([0.0], "expected \\[T \\+ 1\\] numbers"),
        ([0.0, 0.5, 0.5, 1.0], "rise at every step, got 0.5 before 0.5 at index 1"),
        ([0.1, 1.0], "start at 0 and end at 1, got 0.1 and 1.0"),
        ([0.0, np.nan, 1.0], "start at 0 and end at 1"),
    ],
)
def test_refused_temperatures(temperatures, message):
    with pytest.raises(ValueError, match=message):
        annealing.plan(np.array(temperatures))


def test_refusals():
    problem = PROBLEMS["bits"]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    plan = annealing.plan(annealing.linear(3))
    with pytest.raises(TypeError, match=r"expected annealing\.gibbs or annealing\.flip"):
        evidence.annealed(jax.random.key(0), joint, q, 3, plan)
    with pytest.raises(ValueError, match="num_chains: expected an integer >= 1, got 0"):
        evidence.annealed(jax.random.key(0), NORMAL.log_prob, NORMAL, 0, plan)
    with pytest.raises(ValueError, match="num_pilot: expected at least 2 with adaptive=True"):
        annealing.plan(annealing.linear(3), num_pilot=0, adaptive=True)
    with pytest.raises(ValueError, match="num_pilot: expected 0 or at least 2, got 1"):
        annealing.plan(annealing.linear(3), num_pilot=1)
    with pytest.raises(ValueError, match="num_temperatures: expected an integer >= 1, got 0"):
        annealing.linear(0)
    with pytest.raises(ValueError, match="refreshment: expected a share in"):
        annealing.unadjusted_log_weights(
            jax.random.key(0), NORMAL.log_prob, NORMAL, 3, step_size=0.1, refreshment=1.5,
            temperatures=annealing.linear(3),
        )  # fmt: skip
    for bad in (lambda: annealing.hmc(0), lambda: annealing.gibbs(1), lambda: annealing.flip(2, 0)):
        with pytest.raises(ValueError, match="expected an integer"):
            bad()
    with pytest.raises(ValueError, match="jitter"):
        annealing.hmc(3, 1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_an_adaptive_plan_from_an_exact_q_is_exact(dtype):
    # Nothing varies along the path, and there is nothing to place temperatures by.
    with jax.enable_x64(dtype == jnp.float64):
        q = distributions.normal(jnp.zeros(2, dtype), jnp.ones(2, dtype))
        plan = annealing.plan(annealing.sigmoid(16), annealing.random_walk(1), adaptive=True)

        @quick_jit
        def run(key):
            joint = lambda z: q.log_prob(z) - 2.5  # noqa: E731
            found = evidence.annealed(key, joint, q, 5, plan, num_scouts=0)
            return found.schedule.temperatures, found.log_weights  # k-hat would be compiled too

        temperatures, log_weights = run(jax.random.key(0))
        assert temperatures[0] == 0
        assert temperatures[-1] == 1
        assert (jnp.diff(temperatures) > 0).all()
        precision = 10 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(log_weights, -2.5, rtol=precision)


def test_equal_options_are_one_object():
    assert annealing.hmc(7) is annealing.hmc(7)
    assert annealing.gibbs(4, 2) is annealing.gibbs(4, 2)


def test_a_fixed_plan_is_the_schedule_that_a_pilot_found():
    walk = annealing.random_walk(2)
    joint = lambda z: NORMAL.log_prob(2 * z) + 0.4  # noqa: E731
    tuned = annealing.plan(annealing.linear(4), walk, adaptive=True)

    @quick_jit
    def run(key):
        first = evidence.annealed(key, joint, NORMAL, 30, tuned, num_scouts=0)
        fixed = annealing.fixed(first.schedule, walk)
        again = evidence.annealed(key, joint, NORMAL, 30, fixed, num_scouts=0)
        return [(each.log_weights, each.schedule) for each in (first, again)]

    (first, schedule), (again, fixed) = run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(schedule.step_sizes, fixed.step_sizes)
    assert (np.asarray(schedule.temperatures[1:-1]) != [0.25, 0.5, 0.75]).any()


def test_moves_without_a_target_need_no_pilot():
    assert annealing.plan(annealing.linear(2), annealing.gibbs(3)).num_pilot == 0
    assert annealing.plan(annealing.linear(2)).num_pilot == 4


def test_a_plan_is_a_pytree_of_its_numbers():
    walk, traces = annealing.random_walk(1), []

    @jax.jit
    def run(plan, key):
        traces.append(None)
        return evidence.annealed(key, NORMAL.log_prob, NORMAL, 3, plan).log_weights

    for temperatures in (annealing.linear(3), annealing.sigmoid(3)):
        run(annealing.plan(temperatures, walk, num_pilot=0), jax.random.key(0))
    assert len(traces) == 1
