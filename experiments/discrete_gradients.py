"""Bias, variance and cost of every gradient estimator for discrete latent variables.

First the published toy, one bit and a square, where bias and variance are derived on paper: derived
beside measured, and what each estimator makes of the optimisation. Then a model of real digits with
a few Bernoulli latents, where summing over all z gives the exact gradient, so that bias is measured
and not guessed, theta apart from phi; and the temperature of the relaxed ones against both.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.discrete_gradients_digits import Setting
    from experiments.discrete_gradients_measure import Measured
    from experiments.discrete_gradients_toy import ToyRow


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    targets: tuple[float, ...] = (0.45, 0.499)
    """Toy: the t of E[(b - t)^2]."""
    toy_repeats: int = 200_000
    """Toy: gradients drawn for each estimator."""
    toy_steps: int = 600
    """Toy: steps of gradient descent on the first target."""
    toy_learning_rate: float = 1.0
    """Toy: its step size."""
    toy_seeds: int = 200
    """Toy: runs of each estimator, for the spread."""
    num_latents: int = 6
    """Digits: K, the number of Bernoulli latent variables (2^K values of z)."""
    num_points: int = 8
    """Digits: images whose gradients are averaged."""
    num_samples: int = 2
    """Digits: S, draws of z for each image (ARM and DisARM take half as many pairs)."""
    num_repeats: int = 4000
    """Digits: gradients drawn for each estimator."""
    num_blocks: int = 20
    """Digits: independent blocks of these, for the standard errors."""
    train_steps: int = 60
    """Digits: steps of Adam on the exact ELBO of 200 images before anything is measured."""
    temperatures: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    """Digits: temperatures of the relaxed estimators."""
    adapt_steps: int = 150
    """Digits: steps that adapt the control variate of RELAX to less variance."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    toy: "dict[float, dict[str, ToyRow]]"  # by target, then estimator
    losses: dict[str, np.ndarray]  # [seeds, steps + 1], the toy's exact loss on the way
    setting: "Setting"
    measured: "dict[str, Measured]"  # by estimator
    relaxed: "dict[str, list[Measured]]"  # by estimator, one for each temperature
    path: Path


def main(config: Config) -> Result:
    """The toy, its optimisation, the digits, the temperatures, and the report."""
    import jax

    from experiments import discrete_gradients_digits as digits
    from experiments import discrete_gradients_measure as measuring
    from experiments import discrete_gradients_toy as toys

    check(config)
    run = run_directory.create("discrete_gradients", config.out, config.overwrite)
    run.write_json("config.json", config)
    key_toy, key_descend, key_train, key_adapt, key_draws = jax.random.split(
        jax.random.key(config.seed), 5
    )
    names = (*digits.estimators(config, None), *digits.RELAXED)
    with progress("discrete_gradients", total=len(names) + 4) as bar:
        with jax.enable_x64(True):  # some variances are zero, and must be seen to be
            toy = toys.measure(key_toy, config)
            bar.done(f"toy: {config.toy_repeats:,} gradients of {len(toys.ESTIMATORS)} estimators")
            losses = toys.descend(key_descend, config)
        bar.done(f"toy: {config.toy_seeds} descents of {config.toy_steps} steps")
        setting = digits.prepare(key_train, key_adapt, config)
        run.log(stage="train", elbo=setting.elbo, log_evidence=setting.log_evidence)
        bar.done(f"digits: exact ELBO {setting.elbo:.3f} nats after {config.train_steps} steps")
        measured, relaxed = {}, {}
        for place, (name, entry) in enumerate(digits.estimators(config, setting).items()):
            key = jax.random.fold_in(key_draws, place)
            measured[name] = measuring.measure(key, setting, entry, config)
            log(run, name, None, measured[name])
            bar.done(f"digits: {name}, {measured[name].microseconds:.1f} µs a gradient")
        for place, (name, make) in enumerate(digits.RELAXED.items(), len(measured)):
            key = jax.random.fold_in(key_draws, place)
            relaxed[name] = measuring.sweep(key, setting, make, config)
            for temperature, found in zip(config.temperatures, relaxed[name], strict=True):
                log(run, name, temperature, found)
            bar.done(f"digits: {name} at {len(config.temperatures)} temperatures")
        result = Result(config, toy, losses, setting, measured, relaxed, run.path)
        finish(result, run)
        bar.done("report written")
    return result


def log(
    run: run_directory.RunDirectory, name: str, temperature: float | None, found: "Measured"
) -> None:
    """One line of metrics for each group."""
    for group, part in found.groups.items():
        run.log(estimator=name, temperature=temperature, group=group, **part._asdict())


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that leave nothing to measure."""
    from lvm_jax import checks

    for name, least in {
        "toy_repeats": 2,
        "toy_steps": 1,
        "toy_seeds": 1,
        "num_latents": 1,
        "num_points": 1,
        "num_samples": 2,
        "num_blocks": 3,
        "train_steps": 1,
        "adapt_steps": 1,
    }.items():
        checks.integer(getattr(config, name), name, least)
    checks.integer(config.num_repeats, "num_repeats", 2 * config.num_blocks)
    if config.num_samples % 2:
        raise ValueError(
            f"num_samples: expected an even number (ARM draws pairs), got {config.num_samples}"
        )
    if config.num_latents * config.num_samples > 14:
        raise ValueError(
            "num_latents: expected at most 14 / num_samples, for IWAE is summed over "
            f"2^(num_latents x num_samples) values; got {config.num_latents}"
        )
    for name in ("targets", "temperatures"):
        values = getattr(config, name)
        if not values or list(values) != sorted(set(values)) or not values[0] > 0:
            raise ValueError(f"{name}: expected rising positive numbers, got {values}")
    if not config.targets[-1] < 1:
        raise ValueError(f"targets: expected numbers between 0 and 1, got {config.targets}")
    if not checks.number(config.toy_learning_rate, "toy_learning_rate") > 0:
        raise ValueError("toy_learning_rate: expected a number > 0, got 0")


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import discrete_gradients_figures as figures
    from experiments import discrete_gradients_report as report

    setting = result.setting
    results = {
        "toy": result.toy,
        "toy_final_loss": {
            name: {"mean": curves[:, -1].mean(), "sd": curves[:, -1].std()}
            for name, curves in result.losses.items()
        },
        "digits": {
            "elbo": setting.elbo,
            "log_evidence": setting.log_evidence,
            "size_of_gradient": setting.norms,
            "estimators": result.measured,
            "temperatures": result.relaxed,
        },
    }
    publish.publish(run, result, results, figures.draw, report.page)
