"""Rotations of factor loadings: W and W R, with R orthogonal, define the same model."""

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from lvm_jax._core.warn import warn

ROTATIONS = {"varimax": 1.0, "quartimax": 0.0}  # the weight of the criterion's second term
MAX_SWEEPS = 1_000


def canonical(loadings: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """W R, [D, L], with W^T Psi^-1 W, and so cov(z | x), diagonal; in descending order."""
    turn = np.linalg.svd(loadings / np.sqrt(noise)[:, None], full_matrices=False)[2]
    return positive(loadings @ turn.T)


def rotate(loadings: np.ndarray, rotation: str) -> np.ndarray:
    """W R, [D, L], of simple structure; columns in descending order of their sums of squares.

    R maximises sum_l [sum_d W_dl^4 - g/D (sum_d W_dl^2)^2], with g = 1 for varimax and 0 for
    quartimax, by sweeps over all pairs of columns. The best angle of a pair has a closed form, so
    that the criterion never decreases. Warns if MAX_SWEEPS sweeps do not converge.

    Source: Kaiser (1958), The varimax criterion for analytic rotation in factor analysis.
    """
    rotated, weight = loadings.copy(), ROTATIONS[rotation]
    num_factors = loadings.shape[1]
    pairs = [(i, j) for i in range(num_factors) for j in range(i + 1, num_factors)]
    for _ in range(MAX_SWEEPS):
        angles = [_turn_pair(rotated, i, j, weight) for i, j in pairs]
        if max(np.abs(angles), default=0.0) < 1e-8:
            break
    else:
        warn(
            f"{rotation} did not converge in {MAX_SWEEPS} sweeps; the loadings are those of the "
            "last one, a rotation of the same model",
            ConvergenceWarning,
        )
    order = np.argsort(-(rotated**2).sum(0), kind="stable")
    return positive(rotated[:, order])


def positive(loadings: np.ndarray) -> np.ndarray:
    """The columns, with signs such that the largest entry of each is positive."""
    largest = loadings[np.abs(loadings).argmax(0), np.arange(loadings.shape[1])]
    return loadings * np.where(largest < 0, -1.0, 1.0)


def _turn_pair(loadings: np.ndarray, i: int, j: int, weight: float) -> float:
    """Rotate two columns in place by the optimal angle; returns the angle [rad]."""
    x, y = loadings[:, i].copy(), loadings[:, j].copy()
    u, v = x**2 - y**2, 2 * x * y
    sine = 2 * (u @ v) - 2 * weight * u.sum() * v.sum() / len(u)
    cosine = (u @ u - v @ v) - weight * (u.sum() ** 2 - v.sum() ** 2) / len(u)
    angle = float(np.arctan2(sine, cosine)) / 4
    loadings[:, i] = x * np.cos(angle) + y * np.sin(angle)
    loadings[:, j] = y * np.cos(angle) - x * np.sin(angle)
    return angle
