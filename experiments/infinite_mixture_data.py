"""Curved data sets in the plane whose density is known, and the reading of any other."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from lvm_jax import data
from lvm_jax.data import Dataset

LOG_2PI = float(np.log(2 * np.pi))
LogDensity = Callable[[np.ndarray], np.ndarray]  # [N, 2] -> [N], in nats


class Curved(NamedTuple):
    """A density in the plane: what it is, its sampler and its logarithm."""

    source: str
    sample: Callable[[np.random.Generator, int], np.ndarray]
    log_density: LogDensity


def log_normal(deviation: np.ndarray, spread: float) -> np.ndarray:
    """log N(deviation; 0, spread^2)."""
    return -0.5 * ((deviation / spread) ** 2 + LOG_2PI) - np.log(spread)


def sample_banana(rng: np.random.Generator, num_points: int) -> np.ndarray:
    """x1 ~ N(0, 1), x2 ~ N(x1^2, 0.3^2)."""
    first = rng.normal(size=num_points)
    return np.stack([first, first**2 + 0.3 * rng.normal(size=num_points)], axis=1)


def banana(x: np.ndarray) -> np.ndarray:
    """Its log-density, a product of two normals."""
    return log_normal(x[:, 0], 1.0) + log_normal(x[:, 1] - x[:, 0] ** 2, 0.3)


MOON_NOISE = 0.1
MOONS = ((0.0, 0.0, 1.0), (1.0, 0.5, -1.0))  # centre, and which way the arc opens


def sample_moons(rng: np.random.Generator, num_points: int) -> np.ndarray:
    """Two half circles of radius 1, an angle uniform on each, with noise."""
    angle = rng.uniform(0.0, np.pi, num_points)
    arcs = np.array(MOONS)[rng.integers(0, 2, num_points)]
    points = np.stack([arcs[:, 0] + np.cos(angle), arcs[:, 1] + arcs[:, 2] * np.sin(angle)], axis=1)
    return points + MOON_NOISE * rng.normal(size=points.shape)


def moons(x: np.ndarray) -> np.ndarray:
    """Its log-density: Gauss-Legendre over the angle, whose 160 nodes give ten digits."""
    nodes, weights = np.polynomial.legendre.leggauss(160)
    angle, log_weight = 0.5 * np.pi * (nodes + 1), np.log(weights / 2)
    arcs = []
    for left, low, way in MOONS:
        parts = log_normal(x[:, :1] - left - np.cos(angle), MOON_NOISE)
        parts = parts + log_normal(x[:, 1:] - low - way * np.sin(angle), MOON_NOISE)
        arcs.append(logsumexp(parts + log_weight, axis=1))
    return np.logaddexp(*arcs) - np.log(2)


ARMS, ARM_RADIUS, ARM_SPREAD, ARM_WIDTH, TWIST = 3, 1.2, 0.4, 0.12, 1.2


def rotate(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Every row turned by its own angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=1)


def sample_pinwheel(rng: np.random.Generator, num_points: int) -> np.ndarray:
    """Three long Gaussians around a centre, twisted by an angle that grows with the radius."""
    straight = np.array([ARM_SPREAD, ARM_WIDTH]) * rng.normal(size=(num_points, 2))
    straight = straight + np.array([ARM_RADIUS, 0.0])
    arm = 2 * np.pi / ARMS * rng.integers(0, ARMS, num_points)
    return rotate(straight, arm + TWIST * np.linalg.norm(straight, axis=1))


def pinwheel(x: np.ndarray) -> np.ndarray:
    """Its log-density: a turn by an angle that depends on the radius keeps areas."""
    radius = np.linalg.norm(x, axis=1)
    arms = []
    for arm in 2 * np.pi / ARMS * np.arange(ARMS):
        back = rotate(x, -arm - TWIST * radius)
        along = log_normal(back[:, 0] - ARM_RADIUS, ARM_SPREAD)
        arms.append(along + log_normal(back[:, 1], ARM_WIDTH))
    return logsumexp(arms, axis=0) - np.log(ARMS)


CURVED = {
    "banana": Curved("a banana, x2 ~ N(x1², 0.3²) with x1 ~ N(0, 1)", sample_banana, banana),
    "moons": Curved("two half circles of radius 1 with noise of 0.1", sample_moons, moons),
    "pinwheel": Curved("three twisted arms of Gaussian noise", sample_pinwheel, pinwheel),
}


def load(
    name: str, columns: tuple[str, ...] | None, num_points: int, seed: int
) -> tuple[Dataset, LogDensity | None]:
    """Two columns of data, and the logarithm of the density that they are from where it is known.

    A curved set by its name, or whatever `lvm_jax.data.load` reads. ValueError for an unknown name
    and for data that are not in the plane.
    """
    if name in CURVED and columns is not None:
        raise ValueError(f"columns: expected none, {name} has no others than x1 and x2")
    if name in CURVED:
        return make(name, num_points, seed), CURVED[name].log_density
    path = Path(name)
    if name not in data.NAMED and not (path.suffix or len(path.parts) > 1 or path.exists()):
        known = (*CURVED, *data.NAMED)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"data: expected {', '.join(known)} or the path of a table, got {name!r}{hint}"
        )
    dataset = data.load(name, columns)
    if dataset.x.shape[1] != 2:
        raise ValueError(
            f"data: expected two columns, got {dataset.x.shape[1]}; choose two with --columns "
            f"{' '.join(dataset.columns[:2])}"
        )
    return dataset, truth_of(dataset)


def make(name: str, num_points: int, seed: int) -> Dataset:
    """A curved set of its own stream of random numbers."""
    made = CURVED[name]
    x = made.sample(np.random.default_rng(seed), num_points)
    said = f"{num_points:,} points of {made.source} (seed {seed})"
    return Dataset(name, said, x, ("x1", "x2"), ("arbitrary units",) * 2)


def truth_of(dataset: Dataset) -> LogDensity | None:
    """The log-density of the mixture that made the data, if one did."""
    if dataset.truth is None:
        return None
    from lvm_jax import em

    mixture = em.gaussian_mixture(*dataset.truth)
    return lambda x: np.asarray(mixture.log_prob(np.asarray(x, np.float64)), np.float64)
