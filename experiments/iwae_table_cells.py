"""A cell of the table: trained to a milestone, measured in pieces, and kept so that a kill costs little.

    cells/NAME/training/        checkpoints and metrics.jsonl of `training.fit`
    cells/NAME/epochs-00121/    the model there, milestone.json, and evidence-*.npz in pieces
    cells/NAME/evaluation.json  the last milestone's numbers

Whatever has its file is not done again.
"""

import io
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import iwae_table_models as models
from experiments.iwae_table_models import Images
from experiments.progress import Progress
from experiments.run_directory import RunDirectory
from lvm_jax import diagnostics, evidence, training
from lvm_jax.evidence import Evidence, Summary
from lvm_jax.gradients import Estimate
from lvm_jax.guides import Guide
from lvm_jax.models import Model

if TYPE_CHECKING:
    from experiments.iwae_table import Cell, Config

PIECE = 500  # images of one file of evidence: what a kill can lose
MEAN_SAMPLES = 100  # draws of z_1 for the posterior mean of z_2


class Prepared(NamedTuple):
    """A cell with all that its training needs."""

    cell: "Cell"
    config: "Config"
    description: dict[str, Any]  # of the model, for `models.build`
    model: Model
    guide: Guide
    bias: np.ndarray  # of the decoder's output at the start, [D]
    estimate: Estimate
    optimizer: optax.GradientTransformation
    batch_size: int
    milestones: list[int]  # epochs

    def folder(self, run: RunDirectory) -> Path:
        """Where all of the cell lies."""
        return run.path / "cells" / self.cell.name


class Trained(NamedTuple):
    """A milestone: what milestone.json holds."""

    epochs: int
    step: int
    seconds: float  # of training since its beginning, compiling and stops to save included
    bound: float  # the training objective over the last epoch, nats
    variance: list[list[float]]  # A_u of every unit, for each stochastic layer
    active: list[int]  # how many are above the threshold


class Record(NamedTuple):
    """A milestone with its evidence."""

    cell: "Cell"
    told: str  # how much of the schedule it has had
    trained: Trained
    evidence: Evidence  # leaves [M]: of the first M test images in the order of the evaluation

    def as_numbers(self) -> dict[str, Any]:
        """What is written of it."""
        return {
            **self.cell._asdict(),
            "schedule_done": self.told,
            **self.trained._asdict(),
            **summary(self.evidence)._asdict(),
            "reliable": not summary(self.evidence).num_untrusted,
            "verdict": self.evidence.verdict(),
            "evaluation_samples": int(self.evidence.num_samples[0]),
        }


def prepare(cell: "Cell", images: Images, config: "Config") -> Prepared:
    """Model, guide, gradients and schedule of a cell; ValueError if a batch is larger than the data."""
    size = models.batch_size(cell, config)
    if size > len(images.train):
        raise ValueError(
            f"batch_size: expected at most {len(images.train)}, the images to train on, got {size}"
        )
    description = models.describe(cell, images.train.shape[1], config)
    steps_per_epoch = len(images.train) // size
    optimizer = models.optimizer(
        cell.schedule, size, steps_per_epoch, config.short_epochs, models.short_rate(cell, config)
    )
    return Prepared(
        cell, config, description, *models.build(description), images.output_bias,
        models.estimator(cell.schedule, cell.objective), optimizer, size,
        models.milestones(cell, config),
    )  # fmt: skip


def folder_of(folder: Path, epochs: int) -> Path:
    """Where a milestone lies."""
    return folder / f"epochs-{epochs:05d}"


