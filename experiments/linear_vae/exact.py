"""Exact averages of a linear VAE, and the landscape around the optimum of PPCA, in float64."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from lvm_jax import decomposition, distributions, guides, models
from lvm_jax.guides import Guide
from lvm_jax.guides.amortized import Amortized
from lvm_jax.models import LinearGaussian, Model, log_joint
from lvm_jax.problems import linear_vae
from lvm_jax.problems.linear_vae import Spectrum
from lvm_jax.training import kl_per_dimension
from lvm_jax.typing import Array, Float, Params, Scalar

FAMILIES = {"mean_field": guides.mean_field, "full_rank": guides.full_rank}
BLOCK = 1024  # rows that are measured together
TO_THE_END = {"maxcor": 30, "ftol": 0.0, "gtol": 1e-9}  # of L-BFGS, in float64
MOST_POINTS = 8  # stationary points that are measured
ANGLES = np.linspace(0, 90, 7)  # of two units that are rotated into each other, degrees


class Measured(NamedTuple):
    """Averages over the data, in nats per point."""

    log_evidence: Scalar  # log p(x)
    elbo: Scalar  # energy + entropy: neither log p nor the posterior enters it
    kl_posterior: Scalar  # KL(q || p(z | x)) by its closed form: enters nothing else
    kl_units: Float[Array, " L"]  # KL(q(z_u | x) || p(z_u)), of the marginals of q
    means: Float[Array, "L L"]  # Cov_x(E_q[z]); its diagonal is A_u


class Rotation(NamedTuple):
    """A rotated maximum of the likelihood with its best mean-field q, in nats per point."""

    name: str
    log_evidence: float
    log_evidence_less_elbo: float  # the ELBO is energy + entropy
    closed_form: float  # of the same


class Saddle(NamedTuple):
    """A stationary point that keeps the `kept` largest eigenvalues, and its steepest way up."""

    kept: int
    below: float  # nats of log p below the optimum
    eigenvalue: float  # the largest that is left out
    slope: float  # the largest entry of the gradient of log p and of the ELBO
    curvature: float  # of log p in W along that eigenvector, by differentiation
    curvature_law: float  # (lambda - s2) / s2^2
    elbo_curvature: float  # of the ELBO in W and V together, by differentiation
    elbo_curvature_law: float  # the largest eigenvalue of `elbo_hessian`
    residual: float  # of both directions as eigenvectors of the Hessian: |H d - c d| / |c|


@cache
def model_and_guide(
    dim: int, latent_dim: int, family: str = "mean_field", covariance: str = "shared"
) -> tuple[Model, Guide]:
    """The linear VAE: PPCA, and q(z | x) = N(V x + a, Sigma), whose Sigma may depend on x too."""
    fields = ("loc",) if covariance == "shared" else None
    guide = guides.linear(FAMILIES[family](latent_dim), dim, fields)
    return models.linear_gaussian(latent_dim, dim), guide


def measure(
    model: Model, guide: Guide, theta: Params, phi: Params, rows: Float[Array, "N D"]
) -> Measured:
    """Every average over rows [N, D], exact: nothing is sampled. Pure; jit outside."""

    def one(x: Float[Array, " D"]) -> tuple[Scalar, Scalar, Scalar, Array, Array]:
        q, posterior = guide.posterior(phi, x), model.posterior(theta, x)
        found = decomposition.decompose_exactly(log_joint(model, theta, x), q, posterior=posterior)
        mean, cholesky = distributions.gaussian_parts(q)
        marginal = distributions.normal(mean, jnp.sqrt((cholesky**2).sum(1)))
        kl_units = kl_per_dimension(marginal, model.prior(theta))
        evidence = model.log_evidence(theta, x)
        return evidence, found.elbo.value, found.kl_posterior.value, kl_units, mean

    *parts, means = jax.lax.map(one, rows, batch_size=min(BLOCK, rows.shape[0]))
    centred = means - means.mean(0)[None]
    return Measured(*(part.mean(0) for part in parts), centred.T @ centred / rows.shape[0])


quick_measure = jax.jit(measure, static_argnums=(0, 1))


def measure_double(
    model: Model, guide: Guide, theta: Params, phi: Params, rows: np.ndarray
) -> Measured:
    """`measure` in float64, on the host."""
    with jax.enable_x64(True):
        theta, phi, rows = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), (theta, phi, rows))
        return jax.tree.map(np.asarray, quick_measure(model, guide, theta, phi, rows))


def measure_optimum(
    theta: LinearGaussian, rows: np.ndarray, family: str = "mean_field"
) -> Measured:
    """`measure` in float64 with the best q of a family."""
    model, guide = model_and_guide(*np.shape(theta.loadings), family)
    return measure_double(model, guide, theta, linear_vae.best_guide(theta, family), rows)


def rotated(
    theta: LinearGaussian, rows: np.ndarray, rotation: np.ndarray, name: str = ""
) -> Rotation:
    """W R instead of W: the same p(x), another z."""
    moved = theta._replace(loadings=theta.loadings @ rotation)
    found, law = measure_optimum(moved, rows), linear_vae.mean_field_gap(moved)
    lost = found.log_evidence - found.elbo
    return Rotation(name, float(found.log_evidence), float(lost), float(law))


def plane_rotation(latent_dim: int, first: int, second: int, degrees: float) -> np.ndarray:
    """R that turns two units by an angle and leaves the others."""
    rotation, angle = np.eye(latent_dim), np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation[np.ix_([first, second], [first, second])] = turn
    return rotation


def rotations(rng: np.random.Generator, theta: LinearGaussian, rows: np.ndarray) -> list[Rotation]:
    """The optimum itself, its units permuted and signed, two of them turned, and all at random."""
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
    """Units 1 and 2, 1 and L, L - 1 and L rotated into each other by `ANGLES`."""
    size = np.shape(theta.loadings)[1]
    pairs = sorted({(0, 1), (0, size - 1), (size - 2, size - 1)}) if size > 1 else ()
    return {
        pair: [rotated(theta, rows, plane_rotation(size, *pair, angle)) for angle in ANGLES]
        for pair in pairs
    }


def saddles(found: Spectrum, latent_dim: int, noise: float) -> list[Saddle]:
    """Stationary points with 0, 1, ... units in use, up to the optimum at s2 = noise.

    All have an empty unit; of many they are a choice, both ends in it. Along w = c u the average
    of log p is -(log(s2 + c^2) + lambda / (s2 + c^2)) / 2 and a constant. Its second derivative at
    0 is (lambda - s2) / s2^2, positive where an eigenvalue above s2 is left out, and only there.
    """
    last = min(found.above(noise), latent_dim - 1, found.vectors.shape[1] - 1)
    kept = sorted(set(np.linspace(0, last, MOST_POINTS).round().astype(int).tolist()))
    rows, top = found.moment_points(), found.stationary(latent_dim, noise)
    best = float(measure_optimum(top, rows).log_evidence)
    return [
        saddle(found.stationary(latent_dim, noise, number), number, best, noise, found, rows)
        for number in kept
    ]


def saddle(
    theta: LinearGaussian, kept: int, best: float, noise: float, found: Spectrum, rows: np.ndarray
) -> Saddle:
    """One of them; the direction fills the first empty unit with the next eigenvector."""
    phi, value = linear_vae.best_guide(theta), float(found.values[kept])
    laws, ways = np.linalg.eigh(linear_vae.elbo_hessian(value, noise))
    outer = np.zeros_like(theta.loadings)
    outer[:, kept] = found.vectors[:, kept]
    still = jax.tree.map(np.zeros_like, phi)
    way = (ways[0, -1] * outer, still._replace(network=ways[1, -1] * outer.T))
    slope, bend, residual = second_derivative(mean_log_p, theta.loadings, outer, (theta, rows))
    elbo_slope, elbo_bend, elbo_residual = second_derivative(
        mean_elbo, (theta.loadings, phi), way, (theta, rows)
    )
    below = best - float(measure_optimum(theta, rows).log_evidence)
    return Saddle(
        *(kept, below, value, max(slope, elbo_slope), bend, (value - noise) / noise**2),
        *(elbo_bend, float(laws[-1]), max(residual, elbo_residual)),
    )


def mean_log_p(loadings: Array, theta: LinearGaussian, rows: Array) -> Scalar:
    """The average of log p(x) over rows, as a function of W."""
    model, _ = model_and_guide(*loadings.shape)
    moved = theta._replace(loadings=loadings)
    return jax.vmap(lambda x: model.log_evidence(moved, x))(rows).mean()


def mean_elbo(at: tuple[Array, Amortized], theta: LinearGaussian, rows: Array) -> Scalar:
    """The average of the mean-field ELBO over rows, as a function of W and phi."""
    loadings, phi = at
    model, guide = model_and_guide(*loadings.shape)
    return measure(model, guide, theta._replace(loadings=loadings), phi, rows).elbo


@partial(jax.jit, static_argnums=0)
def gradient_and_turn(
    function: Callable[..., Scalar], at: Params, way: Params, fixed: tuple[Any, ...]
) -> tuple[Params, Params]:
    """The gradient of `function` and the product of its Hessian with a direction."""
    return jax.jvp(jax.grad(lambda point: function(point, *fixed)), (at,), (way,))


def second_derivative(
    function: Callable[..., Scalar], at: Params, way: Params, fixed: tuple[Any, ...]
) -> tuple[float, float, float]:
    """Largest entry of the gradient, d^T H d, and |H d - (d^T H d) d| over it, of a unit d."""
    with jax.enable_x64(True):
        at, way, fixed = jax.tree.map(jnp.asarray, (at, way, fixed))
        parts = (*gradient_and_turn(function, at, way, fixed), way)
        steep, turn, along = (np.asarray(ravel_pytree(part)[0]) for part in parts)
    curvature = float(along @ turn / (along @ along))
    residual = np.linalg.norm(turn - curvature * along) / np.linalg.norm(along)
    return float(np.abs(steep).max()), curvature, float(residual / abs(curvature))


@partial(jax.jit, static_argnames="mean_field")
def loss_and_slope(
    theta: LinearGaussian, rows: Array, mean_field: bool
) -> tuple[Scalar, LinearGaussian]:
    """Minus the ELBO of the best q for theta, and its gradient."""

    def loss(theta: LinearGaussian) -> Scalar:
        lost = linear_vae.mean_field_gap(theta) if mean_field else 0.0
        return lost - mean_log_p(theta.loadings, theta, rows)

    return jax.value_and_grad(loss)(theta)


def ascend(
    theta: LinearGaussian, rows: np.ndarray, mean_field: bool, learn_noise: bool, max_steps: int
) -> tuple[LinearGaussian, int, float]:
    """Climb the ELBO in theta with q at its best for every theta, by L-BFGS in float64.

    The ELBO of the best mean-field q is log p less `mean_field_gap`; that of a full-rank q is
    log p. Gives theta, the number of steps, and the largest entry of the gradient that is left.
    """
    free = LinearGaussian(0.0, 1.0, 1.0, float(learn_noise))  # p(z) stays N(0, I)
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta)
        points, (start, unravel) = jnp.asarray(rows), ravel_pytree(theta)

        def descend(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = loss_and_slope(unravel(jnp.asarray(flat)), points, mean_field)
            parts = jax.tree.map(lambda part, scale: np.ravel(part) * scale, slope, free)
            return float(value), np.concatenate(parts)

        options = {"maxiter": max_steps, "maxfun": 2 * max_steps, **TO_THE_END}
        found = minimize(descend, np.asarray(start), jac=True, method="L-BFGS-B", options=options)
        ended = jax.tree.map(np.asarray, unravel(jnp.asarray(found.x)))
    return ended, int(found.nit), float(np.abs(found.jac).max())
