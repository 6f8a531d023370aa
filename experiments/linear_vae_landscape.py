"""The landscape of the likelihood and of the ELBO around PPCA's stationary points, in float64.

What a rotation of z costs the mean-field ELBO; why a point that leaves out an eigenvalue above s2 is
a saddle; and where an ascent without noise ends.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments import linear_vae_exact as exact
from experiments.linear_vae_exact import Spectrum
from lvm_jax.guides.amortized import Amortized
from lvm_jax.models import LinearGaussian
from lvm_jax.typing import Array, Params, Scalar

TO_THE_END = {"maxcor": 30, "ftol": 0.0, "gtol": 1e-9}  # of L-BFGS, in float64
MOST_POINTS = 8  # stationary points that are looked at


class Rotation(NamedTuple):
    """A turned maximum of the likelihood, nats per point of the scaled data."""

    name: str
    log_evidence: float
    elbo: float  # of the best mean-field q, energy + entropy
    gap: float  # the closed form of log p - ELBO


class Turn(NamedTuple):
    """Two units turned into each other by an angle; leaves [A]."""

    pair: tuple[int, int]
    angle: np.ndarray  # degrees
    gap: np.ndarray  # closed form, nats
    measured_angle: np.ndarray
    measured_gap: np.ndarray  # log p - (energy + entropy)


class Saddle(NamedTuple):
    """A stationary point that keeps the `kept` largest eigenvalues, and its steepest way up."""

    kept: int
    below: float  # nats of log p below the optimum
    eigenvalue: float  # the largest that is left out
    slope: float  # the largest entry of the gradient of log p and of the ELBO
    curvature: float  # of log p in W along that eigenvector, by differentiation
    curvature_law: float  # (lambda - s2) / s2^2
    elbo_curvature: float  # of the ELBO in W and V together, by differentiation
    elbo_curvature_law: float
    residual: float  # of both directions as eigenvectors of the Hessian: |H d - c d| / |c|


def turned(theta: LinearGaussian, rotation: np.ndarray) -> LinearGaussian:
    """W R: the same p(x), another z."""
    return theta._replace(loadings=np.asarray(theta.loadings, np.float64) @ rotation)


def plane_rotation(latent_dim: int, pair: tuple[int, int], degrees: float) -> np.ndarray:
    """R that turns two units by an angle and leaves the others."""
    rotation, (first, second) = np.eye(latent_dim), pair
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotation[[first, second, first, second], [first, second, second, first]] = cos, cos, -sin, sin
    return rotation


def rotations(rng: np.random.Generator, theta: LinearGaussian, rows: np.ndarray) -> list[Rotation]:
    """The optimum itself, its units permuted and signed, two of them turned, and all at random."""
    latent_dim = np.shape(theta.loadings)[1]
    permuted = np.eye(latent_dim)[rng.permutation(latent_dim)] * rng.choice([-1.0, 1.0], latent_dim)
    cases = {"R = I": np.eye(latent_dim), "units permuted and signed": permuted}
    if latent_dim > 1:
        last = latent_dim - 1
        cases["units 1 and 2 turned by 45°"] = plane_rotation(latent_dim, (0, 1), 45)
        if last > 1:
            said = f"units 1 and {latent_dim} turned by 45°"
            cases[said] = plane_rotation(latent_dim, (0, last), 45)
        random, triangle = np.linalg.qr(rng.normal(size=(latent_dim, latent_dim)))
        cases["a random rotation"] = random * np.sign(np.diagonal(triangle))
    found = []
    for name, rotation in cases.items():
        moved = turned(theta, rotation)
        values = exact.measure_optimum(moved, rows)
        gap = exact.mean_field_gap(moved)
        found.append(Rotation(name, float(values.log_evidence), float(values.elbo), gap))
    return found


def turns(theta: LinearGaussian, rows: np.ndarray) -> list[Turn]:
    """Neighbours and strangers turned into each other by 0 to 90 degrees."""
    latent_dim = np.shape(theta.loadings)[1]
    last = latent_dim - 1
    pairs = sorted({(0, 1), (0, last), (last - 1, last)}) if last > 0 else []
    fine, coarse = np.linspace(0, 90, 91), np.linspace(0, 90, 7)
    found = []
    for pair in pairs:
        gaps = [
            exact.mean_field_gap(turned(theta, plane_rotation(latent_dim, pair, a))) for a in fine
        ]
        dots = []
        for angle in coarse:
            moved = turned(theta, plane_rotation(latent_dim, pair, angle))
            values = exact.measure_optimum(moved, rows)
            dots.append(float(values.log_evidence - values.elbo))
        found.append(Turn(pair, fine, np.array(gaps), coarse, np.array(dots)))
    return found


def turn_price(values: np.ndarray) -> np.ndarray:
    """What turning unit u by 45 degrees into the next one costs the ELBO, [len - 1], in nats.

    For precisions a and b the two diagonal entries become (a + b) / 2: log((a + b)^2 / 4 a b) / 2,
    and s2 cancels from a = lambda_u / s2.
    """
    return 0.5 * np.log((values[:-1] + values[1:]) ** 2 / (4 * values[:-1] * values[1:]))


def saddles(
    found: Spectrum, mean: np.ndarray, latent_dim: int, noise: float, rows: np.ndarray
) -> list[Saddle]:
    """Stationary points with 0, 1, ... units in use, up to the optimum at s2 = noise.

    All have an empty unit; of many they are a choice, both ends in it. Along w = c u its log p per point is -(log(s2 + c^2) + lambda / (s2 + c^2)) / 2
    and a constant, whose second derivative at 0 is (lambda - s2) / s2^2: upwards as long as an
    eigenvalue above s2 is left out, and for no other.
    """
    top = min(found.above(noise), latent_dim)
    with jax.enable_x64(True):
        best = exact.optimum(found, mean, latent_dim, noise)
        highest = float(exact.measure_optimum(best, rows).log_evidence)
        last = min(top, latent_dim - 1, found.vectors.shape[1] - 1)
        kept = sorted(set(np.linspace(0, last, MOST_POINTS).round().astype(int).tolist()))
        return [saddle(found, mean, latent_dim, noise, rows, k, highest) for k in kept]


def saddle(
    found: Spectrum,
    mean: np.ndarray,
    latent_dim: int,
    noise: float,
    rows: np.ndarray,
    kept: int,
    highest: float,
) -> Saddle:
    """One of them; the direction fills the first empty unit with the next eigenvector."""
    theta = exact.stationary(found, mean, latent_dim, noise, kept)
    phi, value = exact.best_guide(theta), float(found.values[kept])
    fixed = jax.tree.map(jnp.asarray, (theta, rows))
    block = np.array([[-1 / noise, value / noise], [value / noise, -value]])  # of (c, v)
    laws, ways = np.linalg.eigh(block)
    outer = np.zeros_like(theta.loadings)
    outer[:, kept] = found.vectors[:, kept]
    still = jax.tree.map(np.zeros_like, phi)
    way = (ways[0, -1] * outer, still._replace(network=ways[1, -1] * outer.T))
    slope, curvature, residual = second_derivative(mean_log_p, theta.loadings, outer, fixed)
    elbo_slope, elbo_curvature, elbo_residual = second_derivative(
        mean_elbo, (theta.loadings, phi), way, fixed
    )
    reached = float(exact.measure_optimum(theta, rows).log_evidence)
    return Saddle(
        *(kept, highest - reached, value, max(slope, elbo_slope)),
        *(curvature, (value - noise) / noise**2),
        *(elbo_curvature, float(laws[-1]), max(residual, elbo_residual)),
    )


def mean_log_p(loadings: Array, theta: LinearGaussian, rows: Array) -> Scalar:
    """The average of log p(x) over rows, as a function of W."""
    model, _ = exact.model_and_guide(*loadings.shape)
    moved = theta._replace(loadings=loadings)
    return jax.vmap(lambda x: model.log_evidence(moved, x))(rows).mean()


def mean_elbo(at: tuple[Array, Amortized], theta: LinearGaussian, rows: Array) -> Scalar:
    """The average of the mean-field ELBO over rows, as a function of W and phi."""
    loadings, phi = at
    model, guide = exact.model_and_guide(*loadings.shape)
    return exact.measure(model, guide, theta._replace(loadings=loadings), phi, rows).elbo


@partial(jax.jit, static_argnums=0)
def _turn(
    function: Callable[..., Scalar], at: Params, way: Params, fixed: tuple[Any, ...]
) -> tuple[Params, Params]:
    return jax.jvp(jax.grad(lambda point: function(point, *fixed)), (at,), (way,))


def second_derivative(
    function: Callable[..., Scalar], at: Params, way: Params, fixed: tuple[Any, ...]
) -> tuple[float, float, float]:
    """Largest entry of the gradient, d^T H d, and |H d - (d^T H d) d| over it, of a unit d."""
    at, way = jax.tree.map(jnp.asarray, (at, way))
    gradient, moved = _turn(function, at, way, fixed)
    steep, along, turn = (np.asarray(ravel_pytree(v)[0]) for v in (gradient, way, moved))
    curvature = float(along @ turn / (along @ along))
    residual = np.linalg.norm(turn - curvature * along) / np.linalg.norm(along)
    return float(np.abs(steep).max()), curvature, float(residual / abs(curvature))


class Ascent(NamedTuple):
    """Where an ascent without noise has ended."""

    theta: LinearGaussian
    num_steps: int
    slope: float  # the largest entry of the gradient that is left


def ascend(
    theta: LinearGaussian,
    rows: np.ndarray,
    *,
    mean_field: bool,
    learn_noise: bool,
    max_steps: int,
) -> Ascent:
    """Climb the ELBO in theta with q at its best for every theta, by L-BFGS in float64.

    The best mean-field q is known, so that this ELBO is log p(theta) - `mean_field_gap`(theta); that
    of a full-rank q is log p itself.
    """
    from scipy.optimize import minimize

    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta)
        points = jnp.asarray(rows)
        start, unravel = ravel_pytree((theta.loadings, theta.offset, theta.log_noise))

        def descend(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _loss_and_slope(unravel(jnp.asarray(flat)), theta, points, mean_field)
            steep = np.array(ravel_pytree(slope)[0])
            steep[-1] *= learn_noise  # the last is that of log s
            return float(value), steep

        options = {"maxiter": max_steps, "maxfun": 2 * max_steps, **TO_THE_END}
        found = minimize(descend, np.asarray(start), jac=True, method="L-BFGS-B", options=options)
        parts = jax.tree.map(np.asarray, unravel(jnp.asarray(found.x)))
        ended = LinearGaussian(np.asarray(theta.prior_mean), *parts)
        return Ascent(ended, int(found.nit), float(np.abs(found.jac).max()))


@partial(jax.jit, static_argnames="mean_field")
def _loss_and_slope(
    free: tuple[Array, Array, Array], theta: LinearGaussian, rows: Array, mean_field: bool
) -> tuple[Scalar, tuple[Array, Array, Array]]:
    def loss(free: tuple[Array, Array, Array]) -> Scalar:
        moved = LinearGaussian(theta.prior_mean, *free)
        value = mean_log_p(moved.loadings, moved, rows)
        return (hadamard(moved) if mean_field else 0.0) - value

    return jax.value_and_grad(loss)(free)


def hadamard(theta: LinearGaussian) -> Scalar:
    """`exact.mean_field_gap`, for differentiation."""
    loadings = theta.loadings
    inner = loadings.T @ loadings * jnp.exp(-2 * theta.log_noise)
    found = jnp.eye(loadings.shape[1], dtype=loadings.dtype) + inner
    return 0.5 * (jnp.log(jnp.diagonal(found)).sum() - jnp.linalg.slogdet(found)[1])
