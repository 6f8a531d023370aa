"""Every estimator of log p(x) on exact models: error against cost, coverage, and where each breaks.

Naive Monte Carlo, importance sampling, jackknife, SUMO, multilevel, annealed and sequential chains,
the sandwich and `certify` on models whose log p(x) is a closed form: Gaussian z in growing
dimension, a posterior of two modes of which the guide knows one, tails heavier than the guide's,
and discrete z. Hundreds of data sets drawn from each model; every error and every interval is held
against the truth.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.evidence_lab_beds import Bed
    from experiments.evidence_lab_measure import Cell, Certified

STAGES = 4  # that a bed tells of
AT_ONCE = 2  # beds measured side by side: most of the time goes into compiling, on one core each


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    models: tuple[str, ...] = ("gaussian", "two_modes", "heavy_tails", "discrete")
    """Which models; gaussian is one for each of --dims."""
    dims: tuple[int, ...] = (2, 8, 32)
    """Dimensions of the Gaussian models; each is compiled on its own."""
    modes_dim: int = 4
    """Dimension of the model with two modes."""
    num_points: int = 200
    """Data sets of each model, one point each: what errors and coverages are over."""
    num_certified: int = 300
    """Data sets of each model for `certify`, num_points of them the same."""
    budgets: tuple[int, ...] = (600, 2_000, 6_000, 20_000)
    """Evaluations of the joint density or its gradient for one estimate."""
    num_chains: int = 32
    """Annealed chains each way; the budget decides on the temperatures."""
    num_runs: int = 8
    """Independent runs of sequential Monte Carlo in one estimate."""
    num_particles: int = 8
    """Particles in each run."""
    num_leapfrogs: int = 3
    """Steps of each HMC move."""
    level: float = 0.95
    """Stated level of every interval."""
    tolerance: float = 0.1
    """Half-width that `certify` aims at [nats]."""
    certify_budget: float = 100_000
    """Evaluations that `certify` may spend on one data set."""


class Found(NamedTuple):
    """Everything on one bed."""

    cells: "dict[str, list[Cell | None]]"  # by method, by budget; None: the budget is too small
    certified: "Certified"


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    found: dict[str, Found]  # by the name of the bed
    path: Path


def main(config: Config) -> Result:
    """Measure every bed, and write the report."""
    from experiments import evidence_lab_beds as beds

    check(config)
    run = run_directory.create("evidence_lab", config.out, config.overwrite)
    run.write_json("config.json", config)
    made = beds.make(config)
    with progress("evidence_lab", total=STAGES * len(made) + 1) as bar:
        found = measure(made, config, run, bar)
        result = Result(config, found, run.path)
        finish(result, run)
        bar.done("report written")
    return result


def measure(
    beds: "list[Bed]", config: Config, run: run_directory.RunDirectory, bar: Progress
) -> dict[str, Found]:
    """Every bed with a key of its own, some side by side; what is logged keeps their order."""
    import jax

    from experiments import evidence_lab_measure as measurement
    from experiments.evidence_lab_beds import Data, simulate

    def cells(bed: "Bed", data: Data, key: jax.Array) -> "dict[str, list[Cell | None]]":
        first = jax.tree.map(lambda leaf: leaf[: config.num_points], data)
        return measurement.measure(bed, first, key, config, bar.done)

    def certify(bed: "Bed", data: Data, key: jax.Array) -> "Certified":
        found = measurement.certify(bed, data, key, config)
        bar.done(f"{bed.name}: certificates")
        return found

    keys = jax.random.split(jax.random.key(config.seed), (3, len(beds)))
    data = [
        simulate(key, bed, config.num_certified) for key, bed in zip(keys[0], beds, strict=True)
    ]
    columns, certified = {}, {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for bed, one in zip(beds, pool.map(cells, beds, data, keys[1]), strict=True):
            columns[bed.name] = one
            log(run, bed.name, one)
    # One after another: the flag is every thread's, and batched Cholesky factors, which certify
    # takes, have stood still for good in two threads of jaxlib.
    with quick_to_compile():
        for bed, one_data, key in zip(beds, data, keys[2], strict=True):
            sure = certified[bed.name] = certify(bed, one_data, key)
            run.log(bed=bed.name, method="certify", **sure.numbers())
    return {name: Found(columns[name], certified[name]) for name in columns}


def log(
    run: run_directory.RunDirectory, name: str, columns: "dict[str, list[Cell | None]]"
) -> None:
    """A line for every method and budget."""
    for method, column in columns.items():
        for cell in column:
            if cell is not None:
                run.log(bed=name, method=method, **cell.numbers())


@contextmanager
def quick_to_compile() -> Iterator[None]:
    """Let the compiler do little: the rounds of `certify` take longer to optimise than to run."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that make no model or no estimate."""
    from lvm_jax import checks

    for name, least in (("dims", 1), ("budgets", 10)):
        values = getattr(config, name)
        if not values or list(values) != sorted(set(values)):
            raise ValueError(f"{name}: expected rising numbers, such as 20 80 320, got {values}")
        checks.integer(values[0], name, least)
    for name in config.models:
        checks.choice(name, "models", Config.models)
    if not config.models or len(set(config.models)) < len(config.models):
        raise ValueError(f"models: expected at least one, none of them twice, got {config.models}")
    for name in ("num_points", "num_chains", "num_runs"):
        checks.integer(getattr(config, name), name, 2)
    checks.integer(config.num_certified, "num_certified", config.num_points)
    checks.integer(config.modes_dim, "modes_dim", 1)
    for name in ("num_particles", "num_leapfrogs"):
        checks.integer(getattr(config, name), name, 1)
    for name in ("tolerance", "certify_budget"):
        if not checks.number(getattr(config, name), name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {getattr(config, name):g}")
    if not 0 < config.level < 1:
        raise ValueError(f"level: expected a probability in (0, 1), got {config.level:g}")
    check_budget(config)


def check_budget(config: Config) -> None:
    """Refuse a largest budget that pays for no annealed estimate."""
    from experiments import evidence_lab_beds as beds
    from experiments import evidence_lab_methods as methods

    size = max(config.num_chains, config.num_runs * config.num_particles)
    move_cost = max(config.num_leapfrogs + 1, beds.NUM_VALUES * beds.NUM_VARIABLES)
    least = methods.pilot_cost(2, move_cost) + methods.chain_cost(size, 2, move_cost)
    if config.budgets[-1] < least:
        raise ValueError(
            f"budgets: expected the last to pay for a pilot and {size} chains over 2 "
            f"temperatures, {least:,} evaluations, got {config.budgets[-1]:,}"
        )


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import evidence_lab_figures as figures
    from experiments import evidence_lab_report as report

    publish.publish(run, result, numbers(result), figures.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds: every method at every budget, null where that is too small."""
    return {
        name: {
            "methods": {
                method: [cell and cell.numbers() for cell in column]
                for method, column in found.cells.items()
            },
            "certify": found.certified.numbers(),
        }
        for name, found in result.found.items()
    }
