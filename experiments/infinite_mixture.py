"""An infinite mixture of Gaussians, trained by the ELBO, beside a finite one fitted by EM.

The lecture's equations (4) and (5): x | z is Gaussian, its mean and variances are functions of a
continuous z. The lecture's one layer, and one with a hidden layer below it (which goes beyond the
lecture's equations), are trained on curved data in the plane with an amortised guide; each stands
beside a K-component mixture with about as many parameters: densities, samples, and the held-out
log p(x) with its errors.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.infinite_mixture_data import LogDensity
    from experiments.infinite_mixture_evaluation import Deep, Density, Frame
    from lvm_jax.data import Dataset


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment; None means the default that fits the others."""

    data: str = "pinwheel"
    """pinwheel, moons, banana, lecture, old_faithful, or the path of a .csv, .tsv, .npy or .parquet file."""
    columns: tuple[str, ...] | None = None
    """The two columns to use, by name."""
    num_points: int = 3000
    """Points of pinwheel, moons or banana."""
    held_out: float = 1 / 3
    """Share of the points that no fit sees."""
    hidden: int = 16
    """Width of the second model's hidden layer; 0 trains only the lecture's one layer."""
    mean_activation: Literal["identity", "tanh", "sin"] = "identity"
    """h of the lecture's one layer; tanh and sin reach one standard deviation of the data."""
    bound: Literal["elbo", "iwae"] = "elbo"
    """What is maximised."""
    num_samples: int | None = None
    """Draws of z per data point and step; None means 1 for elbo and 8 for iwae."""
    guide: Literal["network", "linear"] = "network"
    """q(z | x): parameters by a network of two layers of 32, or linear in x."""
    num_steps: int = 6000
    """Steps of Adam."""
    batch_size: int = 256
    """Points in each step."""
    learning_rate: float = 0.01
    """Of the first step; falls to 0 as a cosine."""
    num_starts: int = 4
    """Random starts, trained together; the one whose bound ends highest is kept."""
    num_records: int = 30
    """Points of the learning curve."""
    num_restarts: int = 10
    """Restarts of EM."""
    num_nodes: int = 200
    """Nodes of the quadrature over z, along each axis."""
    evidence_samples: int = 1000
    """Draws of z per held-out point in importance sampling."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    dataset: "Dataset"
    train: np.ndarray  # [N, 2], in the data's units
    test: np.ndarray  # [M, 2]
    frame: "Frame"  # the standardisation, and the window of the figures
    deep: "list[Deep]"
    mixtures: "list[Density]"  # one for each of `deep`, with about as many parameters
    truth: "Density | None"
    path: Path


def main(config: Config) -> Result:
    """Train, fit, evaluate on held-out points, and write the report."""
    from experiments import infinite_mixture_data as data

    config = filled(config)
    check(config)
    dataset, log_density = data.load(config.data, config.columns, config.num_points, config.seed)
    train, test = split(dataset.x, config)
    run = run_directory.create("infinite_mixture", config.out, config.overwrite)
    run.write_json("config.json", config)
    num_models = 2 if config.hidden else 1
    total = num_models * (config.num_records + 2) + 1
    with progress("infinite_mixture", total=total) as bar:
        result = fit_all(config, dataset, train, test, log_density, run, bar)
        finish(result, run)
        bar.done("report written")
    return result


def filled(config: Config) -> Config:
    """The configuration with the defaults that depend on others."""
    if config.num_samples is not None:
        return config
    return dataclasses.replace(config, num_samples=1 if config.bound == "elbo" else 8)


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that the fits would refuse later."""
    from lvm_jax import checks

    checks.integer(config.hidden, "hidden", 0)
    for name in ("num_samples", "num_steps", "batch_size", "num_records"):
        checks.integer(getattr(config, name), name, 1)
    for name in ("num_starts", "num_restarts"):
        checks.integer(getattr(config, name), name, 1)
    checks.integer(config.num_points, "num_points", 30)
    checks.integer(config.num_nodes, "num_nodes", 20)
    checks.integer(config.evidence_samples, "evidence_samples", 30)
    if config.num_steps % config.num_records:
        raise ValueError(
            f"num_steps: expected a multiple of num_records = {config.num_records}, got "
            f"{config.num_steps}"
        )
    if not 0 < config.held_out < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, got {config.held_out:g}")
    if not checks.number(config.learning_rate, "learning_rate") > 0:
        raise ValueError(f"learning_rate: expected a number > 0, got {config.learning_rate:g}")


