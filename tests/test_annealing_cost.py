"""The counted cost of annealed chains, and the temperatures that a budget pays for."""

import jax
import jax.numpy as jnp
import pytest
from model_cases import quick_jit

from lvm_jax import annealing, evidence
from lvm_jax.distributions import Bernoulli

CHAINS, TEMPERATURES = 4, 3
MOVE_COST = annealing.gibbs(2, 3).cost  # 2 values of 3 bits


@pytest.mark.parametrize("kind", ["sandwich", "sequential"])
def test_chains_evaluate_the_density_as_often_as_is_counted(kind):
    seen = []

    def log_joint(z):
        value = jnp.where(z, jnp.array([0.3, -0.5, 1.0]), 0.0).sum()
        jax.debug.callback(seen.append, value)  # of a value, or vmap would call it once
        return value

    q, z = Bernoulli(jnp.zeros(3)), jnp.zeros(3)
    plan = annealing.plan(
        annealing.sigmoid(TEMPERATURES), annealing.gibbs(2, 3), num_pilot=4, adaptive=True
    )
    cost = annealing.pilot_cost(TEMPERATURES, MOVE_COST)
    chains = annealing.chain_cost(CHAINS, TEMPERATURES, MOVE_COST)

    def run(key):
        """Without k-hat, which would be compiled too."""
        if kind == "sandwich":
            found = evidence.sandwich(key, log_joint, q, z, CHAINS, plan)
            return found.forward_acceptance, found.reverse_acceptance
        return evidence.sequential(key, log_joint, q, 2, plan, num_runs=2).z

    # Reverse chains share their start.
    cost += 2 * chains - (CHAINS - 1) if kind == "sandwich" else chains
    jax.block_until_ready(quick_jit(run)(jax.random.key(0)))
    jax.effects_barrier()
    assert len(seen) == cost


@pytest.mark.parametrize("move_cost", [4, 18])
def test_a_budget_pays_for_as_many_temperatures_as_it_can(move_cost):
    def cost(length):
        chains = annealing.chain_cost(32, length, move_cost)
        return annealing.pilot_cost(length, move_cost) + chains

    for budget in (100, 1_500, 2_000, 9_000, 25_000, 90_000, 200_000):
        length = annealing.affordable_temperatures(budget, 32, move_cost)
        assert cost(length) <= budget or length == 0
        assert cost(length + 1) > budget


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_temperatures: expected .*got -1"):
        annealing.chain_cost(8, -1, 4)
    with pytest.raises(ValueError, match="num_chains: expected .*got 0"):
        annealing.affordable_temperatures(100, 0, 4)
