"""The landscape of a linear VAE around the optimum of PPCA, in float64."""

from typing import NamedTuple

import jax
import numpy as np

from lvm_jax.models import LinearGaussian
from lvm_jax.problems import curvature, linear_averages, linear_vae
from lvm_jax.problems.linear_vae import Spectrum

MOST_POINTS = 8  # the most stationary points
ANGLES = np.linspace(0, 90, 7)  # of rotations in the plane of two units, degrees


class Rotation(NamedTuple):
    """A rotated maximum of the likelihood with its best mean-field q, in nats per point."""

    name: str
    log_evidence: float
    log_evidence_less_elbo: float  # the ELBO is energy + entropy
    closed_form: float  # of the same


class Saddle(NamedTuple):
    """A stationary point with the `kept` largest eigenvalues, and its steepest ascent direction."""

    kept: int
    below: float  # nats of log p below the optimum
    eigenvalue: float  # the largest that is not kept
    slope: float  # the largest entry of the gradient of log p and of the ELBO
    curvature: float  # of log p in W along that eigenvector, by differentiation
    curvature_law: float  # (lambda - s2) / s2^2
    elbo_curvature: float  # of the ELBO in W and V together, by differentiation
    elbo_curvature_law: float  # the largest eigenvalue of `elbo_hessian`
    residual: float  # of both directions as eigenvectors of the Hessian: |H d - c d| / |c|


def rotated(
    theta: LinearGaussian, rows: np.ndarray, rotation: np.ndarray, name: str = ""
) -> Rotation:
    """The averages with loadings W R, which have the same p(x) as W."""
    moved = theta._replace(loadings=theta.loadings @ rotation)
    found, law = linear_averages.at_optimum(moved, rows), linear_vae.mean_field_gap(moved)
    lost = found.log_evidence - found.elbo
    return Rotation(name, float(found.log_evidence), float(lost), float(law))


def plane_rotation(latent_dim: int, first: int, second: int, degrees: float) -> np.ndarray:
    """The rotation R of two units by an angle."""
    rotation, angle = np.eye(latent_dim), np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation[np.ix_([first, second], [first, second])] = turn
    return rotation


def rotations(rng: np.random.Generator, theta: LinearGaussian, rows: np.ndarray) -> list[Rotation]:
    """The optimum, and its rotations: permutation with signs, 45 degrees of two units, random."""
    latent_dim = np.shape(theta.loadings)[1]
    permuted = np.eye(latent_dim)[rng.permutation(latent_dim)] * rng.choice([-1.0, 1.0], latent_dim)
    cases = {"R = I": np.eye(latent_dim), "units permuted and signed": permuted}
    if latent_dim > 1:
        for last in sorted({1, latent_dim - 1}):
            name = f"units 1 and {last + 1} turned by 45°"
            cases[name] = plane_rotation(latent_dim, 0, last, 45)
        random, triangle = np.linalg.qr(rng.normal(size=(latent_dim, latent_dim)))
        cases["a random rotation"] = random * np.sign(np.diagonal(triangle))
    return [rotated(theta, rows, rotation, name) for name, rotation in cases.items()]


def turns(theta: LinearGaussian, rows: np.ndarray) -> dict[tuple[int, int], list[Rotation]]:
    """Rotations of units 1 and 2, 1 and L, L - 1 and L by `ANGLES`."""
    size = np.shape(theta.loadings)[1]
    pairs = sorted({(0, 1), (0, size - 1), (size - 2, size - 1)}) if size > 1 else ()
    return {
        pair: [rotated(theta, rows, plane_rotation(size, *pair, angle)) for angle in ANGLES]
        for pair in pairs
    }


def saddles(found: Spectrum, latent_dim: int, noise: float) -> list[Saddle]:
    """Up to MOST_POINTS stationary points with 0, 1, ... units in use at s2 = noise.

    All have an empty unit. Along w = c u the average of log p is
    -(log(s2 + c^2) + lambda / (s2 + c^2)) / 2 plus a constant. Its second derivative at 0,
    (lambda - s2) / s2^2, is positive if and only if an eigenvalue above s2 is not kept.
    """
    last = min(found.above(noise), latent_dim - 1, found.vectors.shape[1] - 1)
    kept = sorted(set(np.linspace(0, last, MOST_POINTS).round().astype(int).tolist()))
    rows, top = found.moment_points(), found.stationary(latent_dim, noise)
    best = float(linear_averages.at_optimum(top, rows).log_evidence)
    return [
        saddle(found.stationary(latent_dim, noise, number), number, best, noise, found, rows)
        for number in kept
    ]


def saddle(
    theta: LinearGaussian, kept: int, best: float, noise: float, found: Spectrum, rows: np.ndarray
) -> Saddle:
    """One stationary point; the direction is the next eigenvector in the first empty unit."""
    phi, value = linear_vae.best_guide(theta), float(found.values[kept])
    laws, ways = np.linalg.eigh(linear_vae.elbo_hessian(value, noise))
    outer = np.zeros_like(theta.loadings)
    outer[:, kept] = found.vectors[:, kept]
    still = jax.tree.map(np.zeros_like, phi)
    way = (ways[0, -1] * outer, still._replace(network=ways[1, -1] * outer.T))
    of_log_p = curvature.along(linear_averages.mean_log_p, theta.loadings, outer, theta, rows)
    of_elbo = curvature.along(linear_averages.mean_elbo, (theta.loadings, phi), way, theta, rows)
    below = best - float(linear_averages.at_optimum(theta, rows).log_evidence)
    return Saddle(
        kept=kept,
        below=below,
        eigenvalue=value,
        slope=max(of_log_p.slope, of_elbo.slope),
        curvature=of_log_p.value,
        curvature_law=(value - noise) / noise**2,
        elbo_curvature=of_elbo.value,
        elbo_curvature_law=float(laws[-1]),
        residual=max(of_log_p.residual, of_elbo.residual),
    )
