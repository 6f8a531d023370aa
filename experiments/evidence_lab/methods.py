"""The estimators of the experiment and their costs.

The cost is the number of evaluations of the joint density or its gradient for one data set.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.evidence_lab.config import Config
from lvm_jax import annealing, bounds, evidence, weights
from lvm_jax._core.batching import batch_size, map_points
from lvm_jax.annealing.plan import PILOT
from lvm_jax.compiling import lean_options
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.problems import Problem, Simulated
from lvm_jax.typing import Array, Distribution, Key, Latent
from lvm_jax.weights import LogJoint

Draw = Callable[..., evidence.Telescope]
TELESCOPES: dict[str, tuple[Draw, float]] = {  # with the expected cost of one draw
    "SUMO": (partial(evidence.sumo, start=64), 64 + 5.1),
    "multilevel": (partial(evidence.multilevel, base=16), 5.4 * 16),
}
FEWEST = 8  # the fewest telescopes for a standard error
AT_ONCE = 8  # telescopes in a vmap, which takes the time of the longest
STARTS = ("prior", "guide")
Starts = dict[str, Distribution]
ROWS = CHUNK_SIZE // 2  # chains that run together


class Setting(NamedTuple):
    """A problem, and the moves of its chains."""

    problem: Problem
    transition: annealing.Transition

    def parts(self, x: Array) -> tuple[LogJoint, Starts]:
        """z -> log p(x, z), and the distributions that draws start from, at one point."""
        p, q = self.problem.p, self.problem.q
        return p.log_joint(x), {"prior": p.prior(), "guide": q(x)}


class Estimates(NamedTuple):
    """The estimates of one method at one budget, leaves [N] over the data sets, in nats."""

    log_evidence: np.ndarray
    low: np.ndarray
    high: np.ndarray
    k_hat: np.ndarray
    cost: np.ndarray


Column = list[Estimates | None]  # by budget; None where the budget is too small


def estimates(found: evidence.Evidence, cost: float | np.ndarray, level: float) -> Estimates:
    """The estimates of an Evidence, leaves [N], with intervals even where it is not reliable."""
    low, high = found.nominal_interval(level)
    centre = np.asarray(found.log_evidence)
    return Estimates(
        centre, low, high, np.asarray(found.k_hat), np.broadcast_to(cost, centre.shape)
    )


def for_data(
    key: Key, setting: Setting, data: Simulated, one: Callable[..., Any], num_chains: int = 0
) -> Any:
    """`one(key, z, log_joint, starts)` of every data set: NumPy leaves [N, ...]."""
    together = batch_size(ROWS, num_chains, len(data.x)) if num_chains else 1

    def run(keys: Key, x: Array, z: Latent) -> Any:
        at = lambda point: one(point[0], point[2], *setting.parts(point[1]))  # noqa: E731
        return map_points(at, (keys, x, z), together)

    # Chains are not optimised: that takes longer than their run.
    compiled = jax.jit(run, compiler_options=lean_options(0) if num_chains else None)
    return jax.device_get(compiled(jax.random.split(key, len(data.x)), data.x, data.z))


def by_weights(key: Key, setting: Setting, data: Simulated, config: Config) -> dict[str, Column]:
    """Estimates from the first S of the same draws, for S of every budget."""
    most = config.budgets[-1]
    size = min(most, CHUNK_SIZE)

    def draw(key: Key, joint: LogJoint, q: Distribution) -> Array:
        chunk = lambda key: weights.log_weights(key, joint, q, size)  # noqa: E731
        return jax.lax.map(chunk, jax.random.split(key, -(-most // size))).ravel()[:most]

    def one(key: Key, z: Latent, joint: LogJoint, starts: Starts) -> list:
        keys = jax.random.split(key)
        return [draw(own, joint, starts[start]) for own, start in zip(keys, STARTS, strict=True)]

    drawn = for_data(key, setting, data, one)
    found: dict[str, Column] = {"naive": [], "importance": [], "jackknife": []}
    for count in config.budgets:
        naive, plain = (_estimate(log_w[:, :count]) for log_w in drawn)
        # The estimate of `evidence.jackknife`, from the same draws.
        less = plain._replace(log_evidence=_jackknife(drawn[1][:, :count]))
        for name, part in zip(found, (naive, plain, less), strict=True):
            found[name].append(estimates(part, count, config.level))
    return found


_estimate = jax.jit(jax.vmap(evidence.from_log_weights))
_jackknife = jax.jit(jax.vmap(bounds.jackknife(1)))
_average = jax.jit(jax.vmap(evidence.average))


def by_telescopes(key: Key, setting: Setting, data: Simulated, config: Config) -> dict[str, Column]:
    """The mean of the first R of the same draws, whose expected cost is the budget."""
    found: dict[str, Column] = {}
    for number, (name, (draw, expected_cost)) in enumerate(TELESCOPES.items()):
        counts = [int(budget / expected_cost) for budget in config.budgets]
        found[name] = [None for count in counts if count < FEWEST]
        if counts[-1] < FEWEST:
            continue
        one = partial(telescopes, draw, counts[-1])
        draws = for_data(jax.random.fold_in(key, number), setting, data, one)
        for count in counts[len(found[name]) :]:
            first = jax.tree.map(lambda leaf, n=count: leaf[:, :n], draws)
            cost = first.num_samples.sum(1, dtype=float)
            found[name].append(estimates(_average(first), cost, config.level))
    return found


def telescopes(
    draw: Draw, count: int, key: Key, z: Latent, joint: LogJoint, starts: Starts
) -> evidence.Telescope:
    """`count` draws for one data set."""
    own = lambda key: draw(key, joint, starts["guide"])  # noqa: E731
    return map_points(own, jax.random.split(key, count), min(AT_ONCE, count))


def by_chains(key: Key, setting: Setting, data: Simulated, config: Config) -> dict[str, Column]:
    """Forward and reverse chains from both starts, and particles from the prior."""
    names = [f"{kind}, {start}" for kind in ("annealed", "sandwich") for start in STARTS]
    found: dict[str, Column] = {name: [] for name in (*names, "sequential, prior")}
    for number, budget in enumerate(config.budgets):
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        for own, start in zip(keys, STARTS, strict=False):
            lower, upper = sandwich(own, setting, data, start, budget, config)
            found[f"annealed, {start}"].append(lower)
            found[f"sandwich, {start}"].append(upper)
        found["sequential, prior"].append(sequential(keys[2], setting, data, budget, config))
    return found


def plan(setting: Setting, budget: int, size: int) -> tuple[annealing.Plan | None, int, int]:
    """A plan within the budget (None below two temperatures), and costs of pilot and chains."""
    number = annealing.affordable_temperatures(budget, size, setting.transition.cost)
    if number < 2:
        return None, 0, 0
    temperatures, moves = annealing.sigmoid(number), setting.transition
    found = annealing.plan(temperatures, moves, num_pilot=PILOT, adaptive=True)
    pilot = annealing.pilot_cost(number, setting.transition.cost)
    return found, pilot, annealing.chain_cost(size, number, setting.transition.cost)


def sandwich(
    key: Key, setting: Setting, data: Simulated, start: str, budget: int, config: Config
) -> tuple[Estimates | None, Estimates | None]:
    """The lower bound, as `evidence.annealed`, and the upper bound with the interval of both."""
    size, level = config.num_chains, config.level
    chosen, pilot, one_way = plan(setting, budget, size)
    if chosen is None:
        return None, None

    def one(key: Key, z: Latent, joint: LogJoint, starts: Starts) -> evidence.Sandwich:
        return evidence.sandwich(key, joint, starts[start], z, size, chosen)

    found = for_data(key, setting, data, one, 2 * size)
    low, high = found.interval(level)
    upper = estimates(found.upper, pilot + 2 * one_way, level)._replace(low=low, high=high)
    return estimates(found.lower, pilot + one_way, level), upper


def sequential(
    key: Key, setting: Setting, data: Simulated, budget: int, config: Config
) -> Estimates | None:
    """Several runs of particles from the prior."""
    num, size = config.num_particles, config.num_runs * config.num_particles
    chosen, pilot, chains = plan(setting, budget, size)
    if chosen is None:
        return None

    def one(key: Key, z: Latent, joint: LogJoint, starts: Starts) -> evidence.Evidence:
        runs = config.num_runs
        return evidence.sequential(
            key, joint, starts["prior"], num, chosen, num_runs=runs, num_scouts=0
        ).evidence

    found = for_data(key, setting, data, one, size)
    return estimates(found, pilot + chains - size, config.level)  # no last weight, unlike chains
