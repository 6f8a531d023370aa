"""A cell of the table: model, data and schedule of the paper, training to a milestone, evaluation.

One layer: 784-200-200-50 and its mirror. Two layers: x -> 200-200 -> z_1 (100) -> 100-100 ->
z_2 (50) and its mirror; tanh. Burda, Grosse and Salakhutdinov (2016), section 5 and appendix. As in
their code, the biases of the outputs start at the log-odds of the training mean, clipped to
[0.001, 0.999].

    cells/NAME/training/        checkpoints and metrics.jsonl of `training.fit`
    cells/NAME/epochs-00121/    the model at epoch 121, milestone.json, and evidence-*.npz

Results with a file are not computed again.
"""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.iwae_table.config import Config
from lvm_jax import bounds, diagnostics, evidence, gradients, training, vae
from lvm_jax.evidence import Evidence, Summary
from lvm_jax.evidence.result import describe as verdict
from lvm_jax.gradients import Surrogate
from lvm_jax.report import Run
from lvm_jax.typing import Array, Key
from lvm_jax.vae import Architecture, Pixels

SPLITS = {"mnist": "59600/400/10000"}  # the paper's; other data have their published split
STAGES = [training.burda_epochs(i) for i in range(1, 9)]  # ends of the paper's stages, in epochs
BATCH_SIZE = {"burda": 20, "short": 100}
SHORT_RATE = {1: 4e-3, 2: 2e-3}  # of Adam, by stochastic layers; IWAE with two fails at 4e-3
EPS = 1e-4  # of Adam in the paper, whose code sums gradients over a batch; ours are means
PIECE = 500  # images in one file of evidence, the most that a kill can lose
MEAN_SAMPLES = 100  # draws of z_1 for the posterior mean of z_2


class Cell(NamedTuple):
    """One entry of the table."""

    schedule: str
    objective: str
    num_samples: int
    num_layers: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.schedule}-{self.objective}-k{self.num_samples}-layers{self.num_layers}"


def load(config: Config) -> Pixels:
    """The images, with test images in random order, because binarized_mnist is sorted by class."""
    found = vae.load_pixels(config.dataset, SPLITS.get(config.dataset), seed=config.seed)
    order = np.random.default_rng([config.seed, 1]).permutation(len(found.test))
    return found._replace(test=found.test[order])


