"""Bounds on log p(x) against the number of samples: which side, how far, and how fast they close.

Three models whose log p(x) and whose law of the weights are known, so that most bounds have an exact
expectation for every S to compare the draws with: IWAE, the jackknife, Renyi, CUBO, EUBO, the
thermodynamic bound, MIWAE, SUMO, and IWAE with one draw from the posterior, an upper bound. The gap
of IWAE falls as 1/S and that of the jackknife of order m as S^-(m+1): measured slopes, with errors.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    import numpy as np

    from experiments.importance_bounds_beds import Bed
    from experiments.importance_bounds_measure import Curve, Slope, Sumo


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    num_weights: int = 2**21
    """Log-weights drawn of each model, a power of 2; S of them make one draw of a bound."""
    largest: int = 256
    """The largest S, a power of 2; the others are the powers of 2 below it."""
    alphas: tuple[float, ...] = (0.5, 2.0)
    """Orders of the Renyi bounds; 0 is IWAE and 1 the ELBO."""
    fit_from: int = 8
    """The smallest S that enters a slope; the largest is the last one before the noise."""
    sumo_start: int = 1
    """Weights of SUMO's first term."""
    sumo_draws: int = 20_000
    """Draws of SUMO."""


class Found(NamedTuple):
    """All that was measured on one model."""

    bed: "Bed"
    curves: "dict[str, Curve]"  # by bound
    slopes: "dict[str, Slope | None]"  # of the bounds with a law; None where noise leaves no fit
    sumo: "Sumo"
    log_weights: "np.ndarray"  # log w - log p(x) of some draws from q
    posterior_log_weights: "np.ndarray"  # of as many from the posterior


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    found: list[Found]
    path: Path


def main(config: Config) -> Result:
    """Draw the log-weights, reduce them, fit the slopes, and write the report."""
    import jax

    check(config)
    run = run_directory.create("importance_bounds", config.out, config.overwrite)
    run.write_json("config.json", config)
    # A jackknife of order m loses a factor S^m of the precision: float32 has none to lose.
    with jax.enable_x64(True):
        from experiments import importance_bounds_beds as beds

        key, made = jax.random.key(config.seed), beds.make_beds(config.seed)
        with progress("importance_bounds", total=2 * len(made) + 1) as bar:
            found = [
                measure(jax.random.fold_in(key, index), bed, config, run, bar)
                for index, bed in enumerate(made)
            ]
            result = Result(config, found, run.path)
            finish(result, run)
            bar.done("report written")
    return result


def measure(
    key: Any, bed: "Bed", config: Config, run: run_directory.RunDirectory, bar: Progress
) -> Found:
    """Every bound on one model, the slopes of those that have a law, and SUMO."""
    import jax
    import numpy as np

    from experiments import importance_bounds_measure as measurement

    key_weights, key_sumo = jax.random.split(key)
    drawn = measurement.draw_weights(key_weights, bed, config.num_weights)
    curves = measurement.measure(bed, drawn, config.largest, config.alphas)
    for name, curve in curves.items():
        columns = zip(curve.num_samples, curve.gap, curve.standard_error, curve.exact, strict=True)
        for size, gap, error, exact in columns:
            numbers = {"gap": gap, "standard_error": error, "exact": exact}
            run.log(bed=bed.name, bound=name, num_samples=size, **numbers)
    slopes = {
        name: measurement.fit_slope(curves[name], config.fit_from)
        for name in measurement.LAWS
        if name in curves
    }
    said = ", ".join(f"{name} {s.value:.3f}" for name, s in slopes.items() if s is not None)
    bar.done(f"{bed.name}: slopes {said or 'none'}")
    sumo = measurement.draw_sumo(key_sumo, bed, config.sumo_start, config.sumo_draws)
    run.log(bed=bed.name, bound="SUMO", **sumo._asdict())
    bar.done(f"{bed.name}: SUMO {sumo.gap:+.3f} ± {sumo.standard_error:.3f} nats from log p")
    log_w, log_v = (np.asarray(part[:100_000]) for part in drawn)
    return Found(bed, curves, slopes, sumo, log_w, log_v)


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that make no bound."""
    from lvm_jax import checks

    for name, least in (("num_weights", 2**10), ("largest", 8)):
        value = checks.integer(getattr(config, name), name, least)
        if value & (value - 1):
            raise ValueError(f"{name}: expected a power of 2, got {value}")
    if config.num_weights < 64 * config.largest:
        raise ValueError(
            f"num_weights: expected at least 64 times largest = {config.largest}, for 64 batches "
            f"of draws, got {config.num_weights}"
        )
    if any(not math.isfinite(alpha) or alpha in (0, 1) for alpha in config.alphas):
        raise ValueError(
            f"alphas: expected finite numbers other than 0 and 1 (IWAE and the ELBO, which are "
            f"always there), got {config.alphas}"
        )
    checks.integer(config.fit_from, "fit_from", 2)
    checks.integer(config.sumo_start, "sumo_start", 1)
    checks.integer(config.sumo_draws, "sumo_draws", 2)


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import importance_bounds_figures as figures
    from experiments import importance_bounds_report as report

    publish.publish(run, result, numbers(result), figures.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    from experiments.importance_bounds_exact import iwae_coefficients

    return {
        found.bed.name: {
            "model": found.bed.said,
            "log_evidence": found.bed.log_evidence,
            "relative_variance": found.bed.atoms.central_moment(2),
            "iwae_coefficients": iwae_coefficients(found.bed.atoms),
            "bounds": {
                name: {k: v for k, v in curve._asdict().items() if k != "batches"}
                for name, curve in found.curves.items()
            },
            "slopes": found.slopes,
            "sumo": found.sumo,
        }
        for found in result.found
    }
