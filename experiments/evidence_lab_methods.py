"""The estimators of the `evidence_lab` experiment: what each promises, what it costs, how it is run.

Cost is counted in evaluations of the joint density or its gradient, for one data set.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from experiments.evidence_lab_beds import Bed, Data
from lvm_jax import annealing, bounds, evidence, weights
from lvm_jax.annealing.plan import PILOT
from lvm_jax.annealing.tuning import MOST, NUM_WARM
from lvm_jax.batching import batch_size, for_each
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.models import log_joint
from lvm_jax.typing import Array, Distribution, Float, Key, Latent

if TYPE_CHECKING:
    from experiments.evidence_lab import Config

START, SUMO_COST = 64, 64 + 5.1  # draws that every telescope has, and its expected cost
BASE, MULTILEVEL_COST = 16, 5.4 * 16  # the same of a telescope of halves
FEWEST = 8  # telescopes whose spread says anything of their mean
AT_ONCE = 8  # telescopes: more wait for the longest of more
STARTS = ("prior", "guide")
ROWS = CHUNK_SIZE // 2  # of chains together, as in `evidence.evaluate_annealed`

# A program of chains runs once, for a second or two, and would be optimised for longer than that.
# An unknown option is refused, so that only the jaxlib on which it was tried gets the second.
QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if version("jaxlib").startswith("0.10."):
    QUICK["xla_cpu_use_fusion_emitters"] = False
quick_jit = partial(jax.jit, compiler_options=QUICK)

Column = list["Answers | None"]  # by budget; None where the budget is too small


class Method(NamedTuple):
    """One estimator and what it promises."""

    unbiased_for: str
    side: str  # on which its logarithm errs, in expectation


METHODS = {
    "naive": Method("p(x)", "low"),
    "importance": Method("p(x)", "low"),
    "jackknife": Method("nothing; bias O(1/S²) in log p(x)", "either"),
    "SUMO": Method("log p(x)", "none"),
    "multilevel": Method("log p(x)", "none"),
    "annealed, prior": Method("p(x)", "low"),
    "annealed, guide": Method("p(x)", "low"),
    "sequential, prior": Method("p(x)", "low"),
    "sandwich, prior": Method("p(x) below, 1/p(x) above", "low and high"),
    "sandwich, guide": Method("p(x) below, 1/p(x) above", "low and high"),
    "certify": Method("p(x)", "low"),
}


class Answers(NamedTuple):
    """What one method says of every data set at one budget, leaves [N]; in nats."""

    log_evidence: np.ndarray
    low: np.ndarray
    high: np.ndarray
    k_hat: np.ndarray
    cost: np.ndarray


def answers(found: evidence.Evidence, cost: float | np.ndarray, level: float) -> Answers:
    """An Evidence of leaves [N] with its interval, reliable or not: its coverage is the question."""
    low, high = found.nominal_interval(level)
    centre = np.asarray(found.log_evidence)
    return Answers(centre, low, high, np.asarray(found.k_hat), np.broadcast_to(cost, centre.shape))


def by_weights(key: Key[Array, ""], bed: Bed, data: Data, config: "Config") -> dict[str, Column]:
    """Estimates from the first S of the same draws, S each of the budgets."""
    found: dict[str, Column] = {"naive": [], "importance": [], "jackknife": []}
    log_w = draw_weights(key, bed, data, config.budgets[-1])
    for size in config.budgets:
        plain = {start: _estimate(rows[:, :size]) for start, rows in log_w.items()}
        # As `evidence.jackknife` does, of the draws that are at hand.
        less = plain["guide"]._replace(log_evidence=_jackknife(log_w["guide"][:, :size]))
        for name, one in zip(found, (plain["prior"], plain["guide"], less), strict=True):
            found[name].append(answers(one, size, config.level))
    return found


_estimate = jax.jit(jax.vmap(evidence.from_log_weights))
_jackknife = jax.jit(jax.vmap(bounds.jackknife(1)))


def draw_weights(
    key: Key[Array, ""], bed: Bed, data: Data, num_samples: int
) -> dict[str, Float[Array, "N S"]]:
    """Log-weights of draws from the prior and from the guide."""
    size = min(num_samples, CHUNK_SIZE)
    num_chunks = -(-num_samples // size)

    @jax.jit
    def run(keys: Key[Array, " N"], x: Array) -> dict[str, Float[Array, "N S"]]:
        def one(point: tuple[Array, Array]) -> dict[str, Float[Array, " S"]]:
            joint = log_joint(bed.model, bed.theta, point[1])

            def draw(key: Key[Array, ""], q: Distribution) -> Float[Array, " S"]:
                chunk = lambda key: weights.log_weights(key, joint, q, size)  # noqa: E731
                rows = jax.lax.map(chunk, jax.random.split(key, num_chunks))
                return rows.ravel()[:num_samples]

            key_prior, key_guide = jax.random.split(point[0])
            return {
                "prior": draw(key_prior, bed.model.prior(bed.theta)),
                "guide": draw(key_guide, bed.guide.posterior((), point[1])),
            }

        return jax.lax.map(one, (keys, x))

    return run(jax.random.split(key, len(data.x)), data.x)


Draw = Callable[..., evidence.Telescope]
TELESCOPES: dict[str, tuple[Draw, float]] = {
    "SUMO": (partial(evidence.sumo, start=START), SUMO_COST),
    "multilevel": (partial(evidence.multilevel, base=BASE), MULTILEVEL_COST),
}


def by_telescopes(key: Key[Array, ""], bed: Bed, data: Data, config: "Config") -> dict[str, Column]:
    """The mean of the first R of the same draws, R such that the expected cost is the budget."""
    found: dict[str, Column] = {}
    for number, (name, (draw, price)) in enumerate(TELESCOPES.items()):
        counts = [int(budget / price) for budget in config.budgets]
        found[name] = [None for count in counts if count < FEWEST]
        if counts[-1] < FEWEST:
            continue
        draws = draw_telescopes(jax.random.fold_in(key, number), bed, data, draw, counts[-1])
        for count in counts[len(found[name]) :]:
            first = jax.tree.map(lambda leaf, n=count: leaf[:, :n], draws)
            cost = np.asarray(first.num_samples, float).sum(1)
            found[name].append(answers(_average(first), cost, config.level))
    return found


_average = jax.jit(jax.vmap(evidence.average))


def draw_telescopes(
    key: Key[Array, ""], bed: Bed, data: Data, draw: Draw, count: int
) -> evidence.Telescope:
    """`count` draws for every data set, leaves [N, R]."""

    @jax.jit
    def run(keys: Key[Array, " N"], x: Array) -> evidence.Telescope:
        def one(point: tuple[Array, Array]) -> evidence.Telescope:
            joint = log_joint(bed.model, bed.theta, point[1])
            q = bed.guide.posterior((), point[1])
            keys = jax.random.split(point[0], count)
            return for_each(lambda key: draw(key, joint, q), keys, min(AT_ONCE, count))

        return jax.lax.map(one, (keys, x))

    return run(jax.random.split(key, len(data.x)), data.x)


def pilot_cost(num_temperatures: int, move_cost: int) -> int:
    """Of the pilot chains: a weight and a move at each temperature, and at 0 to warm up."""
    return PILOT * (NUM_WARM + min(num_temperatures, MOST)) * (move_cost + 1)


def chain_cost(num_chains: int, num_temperatures: int, move_cost: int) -> int:
    """Of annealed chains, either way: a weight and a move at each temperature, and one weight."""
    return num_chains * (1 + num_temperatures * (move_cost + 1))


def particle_cost(num_particles: int, num_temperatures: int, move_cost: int) -> int:
    """Of particles: a weight and a move at each temperature."""
    return num_particles * num_temperatures * (move_cost + 1)


def affordable(budget: int, num_chains: int, move_cost: int) -> int:
    """The most temperatures that so many chains and the pilot can have for the budget."""
    left = budget - chain_cost(num_chains, 0, move_cost) - pilot_cost(0, move_cost)
    few = left // ((num_chains + PILOT) * (move_cost + 1))
    many = (left - PILOT * MOST * (move_cost + 1)) // (num_chains * (move_cost + 1))
    return max(few if few <= MOST else many, 0)


def plan(bed: Bed, num_temperatures: int) -> annealing.Plan:
    """Temperatures placed, and moves tuned, by pilot chains."""
    return annealing.plan(
        annealing.sigmoid(num_temperatures), bed.transition, num_pilot=PILOT, adaptive=True
    )


def by_chains(key: Key[Array, ""], bed: Bed, data: Data, config: "Config") -> dict[str, Column]:
    """Annealed chains both ways from both starts, and particles from the prior."""
    names = [f"{kind}, {start}" for kind in ("annealed", "sandwich") for start in STARTS]
    found: dict[str, Column] = {name: [] for name in (*names, "sequential, prior")}
    for number, budget in enumerate(config.budgets):
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        length = affordable(budget, config.num_chains, bed.move_cost)
        for own, start in zip(keys, STARTS, strict=False):
            both = sandwich(own, bed, data, start, length, config) if length > 1 else (None, None)
            for kind, one in zip(("annealed", "sandwich"), both, strict=True):
                found[f"{kind}, {start}"].append(one)
        length = affordable(budget, config.num_runs * config.num_particles, bed.move_cost)
        one = sequential(keys[2], bed, data, length, config) if length > 1 else None
        found["sequential, prior"].append(one)
    return found


def sandwich(
    key: Key[Array, ""], bed: Bed, data: Data, start: str, num_temperatures: int, config: "Config"
) -> tuple[Answers, Answers]:
    """The lower bound, which is `evidence.annealed`, and the upper with the interval of both."""
    travel = plan(bed, num_temperatures)

    @quick_jit
    def run(keys: Key[Array, " N"], x: Array, z: Latent) -> evidence.Sandwich:
        def one(point: tuple[Array, Array, Latent]) -> evidence.Sandwich:
            key, x, z = point
            prior, guide = bed.model.prior(bed.theta), bed.guide.posterior((), x)
            q = prior if start == "prior" else guide
            joint = log_joint(bed.model, bed.theta, x)
            return evidence.sandwich(key, joint, q, z, config.num_chains, travel)

        return for_each(one, (keys, x, z), batch_size(ROWS, 2 * config.num_chains, len(x)))

    found = jax.device_get(run(jax.random.split(key, len(data.x)), data.x, data.z))
    sizes = (config.num_chains, num_temperatures, bed.move_cost)
    cost = pilot_cost(*sizes[1:]) + chain_cost(*sizes)
    low, high = found.interval(config.level)
    upper = answers(found.upper, cost + chain_cost(*sizes), config.level)
    return answers(found.lower, cost, config.level), upper._replace(low=low, high=high)


def sequential(
    key: Key[Array, ""], bed: Bed, data: Data, num_temperatures: int, config: "Config"
) -> Answers:
    """Several runs of particles from the prior."""
    travel, size = plan(bed, num_temperatures), config.num_runs * config.num_particles

    @quick_jit
    def run(keys: Key[Array, " N"], x: Array) -> evidence.Evidence:
        def one(point: tuple[Array, Array]) -> evidence.Evidence:
            joint, q = log_joint(bed.model, bed.theta, point[1]), bed.model.prior(bed.theta)
            return evidence.sequential(
                point[0], joint, q, config.num_particles, travel, num_runs=config.num_runs
            ).evidence

        return for_each(one, (keys, x), batch_size(ROWS, size, len(x)))

    found = jax.device_get(run(jax.random.split(key, len(data.x)), data.x))
    sizes = (num_temperatures, bed.move_cost)
    return answers(found, pilot_cost(*sizes) + particle_cost(size, *sizes), config.level)
