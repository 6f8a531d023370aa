"""The log-Gaussian Cox process of the Finnish pines, in 1,600 dimensions."""

import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax.data import store
from lvm_jax.data.published import FINNISH_PINES
from lvm_jax.problems.target import LOG_2PI, Target
from lvm_jax.typing import Array, Float, Scalar

SIDE = 40  # cells along an edge
VARIANCE, LENGTH = 1.91, 40 / 33  # of the kernel; the length in cells


def lgcp() -> Target:
    """Counts y of 126 pines on a 40 x 40 grid: y_i ~ Poisson(exp(f_i) / 1600), f ~ N(mu, K).

        log-density = sum_i (y_i f_i - exp(f_i) / 1600) + log N(f; mu, K),  without log y_i!
        K_ij = 1.91 exp(-|i - j| / (40 / 33)),  mu = log 126 - 0.955

    |i - j| is the distance of cells on the integer grid. `facts` has "counts", y [1600]. log Z is
    an estimate by annealed importance sampling in float64. File and errors are as for `credit`.
    Source: Moller et al. (1998); the constants of Heng et al. (2020).
    """
    counts = bin_counts(_read_points(), SIDE)
    root = np.linalg.cholesky(kernel(SIDE))
    mean = math.log(126) - 0.955
    log_det = float(np.log(np.diagonal(root)).sum())
    dim = SIDE**2

    @precision.full
    def log_density(f: Float[Array, " D"]) -> Scalar:
        white = solve_triangular(root, f - mean, lower=True)
        log_prior = -0.5 * (white @ white + dim * LOG_2PI) - log_det
        return log_prior + (counts * f - jnp.exp(f) / dim).sum()

    return Target(
        "LGCP", dim, log_density, 501.7, 0.2, full_rank_elbo=498.8034, facts={"counts": counts}
    )


def kernel(side: int) -> Float[np.ndarray, "N N"]:
    """K for all pairs of cells of a side x side grid, row by row."""
    axis = np.arange(side, dtype=np.float64)
    cells = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    distance = np.sqrt(((cells[:, None] - cells[None]) ** 2).sum(-1))
    return VARIANCE * np.exp(-distance / LENGTH)


def bin_counts(points: Float[np.ndarray, "N 2"], side: int) -> Float[np.ndarray, " M"]:
    """The number of points of the unit square in each of side x side cells, row by row.

    Points on the upper edge belong to the last cell.
    """
    index = np.minimum((points * side).astype(int), side - 1)
    counts = np.zeros((side, side))
    np.add.at(counts, tuple(index.T), 1.0)
    return counts.ravel()


def _read_points() -> Float[np.ndarray, "N 2"]:
    lines = store.read_text(FINNISH_PINES).replace('"', "").splitlines()
    return np.loadtxt(lines, delimiter=",", skiprows=1, usecols=(1, 2))
