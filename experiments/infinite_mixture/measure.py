"""Training of the infinite mixtures, EM for the finite ones, and held-out log p of all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from scipy.stats import sem

from experiments.infinite_mixture import deep as infinite
from experiments.infinite_mixture.config import Config
from experiments.infinite_mixture.deep import Curve
from lvm_jax import data, em, evidence
from lvm_jax.data import CURVED, Dataset
from lvm_jax.evidence import Summary
from lvm_jax.guides import Guide
from lvm_jax.models import Model
from lvm_jax.report import Check, Run, near, point_ids
from lvm_jax.typing import Array, Key, Params

LogDensity = Callable[[np.ndarray], np.ndarray]  # [N, 2] -> [N], in nats
GRID = 128  # points of the density in figures along each axis
WATCHED = 256  # the first held-out points, for the learning curve
RECORDED = {  # default options: mean held-out log p, and its tolerance on other machines
    "truth": (-0.852388, 1e-5),
    "one layer": (-2.562, 0.03),
    "mixture of 2": (-2.278, 0.03),
    "hidden layer of 16": (-1.266, 0.1),
    "mixture of 20": (-0.909, 0.1),
}


class Plane(NamedTuple):
    """The data, the standardisation by the training points, and the window of the figures."""

    train: np.ndarray  # [N, 2], in the data's units
    test: np.ndarray  # [M, 2]
    mean: np.ndarray  # [2]
    sd: np.ndarray  # [2]
    low: np.ndarray  # [2]
    high: np.ndarray  # [2]

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Standardised points, the input of the models."""
        return np.asarray((x - self.mean) / self.sd, np.float32)

    def restore(self, x: np.ndarray) -> np.ndarray:
        """Points in the data's units."""
        return np.asarray(x, np.float64) * self.sd + self.mean

    @property
    def log_volume(self) -> float:
        """log p of standardised points minus log p in the data's units, in nats."""
        return float(np.log(self.sd).sum())

    def log_prob(self, standard: Callable[[np.ndarray], Any]) -> LogDensity:
        """The log-density in the data's units, from that of standardised points."""
        return lambda x: np.asarray(standard(self.standardize(x)), np.float64) - self.log_volume

    @property
    def grid(self) -> np.ndarray:
        """The window as a grid of points, [GRID^2, 2]; x1 varies fastest."""
        axes = np.meshgrid(*np.linspace(self.low, self.high, GRID).T)
        return np.stack([axis.ravel() for axis in axes], axis=1)


class Density(NamedTuple):
    """A density in the plane and its log-likelihoods, in the data's units, nats per point."""

    name: str
    num_parameters: int
    log_p: np.ndarray  # [M], of the held-out points
    train_log_p: float
    grid: np.ndarray  # [GRID, GRID], log-density over the window
    heights: np.ndarray  # [2], log-densities at the borders of the 90% and 50% regions
    samples: np.ndarray  # [N, 2]
    details: dict[str, Any]  # for results.json


class Deep(NamedTuple):
    """A trained infinite mixture; theta is in standardised units."""

    density: Density
    theta: Params
    curve: Curve
    elbo: np.ndarray  # [M], of the held-out points, in the data's units
    importance: Summary  # log p of the held-out points by importance sampling, data's units
    k_hat: np.ndarray  # [M], of the weights of each point
    quadrature_change: float  # the largest change of log p from 1.5 times as many nodes, nats
    num_guide_parameters: int


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    dataset: Dataset
    plane: Plane
    deep: list[Deep]
    mixtures: list[Density]  # one for each of `deep`, with about as many parameters
    truth: Density | None

    @property
    def pairs(self) -> list[tuple[Deep, Density]]:
        """Each deep model with the mixture of its size."""
        return list(zip(self.deep, self.mixtures, strict=True))

    @property
    def densities(self) -> list[Density]:
        """Each deep model followed by its mixture; the true density last."""
        fitted = [density for deep, mixture in self.pairs for density in (deep.density, mixture)]
        return fitted + ([self.truth] if self.truth else [])

    @property
    def points(self) -> dict[str, np.ndarray]:
        """log p of every held-out point by each density, with ELBO and k-hat."""
        found = {"point": point_ids(self.plane.test)}
        for role, (deep, mixture) in zip(("one_layer", "hidden"), self.pairs, strict=False):
            found[f"log_evidence_{role}"] = deep.density.log_p
            found[f"elbo_{role}"], found[f"k_hat_{role}"] = deep.elbo, deep.k_hat
            found[f"log_evidence_mixture_{role}"] = mixture.log_p
        return found | ({"log_evidence_truth": self.truth.log_p} if self.truth else {})

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        models = {
            deep.density.name: {
                **held_out(deep.density),
                "num_guide_parameters": deep.num_guide_parameters,
                "held_out_elbo": float(deep.elbo.mean()),
                "importance_sampling": deep.importance,
                "quadrature_change": deep.quadrature_change,
                "less_mixture": paired(deep.density, mixture),
                "less_truth": paired(deep.density, self.truth) if self.truth else None,
                "theta": deep.theta,
                "curve": deep.curve,
            }
            for deep, mixture in self.pairs
        }
        return {
            "num_train": len(self.plane.train),
            "num_held_out": len(self.plane.test),
            "standardisation": {"mean": self.plane.mean, "sd": self.plane.sd},
            "models": models,
            "mixtures": {mixture.name: held_out(mixture) for mixture in self.mixtures},
            "truth": held_out(self.truth) if self.truth else None,
        }


