"""Monte Carlo for log p(x) as z grows: from the prior or a uniform it fails, from a good q it works.

The lecture's section 0.3 on two models whose log p(x) is known: a linear-Gaussian one in growing
dimension, and z in {1, ..., L}^K with growing K, exact by enumeration. Three ways to draw z (four
for the first model), the same estimate for all: its error over repeats, the standard error that it
reports itself, ESS, k-hat, and how many draws it would need.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    import numpy as np

    from experiments.marginal_likelihood_beds import Bed
    from experiments.marginal_likelihood_measure import Cell


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    dims: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Dimensions of the Gaussian z; each is compiled on its own."""
    num_variables: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    """Numbers K of discrete variables; the truth is a sum over L^K terms."""
    num_values: int = 3
    """Values L of each discrete variable."""
    num_samples: tuple[int, ...] = (10, 100, 1_000, 10_000)
    """Numbers S of draws in one estimate; the first S of the same draws."""
    num_repeats: int = 100
    """Independent estimates of each kind."""
    noise: float = 0.5
    """Standard deviation of x given z [prior standard deviations of z]."""
    coupling: float = 0.5
    """x_i = z_i + coupling z_(i+1) + noise: what makes the posterior correlated."""
    box: float = 5.0
    """Half the side of the box of the uniform draws [prior standard deviations]."""
    widen: float = 1.2
    """q's standard deviations, as multiples of the posterior's."""
    shift: float = 0.1
    """How far q's mean is off, along every axis [posterior standard deviations]."""
    defensive: float = 0.1
    """Share of the uniform in each factor of the discrete q."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    beds: "dict[str, list[Bed]]"  # by kind (gaussian, discrete), one for each size
    cells: "dict[str, list[dict[str, list[Cell]]]]"  # kind, size, method, number of draws
    shares: "dict[str, list[dict[str, np.ndarray]]]"  # kind, size, method: share of the top n
    path: Path


def main(config: Config) -> Result:
    """Draw, estimate, compare with the truth, and write the report."""
    from experiments import marginal_likelihood_beds as beds

    check(config)
    run = run_directory.create("marginal_likelihood", config.out, config.overwrite)
    run.write_json("config.json", config)
    makers = {
        "gaussian": (beds.gaussian, config.dims),
        "discrete": (beds.discrete, config.num_variables),
    }
    total = sum(len(sizes) for _, sizes in makers.values()) + 1
    with progress("marginal_likelihood", total=total) as bar:
        result = Result(config, {}, {}, {}, run.path)
        for number, (kind, (make, sizes)) in enumerate(makers.items()):
            made = [make(size, config) for size in sizes]
            found = [measure(bed, (number, bed.size), config, run, bar) for bed in made]
            result.beds[kind] = made
            result.cells[kind] = [cells for cells, _ in found]
            result.shares[kind] = [shares for _, shares in found]
        finish(result, run)
        bar.done("report written")
    return result


def measure(
    bed: "Bed",
    stream: tuple[int, int],
    config: Config,
    run: run_directory.RunDirectory,
    bar: Progress,
) -> "tuple[dict[str, list[Cell]], dict[str, np.ndarray]]":
    """Every method on one model; `stream` is what sets its random numbers apart."""
    import jax

    from experiments import marginal_likelihood_measure as measurement

    key = jax.random.key(config.seed)
    for part in stream:
        key = jax.random.fold_in(key, part)
    cells, shares = measurement.measure(key, bed, config.num_samples, config.num_repeats)
    for name, column in cells.items():
        for cell in column:
            run.log(bed=bed.kind, size=bed.size, method=name, **cell.numbers())
    said = ", ".join(f"{name} {column[-1].rmse:.2g}" for name, column in cells.items())
    bar.done(f"{bed.kind} z of {bed.size}: RMS error in nats: {said}")
    return cells, shares


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that make no model or no estimate."""
    from lvm_jax import checks
    from lvm_jax.distributions import MAX_SUPPORT

    for name in ("dims", "num_variables", "num_samples"):
        values = getattr(config, name)
        if not values or list(values) != sorted(set(values)):
            raise ValueError(f"{name}: expected rising numbers, such as 2 4 16, got {values}")
        checks.integer(values[0], name, 2 if name == "num_samples" else 1)
    checks.integer(config.num_values, "num_values", 2)
    checks.integer(config.num_repeats, "num_repeats", 2)
    most = config.num_values ** config.num_variables[-1]
    if most > MAX_SUPPORT:
        raise ValueError(
            f"num_variables: expected at most {MAX_SUPPORT:,} values of z, so that the truth can "
            f"be enumerated, got {config.num_values}^{config.num_variables[-1]} = {most:,}"
        )
    for name in ("noise", "box"):
        if not checks.number(getattr(config, name), name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {getattr(config, name):g}")
    if not checks.number(config.widen, "widen") > 0.5**0.5:
        raise ValueError(
            "widen: expected more than 0.7071, at and below which the weights have no variance, "
            f"got {config.widen:g}"
        )
    for name in ("coupling", "shift"):
        if not abs(getattr(config, name)) < float("inf"):
            raise ValueError(f"{name}: expected a finite number, got {getattr(config, name):g}")
    if not 0 < config.defensive <= 1:
        raise ValueError(f"defensive: expected a share above 0, up to 1, got {config.defensive:g}")


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import marginal_likelihood_figures as figures
    from experiments import marginal_likelihood_report as report

    publish.publish(run, result, numbers(result), figures.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds: for each model the truth, and every estimator beside it."""
    return {
        kind: [
            {
                "size": bed.size,
                "x": bed.x,
                "log_evidence": bed.log_evidence,
                "outside_box": bed.outside_box,
                "log_second_moment": bed.log_second_moment,
                "methods": {name: [c.numbers() for c in column] for name, column in cells.items()},
            }
            for bed, cells in zip(beds, result.cells[kind], strict=True)
        ]
        for kind, beds in result.beds.items()
    }
