"""The table of the importance-weighted autoencoder, beside the published one.

Burda, Grosse and Salakhutdinov (2016): VAE and IWAE with k draws, one and two stochastic layers,
trained by the paper's stages (or a shorter schedule), log p of the test images by importance
sampling with both of its errors, and the units of z that are used.

One run directory holds all cells. The same command goes on with a run that was stopped, and a
longer one (more stages, more cells, more test images) adds to it; --budget 0 only measures and
reports what is there.

Leaves config.json, metrics.jsonl, cells/, results.json, figures and report.html.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.iwae_table_cells import Prepared, Record

# What a run directory is of: a command that goes on must have the same.
FIXED = (
    "seed", "dataset", "batch_size", "width", "latent_dim", "short_epochs", "short_rate",
)  # fmt: skip


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment; None means the default that fits the others."""

    dataset: Literal["digits", "mnist", "binarized_mnist"] = "digits"
    """digits (8x8, for a quick look), mnist (bits drawn at every use) or binarized_mnist (fixed)."""
    objectives: tuple[Literal["vae", "iwae"], ...] = ("vae", "iwae")
    """vae (the ELBO, averaged over k draws) and iwae (the bound of k draws); one at k = 1."""
    samples: tuple[int, ...] = (1, 5, 50)
    """k, draws of z for each image and step."""
    layers: tuple[Literal[1, 2], ...] = (1, 2)
    """Stochastic layers."""
    schedules: tuple[Literal["burda", "short"], ...] = ("burda",)
    """burda (the paper's stages) and short (a cosine, larger batches, less noisy gradients)."""
    num_stages: int | None = None
    """Stages of burda, 1 to 8: stage i has 3^i epochs. None means 8, and 4 for the digits."""
    budget: float | None = None
    """Minutes of training, all cells together; no stage begins after them."""
    batch_size: int | None = None
    """Images in each step; None means 20 for burda and 100 for short."""
    short_epochs: int = 60
    """Epochs of short."""
    short_rate: float | None = None
    """Learning rate with which short begins, and falls to 0 as a cosine; None means 4e-3 with one
    stochastic layer and 2e-3 with two."""
    width: int = 200
    """Of the networks between x and z_1; those between z_1 and z_2 have half of it."""
    latent_dim: int = 50
    """Dimension of z in one layer, of z_2 in two; z_1 then has twice as many."""
    evaluation_points: int | None = None
    """Test images that measure a cell at its last stage, at random; None means all."""
    evaluation_samples: int = 5000
    """Draws of z for log p of each of them."""
    curve_points: int = 500
    """Of these images, how many measure a cell after each stage before."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    source: str  # of the images
    num_test: int
    records: "list[list[Record]]"  # of each cell that was begun, its milestones
    path: Path


def main(config: Config) -> Result:
    """Train every cell stage by stage, measure it, and write the table."""
    from experiments import iwae_table_cells as cells
    from experiments import iwae_table_models as models

    config = filled(config)
    check(config)
    images = models.load(config)
    prepared = [cells.prepare(cell, images, config) for cell in grid(config)]
    run = open_run(config)
    total = sum(len(one.milestones) for one in prepared) + len(prepared) + 1
    with progress("iwae_table", total=total) as bar:
        train_all(prepared, images, config, run, bar)
        records = measure_all(prepared, images, run, bar)
        result = Result(config, images.source, len(images.test), records, run.path)
        finish(result, run)
        bar.done("report written")
    return result


def filled(config: Config) -> Config:
    """The configuration with the defaults that depend on others, and nothing named twice."""
    stages = config.num_stages
    if stages is None:
        stages = 4 if config.dataset == "digits" else 8
    once = {
        name: tuple(dict.fromkeys(getattr(config, name)))
        for name in ("objectives", "samples", "layers", "schedules")
    }
    return dataclasses.replace(config, num_stages=stages, **once)


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that the fits would refuse later."""
    from lvm_jax import checks

    checks.integer(config.seed, "seed", 0)
    for name in ("width", "latent_dim"):
        checks.integer(getattr(config, name), name, 2)
    for name in ("short_epochs", "evaluation_samples", "curve_points"):
        checks.integer(getattr(config, name), name, 1)
    for name in ("batch_size", "evaluation_points"):
        if getattr(config, name) is not None:
            checks.integer(getattr(config, name), name, 1)
    for name in ("objectives", "samples", "layers", "schedules"):
        if not getattr(config, name):
            raise ValueError(f"{name}: expected at least one")
    for num_samples in config.samples:
        checks.integer(num_samples, "samples", 1)
    if config.num_stages not in range(1, 9):
        raise ValueError(f"num_stages: expected 1 to 8, got {config.num_stages}")
    if config.budget is not None:
        checks.number(config.budget, "budget")
    if config.short_rate is not None and not checks.number(config.short_rate, "short_rate") > 0:
        raise ValueError(f"short_rate: expected a number > 0, got {config.short_rate:g}")