def load(config: Config) -> tuple[Dataset, Plane, LogDensity | None]:
    """The data, split at random into training and held-out rows, and their true log-density."""
    dataset, log_density = read(config)
    order = np.random.default_rng([config.seed, 1]).permutation(len(dataset.x))
    num_test = round(config.held_out * len(order))
    if num_test < 10 or len(order) - num_test < 20:
        raise ValueError(
            f"data: expected at least 20 rows to fit and 10 held out, got {len(order) - num_test} "
            f"and {num_test}; bring more rows or change --held-out"
        )
    train, test = dataset.x[order[num_test:]], dataset.x[order[:num_test]]
    sd = train.std(axis=0)
    if not (sd > 0).all():
        raise ValueError("data: expected two columns that vary, got a constant one")
    low, high = dataset.x.min(axis=0), dataset.x.max(axis=0)
    margin = 0.12 * (high - low)
    plane = Plane(train, test, train.mean(axis=0), sd, low - margin, high + margin)
    return dataset, plane, log_density


def read(config: Config) -> tuple[Dataset, LogDensity | None]:
    """Two columns of data, and their true log-density where it is known."""
    name, columns = config.data, config.columns
    if name in CURVED:
        if columns is not None:
            raise ValueError(f"columns: expected none, {name} has only x1 and x2")
        return data.curved(name, config.num_points, config.seed), CURVED[name].log_density
    dataset = data.load(name, columns)
    if dataset.x.shape[1] != 2:
        raise ValueError(
            f"data: expected two columns, got {dataset.x.shape[1]}; choose two with --columns "
            f"{' '.join(dataset.columns[:2])}"
        )
    if dataset.truth is None:
        return dataset, None
    log_prob = em.gaussian_mixture(*dataset.truth).log_prob
    return dataset, lambda x: np.asarray(log_prob(np.asarray(x, np.float64)), np.float64)


