"""The cost of chains for one data point, in evaluations of the joint density or its gradient.

The start of a chain costs 1, and a move `move_cost`, the `cost` of its transition. Weights, and a
move at another temperature, use the numbers that the chain carries.
"""

from lvm_jax._core import checks
from lvm_jax.annealing.plan import PILOT
from lvm_jax.annealing.tuning import MOST, NUM_WARM


def pilot_cost(num_temperatures: int, move_cost: int, num_pilot: int = PILOT) -> int:
    """The cost of C = `num_pilot` pilot chains, C (1 + (5 + min(T, 50)) move_cost) evaluations.

    Each chain makes 5 warm-up moves and one move at each of at most 50 temperatures.
    Raises ValueError or TypeError for an argument that is not an integer >= 0.
    """
    chains, steps = _integers(num_pilot=num_pilot, num_temperatures=num_temperatures)
    (move,) = _integers(move_cost=move_cost)
    return chains * (1 + (NUM_WARM + min(steps, MOST)) * move)


def chain_cost(num_chains: int, num_temperatures: int, move_cost: int) -> int:
    """The cost of C annealed chains in one direction, C (1 + T move_cost) evaluations.

    The cost of `sequential` with C particles in all is the same. The pilot is not included. Errors
    as `pilot_cost`.
    """
    chains, steps = _integers(num_chains=num_chains, num_temperatures=num_temperatures)
    (move,) = _integers(move_cost=move_cost)
    return chains * (1 + steps * move)


def affordable_temperatures(budget: int, num_chains: int, move_cost: int) -> int:
    """The largest T for which C chains with 4 pilot chains cost at most `budget`, or 0.

        pilot_cost(T, move_cost) + chain_cost(C, T, move_cost) <= budget

    Raises ValueError or TypeError for an argument that is not an integer >= 0 (num_chains >= 1).
    """
    (left,) = _integers(budget=budget)
    checks.integer(num_chains, "num_chains", 1)
    left -= chain_cost(num_chains, 0, move_cost) + pilot_cost(0, move_cost)
    few = left // ((num_chains + PILOT) * move_cost)
    many = (left - PILOT * MOST * move_cost) // (num_chains * move_cost)
    return max(few if few <= MOST else many, 0)


def _integers(**numbers: int) -> list[int]:
    return [checks.integer(value, name, 0) for name, value in numbers.items()]
