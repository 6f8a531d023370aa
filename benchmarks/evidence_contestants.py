"""The contestants of lvm_jax in `benchmarks.evidence`: programs key -> estimates of log p(x), [N].

At one budget every method makes the same number of passes through the model, forward or backward: a
density is one pass, a gradient two. A temperature with HMC of L leapfrog steps takes 2 (L + 1)
passes, as the first gradient includes the weight; with MALA 4, with a random walk 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence_models import Problem
from lvm_jax import annealing, evidence
from lvm_jax._core.batching import batch_size, map_points
from lvm_jax.guides import Guide

CHUNK = 1_000  # rows at a time, the default of `evidence.evaluate_annealed`

Program = Callable[[jax.Array], jax.Array]


def passes(case: dict[str, Any]) -> int:
    """Passes through the model of one chain."""
    return 2 * (case["leapfrogs"] + 1) * case["temperatures"]


def importance(case: dict[str, Any], problem: Problem, from_guide: bool = False) -> Program:
    """Importance sampling with as many draws as the chains have passes."""
    prior = Guide(lambda _: None, lambda *_: problem.model.prior(problem.theta))
    guide, draws = problem.guide if from_guide else prior, case["chains"] * passes(case)

    def run(key: jax.Array) -> jax.Array:
        found = evidence.evaluate(key, problem.model(problem.theta), guide(None), problem.x, draws)
        return found.log_evidence

    return run


def plan(case: dict[str, Any], move: str, adaptive: bool = False) -> annealing.Plan:
    """A sigmoid schedule that spends the budget on moves of a kind, with a pilot run."""
    moves = {
        "hmc": (lambda: annealing.hmc(case["leapfrogs"]), 2 * (case["leapfrogs"] + 1)),
        "mala": (annealing.mala, 4),
        "random walk": (annealing.random_walk, 2),
    }
    make, cost = moves[move]
    temperatures = annealing.sigmoid(passes(case) // cost)
    return annealing.plan(temperatures, make(), adaptive=adaptive)


def annealed(
    case: dict[str, Any],
    problem: Problem,
    move: str,
    from_guide: bool = False,
    adaptive: bool = False,
) -> Program:
    """`evidence.evaluate_annealed` with its pilot run and diagnostics."""
    q, planned = problem.guide(None) if from_guide else None, plan(case, move, adaptive)

    def run(key: jax.Array) -> jax.Array:
        found = evidence.evaluate_annealed(
            *(key, problem.model(problem.theta), q, problem.x, case["chains"], planned),
            num_scouts=0,
        )
        return found.evidence.log_evidence

    return run


def sequential(case: dict[str, Any], problem: Problem) -> Program:
    """`evidence.sequential`: one run with as many particles as other methods have chains."""
    planned, prior = plan(case, "hmc"), problem.model.prior(problem.theta)

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        def one(point: tuple[jax.Array, jax.Array]) -> jax.Array:
            own, x = jax.random.fold_in(key, point[0]), point[1]
            found = evidence.sequential(
                own, problem.log_joint(x), prior, case["chains"], planned, num_runs=1
            )
            return found.log_evidences[0]

        points = (jnp.arange(len(problem.x)), problem.x)
        return map_points(one, points, batch_size(CHUNK, case["chains"], len(problem.x)))

    return run


def reference(case: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """log p(x) as the mean of the bounds of `evidence.sandwich`, from the z of each x."""
    planned, prior = plan(case, "hmc"), problem.model.prior(problem.theta)

    @jax.jit
    def run(key: jax.Array) -> evidence.Sandwich:
        def one(point: tuple[jax.Array, jax.Array, jax.Array]) -> evidence.Sandwich:
            index, x, z = point
            own = jax.random.fold_in(key, index)
            return evidence.sandwich(own, problem.log_joint(x), prior, z, case["chains"], planned)

        points = (jnp.arange(len(problem.x)), problem.x, problem.z)
        return map_points(one, points, batch_size(CHUNK, 2 * case["chains"], len(problem.x)))

    found = run(jax.random.key(case["seed"] + 1))
    lower, upper = (np.asarray(bound.log_evidence, float) for bound in (found.lower, found.upper))
    return {"log_p": (0.5 * (lower + upper)).tolist(), "gap": float((upper - lower).mean())}


PROGRAMS: dict[str, Callable[[dict[str, Any], Problem], Program]] = {
    "importance, prior": importance,
    "importance, guide": partial(importance, from_guide=True),
    "annealed, HMC": partial(annealed, move="hmc"),
    "annealed, HMC, adaptive": partial(annealed, move="hmc", adaptive=True),
    "annealed, HMC, guide": partial(annealed, move="hmc", from_guide=True),
    "annealed, MALA": partial(annealed, move="mala"),
    "annealed, random walk": partial(annealed, move="random walk"),
    "sequential, HMC": sequential,
}
