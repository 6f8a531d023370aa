"""Curved data sets in the plane with a known density: banana, moons, pinwheel."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from lvm_jax._core import checks
from lvm_jax.data.dataset import Dataset

LOG_2PI = float(np.log(2 * np.pi))
Plane: TypeAlias = Float[np.ndarray, "N 2"]
Line: TypeAlias = Float[np.ndarray, " N"]
LogDensity = Callable[[Plane], Line]  # in nats


class Curved(NamedTuple):
    """A density in the plane: description, sampler and log-density."""

    source: str
    sample: Callable[[np.random.Generator, int], Plane]
    log_density: LogDensity


def log_normal(deviation: np.ndarray, spread: float) -> np.ndarray:
    """log N(deviation; 0, spread^2)."""
    return -0.5 * ((deviation / spread) ** 2 + LOG_2PI) - np.log(spread)


def sample_banana(rng: np.random.Generator, num_points: int) -> Plane:
    """x1 ~ N(0, 1), x2 ~ N(x1^2, 0.3^2)."""
    first = rng.normal(size=num_points)
    return np.stack([first, first**2 + 0.3 * rng.normal(size=num_points)], axis=1)


def banana(x: Plane) -> Line:
    """Log-density of the banana, a product of two normals."""
    return log_normal(x[:, 0], 1.0) + log_normal(x[:, 1] - x[:, 0] ** 2, 0.3)


MOON_NOISE = 0.1
MOONS = ((0.0, 0.0, 1.0), (1.0, 0.5, -1.0))  # centre, and the sign of the arc's vertical direction


def sample_moons(rng: np.random.Generator, num_points: int) -> Plane:
    """Two half circles of radius 1 with uniform angles, plus Gaussian noise."""
    angle = rng.uniform(0.0, np.pi, num_points)
    arcs = np.array(MOONS)[rng.integers(0, 2, num_points)]
    points = np.stack([arcs[:, 0] + np.cos(angle), arcs[:, 1] + arcs[:, 2] * np.sin(angle)], axis=1)
    return points + MOON_NOISE * rng.normal(size=points.shape)


def moons(x: Plane) -> Line:
    """Log-density of the moons, by Gauss-Legendre over the angle; 160 nodes give ten digits."""
    nodes, weights = np.polynomial.legendre.leggauss(160)
    angle, log_weight = 0.5 * np.pi * (nodes + 1), np.log(weights / 2)
    arcs = []
    for left, low, way in MOONS:
        parts = log_normal(x[:, :1] - left - np.cos(angle), MOON_NOISE)
        parts = parts + log_normal(x[:, 1:] - low - way * np.sin(angle), MOON_NOISE)
        arcs.append(logsumexp(parts + log_weight, axis=1))
    return np.logaddexp(*arcs) - np.log(2)


ARMS, ARM_RADIUS, ARM_SPREAD, ARM_WIDTH, TWIST = 3, 1.2, 0.4, 0.12, 1.2


def rotate(x: Plane, angle: np.ndarray) -> Plane:
    """Rotate each row by its own angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=1)


def sample_pinwheel(rng: np.random.Generator, num_points: int) -> Plane:
    """Three elongated Gaussians around the origin, rotated by an angle proportional to radius."""
    straight = np.array([ARM_SPREAD, ARM_WIDTH]) * rng.normal(size=(num_points, 2))
    straight = straight + np.array([ARM_RADIUS, 0.0])
    arm = 2 * np.pi / ARMS * rng.integers(0, ARMS, num_points)
    return rotate(straight, arm + TWIST * np.linalg.norm(straight, axis=1))


def pinwheel(x: Plane) -> Line:
    """Log-density of the pinwheel; the rotation by a function of the radius preserves area."""
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


def curved(name: str, num_points: int, seed: int) -> Dataset:
    """Draw points of a data set of CURVED with NumPy's generator; units are arbitrary.

    Raises ValueError for an unknown name.
    """
    made = CURVED[checks.choice(name, "name", tuple(CURVED))]
    x = made.sample(np.random.default_rng(seed), checks.integer(num_points, "num_points", 1))
    source = f"{num_points:,} points of {made.source} (seed {seed})"
    return Dataset(name, source, x, ("x1", "x2"), ("arbitrary units",) * 2)