def describe(cell: Cell, dim: int, config: Config) -> Architecture:
    """The networks of a cell; those between z_1 and z_2 have half the width."""
    sizes = (config.latent_dim, 2 * config.latent_dim)[: cell.num_layers]
    widths = (config.width, config.width // 2)[: cell.num_layers]
    return Architecture(
        shape=(dim,), latent_dims=sizes[::-1], hidden=tuple((width, width) for width in widths),
        guide="mean_field" if cell.num_layers == 1 else "bottom_up", encoder_scale=1.0,
        biases="log_odds",
    )  # fmt: skip


@cache
def estimator(schedule: str, objective: str) -> Surrogate:
    """The paper's gradients; for the short schedule STL and DReG, which have less variance."""
    bound = bounds.elbo if objective == "vae" else bounds.iwae
    if schedule == "burda":
        return gradients.reparameterized(bound)
    if objective == "vae":
        return gradients.sticking_the_landing(bound)
    return gradients.doubly_reparameterized(bound)


@cache
def optimizer(
    schedule: str, num_layers: int, num_images: int, short_epochs: int
) -> optax.GradientTransformation:
    """Adam with the rates of the schedule."""
    size = BATCH_SIZE[schedule]
    steps = num_images // size  # of an epoch
    rate: Any = training.burda_stages(len(STAGES), steps)
    if schedule == "short":
        rate = optax.cosine_decay_schedule(SHORT_RATE[num_layers], short_epochs * steps)
    return optax.adam(rate, b1=0.9, b2=0.999, eps=EPS / size)


def milestones(cell: Cell, config: Config) -> list[int]:
    """The epochs after which a cell is measured: ends of stages, and the end of the schedule."""
    if cell.schedule == "burda":
        return STAGES[: config.stages]
    return [e for e in STAGES if e < config.short_epochs] + [config.short_epochs]


def progress_of(cell: Cell, epochs: int, config: Config) -> str:
    """The finished part of a cell's schedule, as words."""
    if cell.schedule == "short":
        return f"short, {epochs} of {config.short_epochs}"
    return f"{STAGES.index(epochs) + 1} of {len(STAGES)} stages"


def key_of(purpose: int, seed: int) -> Key[Array, ""]:
    """The key of training (0), evaluation (1), active units (2), the start (3), for all cells."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


class Prepared(NamedTuple):
    """A cell with the inputs of its training."""

    cell: Cell
    config: Config
    description: Architecture
    pair: vae.Autoencoder
    optimizer: optax.GradientTransformation
    milestones: list[int]  # epochs

    def folder(self, run: Run, epochs: int | None = None) -> Path:
        """The folder of the cell, or of one of its milestones."""
        whole = run.path / "cells" / self.cell.name
        return whole if epochs is None else whole / f"epochs-{epochs:05d}"


class Trained(NamedTuple):
    """A milestone: the content of milestone.json."""

    epochs: int
    step: int
    seconds: float  # of training so far, with compilation and saves
    bound: float  # the training objective over the last epoch, nats
    variance: list[list[float]]  # A_u of every unit, for each stochastic layer
    active: list[int]  # the number above the threshold, for each layer


class Record(NamedTuple):
    """A milestone with its evidence."""

    cell: Cell
    done: str  # the finished part of the schedule
    trained: Trained
    evidence: Evidence  # leaves [M], of the first M test images

    def as_numbers(self) -> dict[str, Any]:
        """The entry in results.json."""
        return {
            **self.cell._asdict(),
            "schedule_done": self.done,
            **self.trained._asdict(),
            **summary(self.evidence)._asdict(),
            "reliable": not summary(self.evidence).num_untrusted,
            "verdict": verdict(np.where(self.evidence.likely_low, self.evidence.failed, 0)),
            "evaluation_samples": int(self.evidence.num_samples[0]),
        }


def prepare(cell: Cell, images: Pixels, config: Config) -> Prepared:
    """Model, guide, gradients and schedule of a cell."""
    number, dim = images.train.shape
    description = describe(cell, dim, config)
    adam = optimizer(cell.schedule, cell.num_layers, number, config.short_epochs)
    return Prepared(
        cell, config, description, vae.build(description), adam, milestones(cell, config)
    )


def read(folder: Path) -> Trained | None:
    """The milestone in a folder, or None."""
    path = folder / "milestone.json"
    return Trained(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def seconds(folder: Path) -> float:
    """The training time of a cell up to its last milestone."""
    found = [json.loads(path.read_text()) for path in folder.glob("epochs-*/milestone.json")]
    return max((one["seconds"] for one in found), default=0.0)


def reach(prepared: Prepared, epochs: int, images: Pixels, run: Run) -> Trained:
    """Train to a milestone, save the model, and count its active units on the test images."""
    cell, config, folder = prepared.cell, prepared.config, prepared.folder(run)

    def note(p: training.Progress) -> None:
        words = f"{cell.name}, epoch {p.epoch} of {epochs}: bound {p.bound:.2f}"
        run.note(f"{words}, {p.samples_per_second:,.0f} images/s", p.epoch / epochs)

    described = dataclasses.asdict(prepared.description)
    start = vae.start(key_of(3, config.seed), prepared.description, images.train)
    fit = training.fit(
        key_of(0, config.seed), prepared.pair, start, images.train,
        estimate=estimator(cell.schedule, cell.objective), num_samples=cell.num_samples,
        optimizer=prepared.optimizer, batch_size=BATCH_SIZE[cell.schedule], num_epochs=epochs,
        transform=images.transform, on_progress=note,
        checkpoints=training.Checkpoints(
            folder / "training", config={"dataset": config.dataset, **described}
        ),
    )  # fmt: skip
    if len(fit.history.step) != epochs:
        raise ValueError(
            f"out: {folder} was trained to epoch {len(fit.history.step)}, beyond the milestone "
            f"{epochs}, whose model is gone; remove this cell's folder, or leave it out"
        )
    place = prepared.folder(run, epochs)
    fit.save(place)
    key = key_of(2, config.seed)
    means = diagnostics.posterior_means(key, fit.q, images.test, MEAN_SAMPLES)
    units = diagnostics.active_units(means)
    trained = Trained(
        epochs, fit.step, float(fit.history.seconds[-1]), float(fit.history.bound[-1]),
        [np.asarray(leaf, np.float64).tolist() for leaf in jax.tree.leaves(units.variance)],
        [int(leaf) for leaf in jax.tree.leaves(units.number)],
    )  # fmt: skip
    run.write_json(str(place.relative_to(run.path) / "milestone.json"), trained)
    return trained


def measure(prepared: Prepared, epochs: int, num_points: int, images: Pixels, run: Run) -> Evidence:
    """Evidence of the first `num_points` test images at a milestone; files are reused.

    Image i uses fold_in(key, i), so resumed and larger evaluations give the same numbers.
    """
    config, place = prepared.config, prepared.folder(run, epochs)
    num_points = min(num_points, len(images.test))
    pieces, saved = [], None
    for start in range(0, num_points, PIECE):
        stop = min(start + PIECE, num_points)
        name = f"evidence-k{config.evaluation_samples}-{start:05d}-{stop:05d}.npz"
        if not (place / name).exists():
            saved = saved or training.load(place)
            found = evidence.evaluate(
                key_of(1, config.seed), saved.p, saved.q,
                images.test[start:stop], config.evaluation_samples,
                index=jnp.arange(start, stop),
            )  # fmt: skip
            run.write_arrays(str((place / name).relative_to(run.path)), found._asdict())
            words = f"{prepared.cell.name}, epoch {epochs}: log p of {stop:,} of {num_points:,}"
            run.note(words, stop / num_points)
        with np.load(place / name) as arrays:
            pieces.append([arrays[field] for field in Evidence._fields])
    return Evidence(*(np.concatenate(leaves) for leaves in zip(*pieces, strict=True)))


def records(prepared: Prepared, images: Pixels, run: Run) -> list[Record]:
    """The finished milestones of a cell; the last is evaluated on `evaluation_points` images."""
    cell, config = prepared.cell, prepared.config
    known = [read(prepared.folder(run, epochs)) for epochs in prepared.milestones]
    reached = [trained for trained in known if trained is not None]
    found = []
    for trained in reached:
        points, epochs = config.curve_points, trained.epochs
        if trained is reached[-1]:
            points = max(points, config.evaluation_points or len(images.test))
        measured = measure(prepared, epochs, points, images, run)
        found.append(Record(cell, progress_of(cell, epochs, config), trained, measured))
    return found


def summary(found: Evidence) -> Summary:
    """`evidence.summarize` in double precision, as Python numbers."""
    with jax.enable_x64(True):
        wide = (jnp.asarray(x, np.float64 if x.dtype.kind == "f" else x.dtype) for x in found)
        whole = evidence.summarize(Evidence(*wide))
        return Summary(*(np.asarray(value).item() for value in whole))