def read(folder: Path, epochs: int) -> Trained | None:
    """A milestone that was reached before."""
    path = folder_of(folder, epochs) / "milestone.json"
    return Trained(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def seconds(folder: Path) -> float:
    """How long a cell was trained, to its last milestone."""
    found = [json.loads(path.read_text()) for path in folder.glob("epochs-*/milestone.json")]
    return max((one["seconds"] for one in found), default=0.0)


def reach(
    prepared: Prepared, epochs: int, images: Images, run: RunDirectory, bar: Progress
) -> Trained:
    """Train to a milestone, keep the model, and count its active units on the test images."""
    cell, config, folder = prepared.cell, prepared.config, prepared.folder(run)
    begin = models.start(
        models.key_of(3, config.seed), prepared.model, prepared.guide, prepared.bias
    )
    fit = training.fit(
        models.key_of(0, config.seed), prepared.model, prepared.guide, images.train,
        estimate=prepared.estimate, num_samples=cell.num_samples, optimizer=prepared.optimizer,
        batch_size=prepared.batch_size, num_epochs=epochs, transform=images.transform,
        initial=begin,
        directory=folder / "training", config={"dataset": config.dataset, **prepared.description},
        on_progress=follow(prepared, epochs, bar),
    )  # fmt: skip
    if len(fit.history.step) != epochs:
        raise ValueError(
            f"out: {folder} was trained to epoch {len(fit.history.step)}, beyond the milestone "
            f"{epochs}, whose model is gone; remove this cell's folder, or leave it out"
        )
    training.save_model(folder_of(folder, epochs), prepared.description, fit.theta, fit.phi)
    key = models.key_of(2, config.seed)
    means = diagnostics.posterior_means(key, prepared.guide, fit.phi, images.test, MEAN_SAMPLES)
    units = diagnostics.active_units(means)
    trained = Trained(
        epochs, fit.step, float(fit.history.seconds[-1]), float(fit.history.bound[-1]),
        [np.asarray(leaf, np.float64).tolist() for leaf in jax.tree.leaves(units.variance)],
        [int(leaf) for leaf in jax.tree.leaves(units.number)],
    )  # fmt: skip
    target = folder_of(folder, epochs).relative_to(run.path) / "milestone.json"
    run.write_json(str(target), trained)
    return trained


def follow(prepared: Prepared, epochs: int, bar: Progress) -> Any:
    """What a fit tells of itself: the bound, the speed, the minutes to the stage's end and its own."""
    last = prepared.milestones[-1]

    def tell(p: training.Progress) -> None:
        per_epoch = p.num_steps / epochs
        rest = (last - epochs) * per_epoch * prepared.batch_size / p.samples_per_second
        left = f"{minutes(p.seconds_left)} left"
        if last > epochs:
            left += f", {minutes(p.seconds_left + rest)} to epoch {last}"
        bar.note(
            f"{prepared.cell.name}, epoch {p.epoch} of {epochs}: bound {p.bound:.2f}, "
            f"{p.samples_per_second:,.0f} images/s, {left}"
        )

    return tell


def minutes(value: float) -> str:
    """Seconds for a person; the first call does not know yet."""
    if math.isnan(value):
        return "?"
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min"


def measure(
    prepared: Prepared,
    epochs: int,
    num_points: int,
    images: Images,
    run: RunDirectory,
    bar: Progress,
) -> Evidence:
    """Evidence of the first `num_points` test images at a milestone, from files where there are any.

    Image i draws from fold_in(key, i) whichever piece it is in: a larger evaluation keeps what a
    smaller one found, and one that was stopped ends with the same numbers.
    """
    config, place = prepared.config, folder_of(prepared.folder(run), epochs)
    num_points = min(num_points, len(images.test))
    pieces, saved, clock, made = [], None, time.perf_counter(), 0
    for start in range(0, num_points, PIECE):
        stop = min(start + PIECE, num_points)
        name = f"evidence-k{config.evaluation_samples}-{start:05d}-{stop:05d}.npz"
        if not (place / name).exists():
            saved = saved or training.load_model(place, models.build)
            found = evidence.evaluate(
                models.key_of(1, config.seed), saved.model, saved.guide, saved.theta, saved.phi,
                images.test[start:stop], config.evaluation_samples,
                index=jnp.arange(start, stop),
            )  # fmt: skip
            run.write(str((place / name).relative_to(run.path)), pack(found))
            made += stop - start
            left = (num_points - stop) * (time.perf_counter() - clock) / made
            bar.note(
                f"{prepared.cell.name}, epoch {epochs}: log p of {stop:,} of {num_points:,} "
                f"images, {minutes(left)} left"
            )
        pieces.append(unpack(place / name))
    return Evidence(*(np.concatenate(leaves) for leaves in zip(*pieces, strict=True)))


def pack(found: Evidence) -> bytes:
    """Evidence as the bytes of an .npz file."""
    buffer = io.BytesIO()
    arrays = {name: np.asarray(leaf) for name, leaf in found._asdict().items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack(path: Path) -> Evidence:
    """Evidence from such a file."""
    with np.load(path) as arrays:
        return Evidence(**{name: arrays[name] for name in Evidence._fields})


def records(prepared: Prepared, images: Images, run: RunDirectory, bar: Progress) -> list[Record]:
    """The milestones that a cell has reached, the last one measured on all images asked for."""
    config, folder = prepared.config, prepared.folder(run)
    known = [(epochs, read(folder, epochs)) for epochs in prepared.milestones]
    reached = [(epochs, trained) for epochs, trained in known if trained is not None]
    found = []
    for epochs, trained in reached:
        points = config.curve_points
        if epochs == reached[-1][0]:
            points = max(points, config.evaluation_points or len(images.test))
        measured = measure(prepared, epochs, points, images, run, bar)
        told = models.progress_of(prepared.cell, epochs, config)
        found.append(Record(prepared.cell, told, trained, measured))
    return found


def summary(found: Evidence) -> Summary:
    """`evidence.summarize` in double precision, as Python numbers."""
    with jax.enable_x64(True):
        whole = Evidence(*(jnp.asarray(wide(leaf)) for leaf in found))
        return Summary(*(np.asarray(value).item() for value in evidence.summarize(whole)))


def wide(leaf: np.ndarray) -> np.ndarray:
    """Floats in float64; counts and bits as they are."""
    array = np.asarray(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def told(trained: Trained, found: Evidence) -> str:
    """One line of a milestone."""
    done = summary(found)
    doubt = f", {done.num_untrusted:,} NOT RELIABLE" if done.num_untrusted else ""
    return (
        f"log p {done.log_evidence:.2f} ± {done.sampling_error:.2f} ({done.num_points:,} images{doubt}), "
        f"{'+'.join(map(str, trained.active))} active units, {trained.seconds / 60:.1f} min"
    )


def line(trained: Trained, found: Evidence) -> dict[str, Any]:
    """A milestone in metrics.jsonl."""
    done = summary(found)
    return {
        "epochs": trained.epochs,
        "seconds_trained": trained.seconds,
        "train_bound": trained.bound,
        "log_p": done.log_evidence,
        "num_points": done.num_points,
    }
