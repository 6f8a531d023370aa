"""The methods of `benchmarks.coverage` and of the tolerances of `benchmarks.evidence`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.coverage_problems import Problem
from lvm_jax import annealing, evidence
from lvm_jax._core.batching import batch_size, map_points
from lvm_jax.annealing.plan import PILOT
from lvm_jax.compiling import lean_options
from lvm_jax.evidence import Evidence
from lvm_jax.evidence.missed import SCOUTS, Scouted
from lvm_jax.evidence.stretching import EVALUATIONS, STRETCHED

CHAINS = 32  # of `annealed`; the budget sets the number of temperatures
RUNS, PARTICLES = 8, 8  # of `sequential`
LADDERS, RUNGS = 8, 8  # of `tempered`, with the temperatures; the budget sets the sweeps
BASE, BASE_COST = 16, 5.4 * 16  # of `multilevel`, with the expected cost of a draw
FEWEST, AT_ONCE = 25, 8  # draws of `multilevel`: for a k-hat, and in one vmap
ROWS = 500  # chains that run together

# key, log-joint, start, prior if it is another -> log p(x), and the evaluations of its check
Estimate = Callable[[Any, Callable, Any, Any], tuple[Evidence, Any]]


class Method(NamedTuple):
    """A method at a budget."""

    start: str  # "prior" or "guide"
    estimate: Estimate
    cost: (
        float  # evaluations of the joint density or its gradient, for one data set, without checks
    )
    chains: int  # 0: the method batches its draws itself


METHODS = (
    "importance, prior", "importance, guide", "multilevel, guide", "annealed, prior",
    "annealed, guide", "sequential, prior", "sequential, guide", "tempered, prior",
)  # fmt: skip


def applicable(name: str, problem: Problem) -> bool:
    """Whether a method is another one than that from the prior."""
    return problem.guided or not name.endswith("guide")


def make(name: str, problem: Problem, budget: int, num_scouts: int = SCOUTS) -> Method | None:
    """The method at a budget, which does not pay for the scouts; None where it is too small."""
    kind, start = name.split(", ")
    if kind == "importance":
        draw = lambda *given: (evidence.importance(*given[:3], budget), 0)  # noqa: E731
        return Method(start, draw, budget, 0)
    if kind == "multilevel":
        count = int(budget / BASE_COST)
        return Method(start, telescopes(count), count * BASE_COST, 0) if count >= FEWEST else None
    if kind == "tempered":
        return by_ladders(start, problem.moves, budget, num_scouts)
    return by_chains(kind, start, problem.moves, budget, num_scouts)


def telescopes(count: int) -> Estimate:
    """The mean of `count` draws of `multilevel`."""

    def run(key: Any, joint: Callable, q: Any, prior: Any) -> tuple[Evidence, Any]:
        draw = lambda key: evidence.multilevel(key, joint, q, base=BASE)  # noqa: E731
        return evidence.average(map_points(draw, jax.random.split(key, count), AT_ONCE)), 0

    return run


def by_chains(
    kind: str, start: str, moves: annealing.Transition, budget: int, num_scouts: int
) -> Method | None:
    """`annealed` or `sequential` with as many adaptive temperatures as the budget affords."""
    size = CHAINS if kind == "annealed" else RUNS * PARTICLES
    number = annealing.affordable_temperatures(budget, size, moves.cost)
    if number < 2:
        return None
    temperatures = annealing.sigmoid(number)
    plan = annealing.plan(temperatures, moves, num_pilot=PILOT, adaptive=True)
    cost = annealing.pilot_cost(number, moves.cost)
    cost += annealing.chain_cost(size, number, moves.cost)

    def run(key: Any, joint: Callable, q: Any, prior: Any) -> tuple[Evidence, Any]:
        if kind == "annealed":
            chains = evidence.annealed(
                key, joint, q, CHAINS, plan, num_scouts=num_scouts, prior=prior
            )
            return chains.evidence, checked(chains.scouted, CHAINS)
        runs = evidence.sequential(
            key, joint, q, PARTICLES, plan, num_runs=RUNS, num_scouts=num_scouts, prior=prior
        )
        return runs.evidence, checked(runs.scouted, size)

    return Method(start, run, cost, size)


def by_ladders(
    start: str, moves: annealing.Transition, budget: int, num_scouts: int
) -> Method | None:
    """`tempered` with as many sweeps as the budget affords."""
    sweep = LADDERS * (RUNGS * moves.cost + 1)
    fixed = annealing.pilot_cost(RUNGS, moves.cost) + LADDERS * (1 + RUNGS * moves.cost)
    number = (budget - fixed) // sweep
    if number < 4:
        return None
    plan = annealing.plan(annealing.sigmoid(RUNGS), moves, num_pilot=PILOT, adaptive=True)

    def run(key: Any, joint: Callable, q: Any, prior: Any) -> tuple[Evidence, Any]:
        ladders = evidence.tempered(
            key, joint, q, number, plan, num_runs=LADDERS, num_scouts=num_scouts, prior=prior
        )
        return ladders.evidence, checked(ladders.scouted, LADDERS * number)

    return Method(start, run, fixed + number * sweep, LADDERS * RUNGS)


def checked(scouted: Scouted | None, draws: int) -> Any:
    """The evaluations of the checks of chains with this number of draws at their ends."""
    if scouted is None:
        return 0
    return scouted.evaluations + EVALUATIONS * min(draws, STRETCHED)


def program(
    problem: Problem, method: Method, lean: bool = True
) -> Callable[[Any], tuple[Evidence, Any]]:
    """key -> the Evidence and the evaluations of its check, of every data set, leaves [N].

    With `lean` chains are not optimised, which takes longer than their run on a few data sets.
    """
    number = len(problem.x)
    together = batch_size(ROWS, method.chains, number) if method.chains else 1

    def one(point: tuple[Any, Any]) -> tuple[Evidence, Any]:
        key, x = point
        prior, joint = problem.p.prior(x), problem.p.log_joint(x)
        if method.start == "prior":
            return method.estimate(key, joint, prior, None)
        return method.estimate(key, joint, problem.q(x), prior)

    options = lean_options(0) if lean and method.chains else None
    run = jax.jit(lambda keys, x: map_points(one, (keys, x), together), compiler_options=options)
    return lambda key: jax.device_get(run(jax.random.split(key, number), problem.x))
