"""The spread of annealed log-weights after pilot runs of other numbers of temperatures and chains.

Each setting is that of 32 chains from the prior, for 16 data sets of a problem and some keys. The
ratio is that of the mean variance of the log-weights to the variance after the default pilot.
"""

import argparse
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import coverage_problems, harness
from lvm_jax import annealing, evidence
from lvm_jax.annealing import tuning
from lvm_jax.annealing.plan import PILOT

PROBLEMS = ("Gaussian, D = 8", "two modes, D = 4", "Student likelihood", "condition 1e6, D = 8")
PILOTS = ((tuning.MOST, PILOT), (100, 8), (25, 4), (50, 2))  # temperatures, chains
POINTS, CHAINS = 16, 32
HEADER = ("problem", "T", "temperatures", "variance", *(f"{t} x {c}" for t, c in PILOTS[1:]))


def variance(problem: Any, plan: annealing.Plan, most: int, keys: jax.Array) -> float:
    """The variance of the log-weights of the chains, a mean over data sets and keys."""

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        joint, prior = problem.p.log_joint(x), problem.p.prior(x)
        found = evidence.annealed(key, joint, prior, CHAINS, plan, num_scouts=0)
        return jnp.var(found.log_weights)

    with mock.patch.object(tuning, "MOST", most):
        run = jax.jit(jax.vmap(one))
        values = [run(jax.random.split(key, POINTS), problem.x) for key in keys]
    return float(np.mean(values))


def row(name: str, number: int, adaptive: bool, options: Any) -> list[Any]:
    """The variance after the default pilot, and the ratios of the others to it."""
    key_problem, key = jax.random.split(jax.random.key(options.seed))
    problem = coverage_problems.PROBLEMS[name]()(key_problem, POINTS)
    keys = jax.random.split(key, options.rounds)
    found = []
    for most, chains in PILOTS:
        plan = annealing.plan(
            annealing.sigmoid(number), problem.moves, num_pilot=chains, adaptive=adaptive
        )
        found.append(variance(problem, plan, most, keys))
    return [name, number, adaptive, found[0], *(value / found[0] for value in found[1:])]


def geometric_mean(ratios: list[float]) -> str:
    """Of the ratios of the settings, with the standard error that their spread gives."""
    logs = np.log(ratios)
    mean, error = float(np.exp(logs.mean())), float(logs.std(ddof=1) / len(logs) ** 0.5)
    return f"{mean:.3f} +- {mean * error:.3f}"


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Refuse a child process of this module: no time is measured."""
    raise ValueError(f"child: expected none, got {case}")


def main() -> None:
    """Run every setting, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pilot", description=__doc__)
    parser.add_argument(
        "--problems", nargs="+", choices=coverage_problems.PROBLEMS, default=PROBLEMS
    )
    options = harness.read_options(parser, child, rounds=4)
    rows = []
    for name in options.problems:
        settings = [(number, adaptive) for number in (200, 800) for adaptive in (False, True)]
        own = [row(name, *setting, options) for setting in settings]
        rows += own
        cells = [
            [name, f"{number}", "adaptive" if adaptive else "sigmoid", f"{first:.3g}"]
            + [f"{ratio:.2f}" for ratio in ratios]
            for _, number, adaptive, first, *ratios in own
        ]
        means = [geometric_mean(list(ratios)) for ratios in zip(*(r[4:] for r in own), strict=True)]
        print(harness.markdown(HEADER, [*cells, [name, "", "all", "", *means]]), flush=True)
    print(f"\nwritten: {harness.save('pilot', options.out, options.seed, rows)}")


if __name__ == "__main__":
    main()
