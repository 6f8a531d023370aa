"""The cost of log p(x) to a tolerance: the contestants of the part of `benchmarks.evidence`.

Every method has settings of rising cost. A setting has estimates of all data sets with known log
p(x); the first whose root mean squared error is at most the tolerance gives evaluations and
seconds. Peers are in `benchmarks.evidence_tolerance_peers`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import coverage_methods, harness
from benchmarks.coverage_problems import PROBLEMS, Problem
from lvm_jax import evidence
from lvm_jax._core.batching import map_points

BUDGETS = (600, 2_000, 6_000, 20_000, 60_000, 200_000, 600_000)
HALF_WIDTHS = (0.2, 0.1, 0.04, 0.02)  # of certify
LIVE = (50, 200, 800, 3_200)  # points of nested sampling


class Rung(NamedTuple):
    """One setting of a method."""

    run: Callable[[Any], tuple[np.ndarray, float]]  # key -> estimates [N], evaluations of one
    compiled: bool = True  # the first call compiles, and does not count


Contestant = Callable[[Problem, int], "Rung | None"]  # None: the setting is too small


def at_budget(name: str, problem: Problem, level: int) -> Rung | None:
    """A method of `coverage_methods`, without scouts, which do not change the estimate."""
    method = coverage_methods.make(name, problem, BUDGETS[level], num_scouts=0)
    if method is None:
        return None
    run = coverage_methods.program(problem, method, lean=False)
    return Rung(lambda key: (np.asarray(run(key)[0].log_evidence), method.cost))


def certify(problem: Problem, level: int) -> Rung:
    """`evidence.certify` with a falling tolerance; estimates that it leaves open count too."""
    moves = None if problem.moves.continuous else problem.moves
    settings = {"tolerance": HALF_WIDTHS[level], "budget": 1e6, "transition": moves}

    def run(key: Any) -> tuple[np.ndarray, float]:
        found = evidence.certify(key, problem.p, problem.q, problem.x, **settings)
        return found.log_evidence, float(found.cost.mean())

    return Rung(run)


def nested(problem: Problem, level: int) -> Rung:
    """`evidence.nested`, two runs."""

    def one(point: tuple[Any, Any]) -> evidence.Nested:
        key, x = point
        likelihood = lambda z: problem.p.log_likelihood(z, x)  # noqa: E731
        return evidence.nested(key, likelihood, problem.p.prior(x), LIVE[level], num_runs=2)

    points = jax.jit(lambda keys, x: map_points(one, (keys, x), 1))

    def run(key: Any) -> tuple[np.ndarray, float]:
        found = points(jax.random.split(key, len(problem.x)), problem.x)
        cost = np.asarray(found.evaluations).sum(1).mean()
        return np.asarray(found.evidence.log_evidence), float(cost)

    return Rung(run)


OWN: dict[str, tuple[Contestant, int]] = {  # with the number of settings
    **{name: (partial(at_budget, name), len(BUDGETS)) for name in (
        "importance, guide", "importance, prior", "annealed, prior", "sequential, prior"
    )},
    "certify": (certify, len(HALF_WIDTHS)),
    "nested": (nested, len(LIVE)),
}  # fmt: skip


def run(case: dict[str, Any]) -> dict[str, Any]:
    """The curve of one method on one problem, until the smallest tolerance or the time limit."""
    from benchmarks import evidence_tolerance_peers as peers

    key, key_runs = jax.random.split(jax.random.key(case["seed"]))
    problem = PROBLEMS[case["problem"]]()(key, case["points"])
    contestant, levels = (OWN | peers.PEERS)[case["contestant"]]
    curve: list[dict[str, float]] = []
    for level in range(levels):
        rung = contestant(problem, level)
        if rung is None:
            continue
        curve.append(measured(rung, jax.random.fold_in(key_runs, level), problem.truth))
        done = curve[-1]["rmse"] <= min(case["tolerances"])
        if done or curve[-1]["seconds"] > case["most_seconds"]:
            break
    return {"curve": curve, "peak_mb": harness.peak_megabytes()}


def measured(rung: Rung, key: Any, truth: np.ndarray) -> dict[str, float]:
    """Errors, evaluations of one data set, and seconds of all, of two seeds where compiled."""
    errors, seconds, costs = [], [], []
    for own in jax.random.split(key, 2 if rung.compiled else 1):
        began = time.perf_counter()
        found, cost = rung.run(own)
        seconds.append(time.perf_counter() - began)
        errors.append(np.asarray(found, float) - truth)
        costs.append(cost)
    squared = np.square(errors)
    return {
        "rmse": float(np.sqrt(squared.mean())) if np.isfinite(squared).all() else float("inf"),
        "evaluations": float(np.mean(costs)),
        "seconds": seconds[-1],
        "compile_seconds": seconds[0] - seconds[-1],
    }