class Cell(NamedTuple):
    """One entry of the table."""

    schedule: str
    objective: str
    num_samples: int
    num_layers: int

    @property
    def name(self) -> str:
        """Its folder."""
        schedule, objective, num_samples, num_layers = self
        return f"{schedule}-{objective}-k{num_samples}-layers{num_layers}"


def grid(config: Config) -> list[Cell]:
    """The cells; at k = 1 the two objectives are one, and it is called vae."""
    axes = (config.schedules, config.layers, config.objectives, config.samples)
    cells = [
        Cell(schedule, objective if k > 1 else "vae", k, layers)
        for schedule, layers, objective, k in itertools.product(*axes)
    ]
    return list(dict.fromkeys(cells))


def open_run(config: Config) -> run_directory.RunDirectory:
    """A new run directory, or the one of an earlier command that this one goes on with.

    Raises ValueError, naming what differs, if that one was of other data or sizes; FileExistsError
    for a folder that is not a run.
    """
    path = config.out
    known = None if path is None or config.overwrite else path / "config.json"
    if path is not None and known is not None and known.exists():
        old, new = json.loads(known.read_text(encoding="utf-8")), run_directory.plain(config)
        changed = [
            f"{name}: {old.get(name)} then, {new[name]} now"
            for name in FIXED
            if name not in old or old[name] != new[name]
        ]
        if changed:
            raise ValueError(
                f"out: {path} is a run with other settings ({'; '.join(changed)}); choose another "
                "--out, or go on with those"
            )
        run = run_directory.RunDirectory(path)
    else:
        run = run_directory.create("iwae_table", path, config.overwrite)
    run.write_json("config.json", config)
    return run


def train_all(
    prepared: "list[Prepared]",
    images: Any,
    config: Config,
    run: run_directory.RunDirectory,
    bar: Progress,
) -> None:
    """One stage after the other through all cells, so that a budget leaves them equally far."""
    from experiments import iwae_table_cells as cells

    budget = float("inf") if config.budget is None else 60 * config.budget
    for stage in range(max(len(one.milestones) for one in prepared)):
        for one in prepared:
            if stage >= len(one.milestones):
                continue
            epochs = one.milestones[stage]
            known = cells.read(one.folder(run), epochs)
            spent = sum(cells.seconds(other.folder(run)) for other in prepared)
            if known is None and spent >= budget:
                bar.done(f"{one.cell.name}: the budget is spent, no stage to epoch {epochs}")
                continue
            trained = known or cells.reach(one, epochs, images, run, bar)
            found = cells.measure(one, epochs, config.curve_points, images, run, bar)
            if known is None:
                run.log(cell=one.cell.name, **cells.line(trained, found))
            bar.done(f"{one.cell.name}, epoch {epochs}: {cells.told(trained, found)}")


def measure_all(
    prepared: "list[Prepared]",
    images: Any,
    run: run_directory.RunDirectory,
    bar: Progress,
) -> "list[list[Record]]":
    """Every cell that was begun, its last milestone on all of the evaluation's images."""
    from experiments import iwae_table_cells as cells

    found = []
    for one in prepared:
        records = cells.records(one, images, run, bar)
        if records:
            found.append(records)
            last = records[-1]
            run.write_json(f"cells/{one.cell.name}/evaluation.json", last.as_numbers())
            bar.done(f"{one.cell.name}: {cells.told(last.trained, last.evidence)}")
        else:
            bar.done(f"{one.cell.name}: not begun")
    if not found:
        raise ValueError("budget: expected enough minutes for a first stage, got none; raise it")
    return found


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import iwae_table_figures as figures
    from experiments import iwae_table_report as report

    numbers = {
        "source": result.source,
        "cells": [[record.as_numbers() for record in records] for records in result.records],
    }
    publish.publish(run, result, numbers, figures.draw, report.page)
