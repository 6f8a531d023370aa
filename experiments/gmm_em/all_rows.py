"""Files and folders with more rows than fit in memory: a sample for the figures, and a fit to all rows."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.gmm_em.config import Config
from lvm_jax import data, em
from lvm_jax.em.sources import Source, as_source
from lvm_jax.em.survey import survey
from lvm_jax.em.tables import Table
from lvm_jax.report import Run

LABELS, CHECKPOINT = "labels.npy", "all_rows.npz"


@dataclass(frozen=True)
class AllRows:
    """The fit to all rows of a file, from the fit to the sample."""

    num_rows: int
    outcome: str
    num_steps: int
    log_likelihood: float  # nats per row
    criteria: em.Criteria
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    points: np.ndarray  # rows of each component
    rows_per_second: float  # of the passes
    seconds: float  # of the fit, the criteria and the labels

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        return {**dataclasses.asdict(self), "criteria": self.criteria._asdict()}


def load(config: Config) -> tuple[data.Dataset, Source | None]:
    """The data set of the options: of data that stream a sample, and their source."""
    source = large_source(config)
    if source is None:
        return data.load(config.data, config.columns, missing=True), None
    if config.standardize or config.pca_dim is not None:
        raise ValueError(
            f"data: {config.data} has {source.num_rows:,} rows and streams: --standardize "
            "and --pca-dim need the data in memory; write transformed rows to a file"
        )
    family = em.GAUSSIANS[config.covariance]
    sample = survey(jax.random.key(config.seed), source, family, None).sample
    names = getattr(source, "columns", tuple(f"x{j + 1}" for j in range(source.dim)))
    path = Path(config.data)
    dataset = data.Dataset(
        name=path.stem,
        source=f"{len(sample.x):,} rows drawn from the {source.num_rows:,} rows of {path.name}",
        x=sample.x.astype(np.float64), columns=tuple(names), units=("",) * source.dim,
    )  # fmt: skip
    return dataset, source


def large_source(config: Config) -> Source | None:
    """The source of a folder, and of a .npy or Parquet file with more than `max_rows` rows."""
    path = Path(config.data)
    is_file = path.suffix in (".npy", ".parquet") and path.is_file()
    if config.data in data.NAMED or not (is_file or path.is_dir()):
        return None
    if is_file and path.stat().st_size <= config.max_rows:  # a row has a byte or more
        return None
    source: Any = as_source(path)
    if is_file and source.num_rows <= config.max_rows:
        return None
    if config.columns is None:
        return source
    if not isinstance(source, Table):
        raise ValueError("columns: expected Parquet files to choose from while rows stream")
    return em.parquet(path, config.columns)


def fit_all(key: jax.Array, source: Source, config: Config, start: em.Mixture, run: Run) -> AllRows:
    """Fit all rows from the fit to the sample, and write the component of each row to a file."""
    began, speeds = time.perf_counter(), [float("nan")]

    def on_progress(info: dict[str, Any]) -> None:
        speeds.append(info["rows_per_second"])
        run.note(
            f"all rows, EM step {info['step']}: {info['rows_per_second']:,.0f} rows/s, at most "
            f"{info['seconds_left']:,.0f} s left"
        )

    fit = em.fit(
        key, source, config.num_components, config.covariance, start=start,
        max_steps=config.max_steps, tolerance=config.tolerance,
        regularization=config.regularization, checkpoint=run.path / CHECKPOINT,
        on_progress=on_progress, throw=False,
    )  # fmt: skip
    criteria = em.criteria(fit.mixture, source)
    labels = np.lib.format.open_memmap(run.path / LABELS, "w+", np.int32, (source.num_rows,))
    points, done = np.zeros(len(fit.mixture.weights), np.int64), 0
    for part in em.stream(fit.mixture, source):
        labels[done : done + len(part)] = part
        points += np.bincount(part, minlength=len(points))
        done += len(part)
    labels.flush()
    info, mixture = fit.info, jax.device_get(fit.mixture)
    return AllRows(
        done, info.outcome.name, info.num_steps, info.log_likelihood, criteria,
        np.asarray(mixture.weights), np.asarray(mixture.means), np.asarray(mixture.covariances),
        points, speeds[-1], time.perf_counter() - began,
    )  # fmt: skip