def measure(config: Config, run: Run, loaded: tuple[Dataset, Plane, LogDensity | None]) -> Result:
    """Train every model and fit its mixture, and evaluate them on the held-out points."""
    dataset, plane, log_density = loaded
    guide, made = infinite.make_guide(config.guide), infinite.make_models(config)
    run.begin(3 * len(made))
    deep, mixtures = [], []
    for index, (name, model) in enumerate(made.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        key_train, key_measure, key_mixture = jax.random.split(key, 3)
        trained = run.stage(
            f"train {name}", infinite.train, key_train, model, guide, plane.standardize(plane.train),
            plane.standardize(plane.test[:WATCHED]), config,
            lambda message, fraction, name=name: run.note(f"{name}, {message}", fraction),
        )  # fmt: skip
        found = run.stage(
            f"measure {name}", evaluate, key_measure, name, model, guide, *trained, plane, config
        )
        size = found.density.num_parameters
        mixtures.append(
            run.stage(f"mixture for {name}", fit_mixture, key_mixture, size, plane, config)
        )
        deep.append(found)
    for found in deep:
        for step, bound, elbo, log_p in zip(*found.curve[:4], strict=True):
            row = {"bound": bound, "held_out_elbo": elbo, "held_out_log_p": log_p}
            run.log(model=found.density.name, step=step, **row)
    truth = as_density("truth", 0, plane, log_density, plane.train, {}) if log_density else None
    return Result(config, dataset, plane, deep, mixtures, truth)


def checks(result: Result) -> list[Check]:
    """Bounds are below log p, no density exceeds the truth, recorded numbers of the defaults."""
    found = []
    for deep in result.deep:
        name, log_p = deep.density.name, float(deep.density.log_p.mean())
        slack = deep.quadrature_change + 1e-4  # float32
        gap, error = mean_and_error(deep.elbo - deep.density.log_p)
        top = 5 * error + slack
        found.append(Check(f"ELBO less log p, {name}", gap, -np.inf, top, "-KL, at most 0"))
        # E[log p-hat] <= log p; a missed mode makes it lower than its error shows
        top = log_p + 5 * deep.importance.monte_carlo_error + slack
        value = float(deep.importance.log_evidence)
        found.append(Check(f"importance sampling of {name}", value, -np.inf, top, "at most log p"))
    for density in result.densities[:-1] if result.truth else ():
        mean, error = paired(density, result.truth)
        found.append(
            Check(f"{density.name} less truth", mean, -np.inf, 5 * error, "-KL, at most 0")
        )
    if result.config == Config():
        for density in result.densities:
            value = float(density.log_p.mean())
            found.append(near(f"log p of {density.name}", value, *RECORDED[density.name]))
    return found


def evaluate(
    key: Key[Array, ""], name: str, model: Model, guide: Guide, theta: Params, phi: Params,
    curve: Curve, plane: Plane, config: Config,
) -> Deep:  # fmt: skip
    """A trained model's density by quadrature and by importance sampling from its guide."""
    key_samples, key_elbo, key_evidence = jax.random.split(key, 3)
    unseen, shift = plane.standardize(plane.test), plane.log_volume
    p, q = model(theta), guide(phi)
    log_prob = partial(infinite.log_density, p, config.num_nodes)
    drawn = infinite.draw(key_samples, p, len(plane.train))
    size = optax.tree.size(theta)
    density = as_density(name, size, plane, plane.log_prob(log_prob), plane.restore(drawn), {})
    finer = infinite.log_density(p, 3 * config.num_nodes // 2, unseen[: infinite.BLOCK])
    common = (p, q, unseen, config.evidence_samples)
    found = evidence.evaluate(key_evidence, *common)
    summary = evidence.summarize(found)
    return Deep(
        density,
        theta,
        curve,
        np.asarray(infinite.elbos(key_elbo, *common), np.float64) - shift,
        summary._replace(log_evidence=float(summary.log_evidence) - shift),
        found.k_hat,
        float(np.abs(finer - shift - density.log_p[: len(finer)]).max()),
        optax.tree.size(phi),
    )


def fit_mixture(key: Key[Array, ""], num_parameters: int, plane: Plane, config: Config) -> Density:
    """EM for the full-covariance mixture with the nearest number of parameters, 6 K - 1."""
    key_fit, key_samples = jax.random.split(key)
    k = min(max(1, round((num_parameters + 1) / 6)), len(plane.train) // 4)
    fit = em.fit(
        *(key_fit, plane.standardize(plane.train), k),
        num_restarts=config.num_restarts,
        tolerance=1e-6,
        regularization=1e-4,
        max_steps=1000,
        throw=False,
    )
    mixture, info = fit.mixture, fit.info
    samples = plane.restore(mixture.sample(key_samples, len(plane.train))[0])
    log_prob, name = plane.log_prob(mixture.log_prob), f"mixture of {k}"
    ended = {"num_components": k, "outcome": info.outcome.name, "num_steps": info.num_steps}
    return as_density(name, mixture.num_parameters, plane, log_prob, samples, ended)


def as_density(
    name: str, num_parameters: int, plane: Plane, log_prob: LogDensity, samples: np.ndarray,
    details: dict[str, Any],
) -> Density:  # fmt: skip
    """A density with its values at the held-out points, the training points and the grid."""
    rows = (plane.test, plane.train, plane.grid, samples)
    log_p = np.split(log_prob(np.concatenate(rows)), np.cumsum([len(r) for r in rows])[:-1])
    test, train, grid, own = log_p
    grid, heights = grid.reshape(GRID, GRID), np.quantile(own, [0.1, 0.5])
    return Density(name, num_parameters, test, train.mean(), grid, heights, samples, details)


def held_out(density: Density) -> dict[str, Any]:
    """The entry of a density in results.json."""
    mean, error = mean_and_error(density.log_p)
    return {
        "num_parameters": density.num_parameters,
        "train_log_p": density.train_log_p,
        "held_out_log_p": mean,
        "sampling_error": error,
        **density.details,
    }


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """A mean over points, and its standard error."""
    return float(values.mean()), float(sem(values))


def paired(one: Density, other: Density) -> tuple[float, float]:
    """The mean difference of log p(x_n) under two densities, and its standard error."""
    return mean_and_error(one.log_p - other.log_p)