def split(x: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows held out, at random; ValueError if either are too few."""
    order = np.random.default_rng([config.seed, 1]).permutation(len(x))
    num_test = round(config.held_out * len(x))
    if num_test < 10 or len(x) - num_test < 20:
        raise ValueError(
            f"data: expected at least 20 rows to fit and 10 held out, got {len(x) - num_test} and "
            f"{num_test}; bring more rows or change --held-out"
        )
    return x[order[num_test:]], x[order[:num_test]]


def fit_all(
    config: Config,
    dataset: "Dataset",
    train: np.ndarray,
    test: np.ndarray,
    log_density: "LogDensity | None",
    run: run_directory.RunDirectory,
    bar: Progress,
) -> Result:
    """Every model and its mixture, measured on the held-out points."""
    import jax

    from experiments import infinite_mixture_evaluation as evaluation
    from experiments import infinite_mixture_training as training

    frame = evaluation.make_frame(train, test)
    guide = training.make_guide(config.guide)
    deep, mixtures = [], []
    for index, (name, model) in enumerate(training.make_models(config).items()):

        def on_record(record: tuple[int, float, float, float], name: str = name) -> None:
            step, bound, elbo, evidence = record
            run.log(model=name, step=step, bound=bound, held_out_elbo=elbo, held_out_log_p=evidence)
            bar.done(f"{name}, step {step}: ELBO {elbo:.3f}, log p {evidence:.3f} held out")

        key = jax.random.fold_in(jax.random.key(config.seed), index)
        key_train, key_measure, key_mixture = jax.random.split(key, 3)
        white, unseen = frame.standardize(train), frame.standardize(test)
        theta, phi, curve = training.train(
            key_train, model, guide, white, unseen[: training.WATCHED], config, on_record
        )
        found = evaluation.measure(
            key_measure, name, model, guide, theta, phi, curve, train, test, frame, config
        )
        deep.append(found)
        bar.done(f"{name}: {found.density.log_p.mean():.4f} nats per held-out point")
        size = found.density.num_parameters
        mixture = evaluation.fit_mixture(key_mixture, size, train, test, frame, config)
        mixtures.append(mixture)
        bar.done(f"{mixture.name}: {mixture.log_p.mean():.4f} nats per held-out point")
    truth = evaluation.true_density(log_density, train, test, frame)
    return Result(config, dataset, train, test, frame, deep, mixtures, truth, run.path)


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import infinite_mixture_figures as figures
    from experiments import infinite_mixture_report as report

    publish.publish(run, result, numbers(result), figures.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    from experiments.infinite_mixture_evaluation import mean_and_error, paired

    def held_out(density: "Density") -> dict[str, Any]:
        mean, error = mean_and_error(density.log_p)
        return {
            "num_parameters": density.num_parameters,
            "train_log_p": density.train_log_p,
            "held_out_log_p": mean,
            "sampling_error": error,
            **density.details,
        }

    models = {
        d.density.name: {
            **held_out(d.density),
            "num_guide_parameters": d.num_guide_parameters,
            "held_out_elbo": d.elbo,
            "importance_sampling": d.importance._asdict(),
            "quadrature_change": d.quadrature_change,
            "less_mixture": paired(d.density, m),
            "less_truth": None if result.truth is None else paired(d.density, result.truth),
            "theta": d.theta,
            "curve": d.curve,
        }
        for d, m in zip(result.deep, result.mixtures, strict=True)
    }
    return {
        "num_train": len(result.train),
        "num_held_out": len(result.test),
        "standardisation": {"mean": result.frame.mean, "sd": result.frame.sd},
        "models": models,
        "mixtures": {m.name: held_out(m) for m in result.mixtures},
        "truth": None if result.truth is None else held_out(result.truth),
    }
