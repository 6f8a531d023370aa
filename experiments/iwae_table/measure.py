"""Training and evaluation of all cells of the table, and the published numbers."""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.iwae_table import cells
from experiments.iwae_table.cells import Cell, Prepared, Record, summary
from experiments.iwae_table.config import Config
from lvm_jax.report import Run, point_ids
from lvm_jax.vae import Pixels

Published = dict[tuple[str, int, int], float]  # objective, k, layers -> test log p

# Burda et al. (2016), after all eight stages, k = 5,000: the entries confirmed by a second source.
PUBLISHED: dict[str, Published] = {
    "mnist": {
        ("vae", 1, 1): -86.76, ("vae", 5, 1): -86.47, ("vae", 50, 1): -86.35,
        ("iwae", 5, 1): -85.54, ("iwae", 50, 1): -84.78,
        ("vae", 1, 2): -85.33, ("vae", 5, 2): -85.01, ("vae", 50, 2): -84.78,
        ("iwae", 5, 2): -83.89, ("iwae", 50, 2): -82.90,
    },
    "binarized_mnist": {
        ("vae", 1, 1): -88.71, ("iwae", 5, 1): -87.63, ("iwae", 50, 1): -87.10,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    source: str  # of the images
    num_test: int
    records: list[list[Record]]  # the milestones of each started cell
    points: dict[str, np.ndarray]  # of the images common to all cells at their last milestones

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json: every milestone of every cell."""
        rows = [[record.as_numbers() for record in records] for records in self.records]
        return {"source": self.source, "cells": rows}


class Difference(NamedTuple):
    """log p of a cell minus that of the VAE with k = 1 on the same images, nats."""

    cell: Cell
    epochs: int
    num_points: int
    mean: float
    standard_error: float


def grid(config: Config) -> list[Cell]:
    """The cells; at k = 1 the two objectives are equal, and the name is vae."""
    axes = (config.schedules, config.layers, config.objectives, config.samples)
    cells = [
        Cell(schedule, objective if k > 1 else "vae", k, layers)
        for schedule, layers, objective, k in itertools.product(*axes)
    ]
    return list(dict.fromkeys(cells))


def load(config: Config) -> tuple[Pixels, list[Prepared]]:
    """The images and the cells."""
    images = cells.load(config)
    return images, [cells.prepare(cell, images, config) for cell in grid(config)]


def measure(config: Config, run: Run, loaded: tuple[Pixels, list[Prepared]]) -> Result:
    """Train every cell stage by stage, and evaluate it."""
    images, prepared = loaded
    run.begin(sum(len(one.milestones) for one in prepared) + len(prepared))
    train_all(prepared, images, config, run)
    records = []
    for one in prepared:
        found = cells.records(one, images, run)
        run.done(one.cell.name if found else f"{one.cell.name}: not begun")
        records += [found] if found else []
    if not records:
        raise ValueError("budget: expected enough minutes for a first stage, got none; raise it")
    return Result(
        config, images.images.source, len(images.test), records, of_points(images, records)
    )


def train_all(prepared: list[Prepared], images: Pixels, config: Config, run: Run) -> None:
    """Train all cells one stage at a time, so that a budget reaches the same stage in all."""
    budget = float("inf") if config.budget is None else 60 * config.budget
    for stage in range(max(len(one.milestones) for one in prepared)):
        for one in prepared:
            if stage >= len(one.milestones):
                continue
            epochs = one.milestones[stage]
            known = cells.read(one.folder(run, epochs))
            spent = sum(cells.seconds(other.folder(run)) for other in prepared)
            if known is None and spent >= budget:
                run.done(f"{one.cell.name}: the budget is spent, no stage to epoch {epochs}")
                continue
            trained = known or cells.reach(one, epochs, images, run)
            found = cells.measure(one, epochs, config.curve_points, images, run)
            whole = summary(found)
            run.log(
                epochs=epochs, seconds_trained=trained.seconds, train_bound=trained.bound,
                log_p=whole.log_evidence, num_points=whole.num_points, cell=one.cell.name,
            )  # fmt: skip
            run.done(f"{one.cell.name}, epoch {epochs}: log p {found.log_evidence.mean():.2f}")


def of_points(images: Pixels, records: list[list[Record]]) -> dict[str, np.ndarray]:
    """log p, its error and k-hat of each test image, at each cell's last milestone."""
    num = min(len(rows[-1].evidence.log_evidence) for rows in records)
    columns = {
        f"{field}, {rows[-1].cell.name}": getattr(rows[-1].evidence, field)[:num]
        for rows in records
        for field in ("log_evidence", "standard_error", "k_hat")
    }
    return {"point": point_ids(images.test[:num]), **columns}


def common_points(result: Result) -> int:
    """The number of images that are common to every milestone of every cell."""
    return min(len(r.evidence.log_evidence) for records in result.records for r in records)


def best(result: Result) -> list[Record]:
    """The cell with the highest log p for each schedule and number of layers."""
    kinds: dict[tuple[str, int], list[Record]] = {}
    for *_, last in result.records:
        kinds.setdefault((last.cell.schedule, last.cell.num_layers), []).append(last)
    return [
        max(rows, key=lambda row: summary(row.evidence).log_evidence) for rows in kinds.values()
    ]


def differences(result: Result) -> list[Difference]:
    """Differences of cells to the VAE with k = 1 at the last common milestone, if any."""
    found = []
    for records in result.records:
        cell = records[0].cell
        plain = cell._replace(objective="vae", num_samples=1)
        pairs = [
            (mine, base)
            for bases in result.records
            for mine, base in itertools.product(records, bases)
            if base.cell == plain != cell and base.trained.epochs == mine.trained.epochs
        ]
        for mine, base in pairs[-1:]:
            log_p = mine.evidence.log_evidence.astype(float), base.evidence.log_evidence
            num = min(map(len, log_p))
            gap = log_p[0][:num] - log_p[1][:num]
            error = gap.std(ddof=1) / num**0.5 if num > 1 else np.nan
            found.append(
                Difference(cell, mine.trained.epochs, num, float(gap.mean()), float(error))
            )
    return found
