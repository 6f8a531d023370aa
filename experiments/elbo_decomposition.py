"""Move q away from the posterior: ELBO and KL change, and their sum stays log p(x).

The lecture's section 0.3 on a model where every number is known, a linear-Gaussian one whose 2-D
posterior is correlated: the identity log p(x) = ELBO + KL(q || posterior) measured in both
precisions, the ELBO as energy + entropy (the lecture's (12)) and as reconstruction - KL(q || prior),
Jensen's inequality as two families of histograms, and what becomes of q when it follows the energy
alone.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.elbo_decomposition_terms import Ascent, Bed, Deviations, Jensen, Knobs, Parts
    from lvm_jax.decomposition import Decomposition


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    posterior_correlation: float = -0.8
    """Correlation of z1 and z2 under the posterior; the model is made so that it comes out."""
    num_points: int = 81
    """Values of each knob of q: location, scale, correlation."""
    shift: float = 0.7
    """Jensen's q: its mean, moved along the long axis [posterior standard deviations]."""
    scale: float = 1.1
    """Jensen's q: its standard deviations, as multiples of the posterior's."""
    correlation: float = 0.0
    """Jensen's q: its correlation; 0 is a mean-field q."""
    num_samples: tuple[int, ...] = (1, 4, 16, 64, 256)
    """Jensen: numbers S of weights that are averaged."""
    num_repeats: int = 4000
    """Jensen: draws of each average; each draws the largest S weights and uses the first S."""
    num_steps: int = 300
    """Steps of gradient ascent on the energy alone, and on energy + entropy."""
    learning_rate: float = 0.05
    """Adam's, of the ascent."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    bed: "Bed"
    log_evidence: float  # log p(x) in nats, exact
    paths: "dict[str, Knobs]"  # each knob turned alone; leaves [M]
    parts: "dict[str, Parts]"  # along each path, float64; leaves [M]
    named: "dict[str, tuple[Knobs, Parts]]"  # some q that have a name
    deviations: "dict[str, Deviations]"  # by precision: float32, float64
    sampled: "Decomposition"  # the terms of Jensen's q from draws, with standard errors
    jensen: "Jensen"
    ascents: "dict[str, Ascent]"  # energy alone, energy + entropy
    path: Path


def main(config: Config) -> Result:
    """Move q, measure every term, draw the averages, climb, and write the report."""
    import jax

    from experiments import elbo_decomposition_terms as terms

    check(config)
    run = run_directory.create("elbo_decomposition", config.out, config.overwrite)
    run.write_json("config.json", config)
    key_sampled, key_jensen = jax.random.split(jax.random.key(config.seed))
    with progress("elbo_decomposition", total=5) as bar:
        bed = terms.make_bed(config.posterior_correlation)
        paths = terms.make_paths(bed, config.num_points)
        named = terms.named_knobs(bed, config)
        parts, named_parts, deviations = terms.measure(bed, paths, named)
        for precision, found in deviations.items():
            run.log(stage="identity", precision=precision, **found.largest)
            bar.done(f"{precision}: |ELBO + KL - log p| <= {found.largest['identity']:.1e} nats")
        own = named["Jensen's q"]
        sampled = terms.sample_terms(key_sampled, bed, own, 100_000)
        jensen = terms.draw_averages(key_jensen, bed, own, config)
        for size, mean in zip(config.num_samples, jensen.log_of_average.mean(1), strict=True):
            run.log(stage="jensen", num_samples=size, mean_log_of_average=mean)
        bar.done(f"Jensen: {config.num_repeats:,} averages of each S drawn")
        ascents = terms.climb(bed, config)
        for name, ascent in ascents.items():
            run.log(
                stage="ascent", objective=name, elbo=ascent.elbo[-1], entropy=ascent.entropy[-1]
            )
        bar.done(f"climbed {config.num_steps} steps with and without the entropy")
        result = Result(
            config=config,
            bed=bed,
            log_evidence=bed.log_evidence,
            paths=paths,
            parts=parts,
            named={name: (named[name], named_parts[name]) for name in named},
            deviations=deviations,
            sampled=sampled,
            jensen=jensen,
            ascents=ascents,
            path=run.path,
        )
        finish(result, run)
        bar.done("report written")
    return result


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that make no q or no average."""
    from lvm_jax import checks

    for name in ("posterior_correlation", "correlation"):
        value = getattr(config, name)
        if not -0.99 <= value <= 0.99:
            raise ValueError(f"{name}: expected a correlation from -0.99 to 0.99, got {value:g}")
    if not abs(config.shift) < float("inf"):
        raise ValueError(f"shift: expected a finite number, got {config.shift:g}")
    for name in ("scale", "learning_rate"):
        if not checks.number(getattr(config, name), name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {getattr(config, name):g}")
    checks.integer(config.num_points, "num_points", 3)
    checks.integer(config.num_repeats, "num_repeats", 2)
    checks.integer(config.num_steps, "num_steps", 1)
    if not config.num_samples or list(config.num_samples) != sorted(set(config.num_samples)):
        raise ValueError(
            f"num_samples: expected rising numbers, such as 1 16 256, got {config.num_samples}"
        )
    checks.integer(config.num_samples[0], "num_samples", 1)


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import elbo_decomposition_figures as figures
    from experiments import elbo_decomposition_report as report

    publish.publish(run, result, numbers(result), figures.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    jensen = result.jensen
    averages = [
        {
            "num_samples": size,
            "mean_log_of_average": above.mean(),
            "standard_error": above.std(ddof=1) / np.sqrt(len(above)),
            "mean_average_of_logs": below.mean(),
            "sd_log_of_average": above.std(ddof=1),
            "sd_average_of_logs": below.std(ddof=1),
        }
        for size, above, below in zip(
            result.config.num_samples, jensen.log_of_average, jensen.average_of_logs, strict=True
        )
    ]
    return {
        "model": result.bed._asdict(),
        "log_evidence": result.log_evidence,
        "largest_deviation": {name: d.largest for name, d in result.deviations.items()},
        "named": {name: {"knobs": k, "terms": p} for name, (k, p) in result.named.items()},
        "paths": {
            name: {"knobs": k, "terms": result.parts[name]} for name, k in result.paths.items()
        },
        "sampled": result.sampled,
        "jensen": {"relative_variance": jensen.relative_variance, "averages": averages},
        "ascents": {
            name: {
                "mean": a.mean[-1],
                "covariance": a.covariance[-1],
                "energy": a.energy[-1],
                "entropy": a.entropy[-1],
                "elbo": a.elbo[-1],
            }
            for name, a in result.ascents.items()
        },
    }
