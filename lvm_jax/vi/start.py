"""A Gaussian from which a fit starts: the best normal at points along an ascent of the density."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.typing import Array, Float, Key, Scalar
from lvm_jax.vi.density import Density, value_and_grad
from lvm_jax.vi.natural import Gaussian, root_of_curvature

ASIDE = 0.01  # standard deviation of the step from a start of gradient 0
MEMORY = 20  # pairs of points in the inverse Hessian of L-BFGS
PATH_SHARE, NORMAL_SHARE = 0.05, 0.2  # of the budget: for the ascent, for normals along it
LONG_SHARE = 0.2  # of the budget, for the ascent alone
NUM_DRAWS = 16  # draws of the ELBO of a normal
NUM_POINTS = 6  # of the path
NUM_PROBES = 10  # products with the Hessian for the scales of a diagonal normal


class Path(NamedTuple):
    """The points of an ascent from the start, and its evaluations of value and gradient."""

    points: Float[np.ndarray, "T D"]
    evaluations: int


class Started(NamedTuple):
    """The normal with the highest ELBO of some along a path."""

    state: Gaussian
    elbo: float
    evaluations: int


def ascend_path(density: Density, start: Float[np.ndarray, " D"], max_evaluations: int) -> Path:
    """The path of L-BFGS (scipy's) from u = `start` uphill, with at most that many evaluations.

    The density may have no mode: the ascent then ends at the budget or where it is not finite. From
    a start of gradient 0, which may be a saddle, it goes on from a point near it.
    """
    from scipy.optimize import minimize

    points, count = [np.asarray(start, float)], 0

    def loss(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count
        count += 1
        value, gradient = value_and_grad(np.asarray(u, density.dtype), density)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e300, np.zeros_like(u)  # the line search then takes a shorter step
        return -float(value), -np.asarray(gradient, float)

    def climb() -> None:
        left = max_evaluations - count
        minimize(
            loss, points[-1], jac=True, method="L-BFGS-B",
            options={"maxcor": MEMORY, "maxfun": left, "maxiter": left},
            callback=lambda u: points.append(np.array(u)),
        )  # fmt: skip

    climb()
    if len(points) == 1 and count < max_evaluations:  # a mode, or a saddle that has to be left
        points.append(points[0] + ASIDE * np.random.default_rng(0).normal(size=density.dim))
        climb()
    return Path(np.array(points), count)


def best_normal(
    key: Key[Array, ""], density: Density, max_evaluations: int, diagonal: bool = False
) -> Started:
    """The normal of the highest ELBO: of unit variance at the start, or of the local curvature.

    With `diagonal` the ELBO is that of N(m, diag(A)^-1) instead of N(m, A^-1).

    The curvature |Hessian| (absolute eigenvalues) is taken at the start, at the end of an ascent,
    and at points between, as many as `NORMAL_SHARE` of the budget allows; a density without a mode,
    such as that of a hierarchical scale, has its best normal before the end of the path.
    """
    dim = density.dim
    path = ascend_path(density, np.zeros(dim), max(int(PATH_SHARE * max_evaluations), 20))
    cost = dim + 1 + NUM_DRAWS
    number = int(np.clip(NORMAL_SHARE * max_evaluations / cost, 1, 6))
    last = len(path.points) - 1
    rows = np.unique(np.round(last * (1 - np.linspace(0, 1, number) ** 2)).astype(int))
    parts = np.zeros(dim, density.dtype), np.eye(dim, dtype=density.dtype)
    unit = Gaussian(*map(jnp.asarray, parts))
    best = Started(unit, float(_elbo(key, unit, density, diagonal)), path.evaluations + NUM_DRAWS)
    for row in rows[::-1]:
        point = np.asarray(path.points[row], density.dtype)
        normal, found = _normal_at(key, point, density, diagonal)
        elbo, spent = float(found), best.evaluations + cost
        better = not best.elbo >= elbo and np.isfinite(elbo)
        best = Started(normal, elbo, spent) if better else best._replace(evaluations=spent)
    return best


class Diagonal(NamedTuple):
    """The diagonal normal with the highest ELBO of some along a path."""

    mean: Float[Array, " D"]
    log_scale: Float[Array, " D"]
    evaluations: int


def best_diagonal(key: Key[Array, ""], density: Density, max_evaluations: int) -> Diagonal:
    """The diagonal normal of the highest ELBO along an ascent, without a matrix of D x D numbers.

    A variance is the inverse of the Euclidean norm of the row of the Hessian, estimated from
    products with random signs; it is below that of the conditional distribution, 1 / H_dd.
    """
    path = ascend_path(density, np.zeros(density.dim), max(int(LONG_SHARE * max_evaluations), 20))
    last = len(path.points) - 1
    rows = np.unique(np.round(last * (1 - np.linspace(0, 1, NUM_POINTS) ** 2)).astype(int))
    points = [np.asarray(path.points[row], density.dtype) for row in rows[::-1]]
    normals = [_diagonal_at(key, point, density) for point in points]
    best = int(np.argmax([float(elbo) for _, elbo in normals]))
    spent = path.evaluations + len(rows) * (NUM_PROBES + NUM_DRAWS)
    return Diagonal(jnp.asarray(points[best]), normals[best][0], spent)


@bounded_jit(3, lean=True)
def _elbo(key: Key[Array, ""], normal: Gaussian, density: Density, diagonal: bool) -> Scalar:
    return elbo_of(key, normal, density, diagonal)


@bounded_jit(3, lean=True)
def _normal_at(
    key: Key[Array, ""], u: Float[Array, " D"], density: Density, diagonal: bool
) -> tuple[Gaussian, Scalar]:
    normal = Gaussian(u, root_of_curvature(-jax.hessian(density)(u)))
    return normal, elbo_of(key, normal, density, diagonal)


def elbo_of(key: Key[Array, ""], normal: Gaussian, log_density: Callable, diagonal: bool) -> Scalar:
    """The ELBO from `NUM_DRAWS` draws in pairs; -inf if it is not finite."""
    mean, factor = normal
    half = jax.random.normal(key, (NUM_DRAWS // 2, mean.size), mean.dtype)
    noise = jnp.concatenate([half, -half])
    if diagonal:
        scale = 1 / jnp.sqrt((factor**2).sum(1))
        away, log_det = noise * scale[None], -jnp.log(scale).sum()
    else:
        away = jax.scipy.linalg.solve_triangular(factor, noise.T, trans=1, lower=True).T
        log_det = jnp.log(jnp.diagonal(factor)).sum()
    log_p = jax.vmap(log_density)(mean[None] + away)
    elbo = log_p.mean() - log_det + 0.5 * mean.size * (1 + LOG_2PI)
    return jnp.where(jnp.isfinite(elbo), elbo, -jnp.inf)


@bounded_jit(lean=True)
def _diagonal_at(
    key: Key[Array, ""], u: Float[Array, " D"], density: Density
) -> tuple[Array, Scalar]:
    """Log-scales of a normal at u, and its ELBO; -inf if it is not finite."""
    key_probes, key_draws = jax.random.split(key)
    gradient = jax.grad(density)
    signs = jax.random.rademacher(key_probes, (NUM_PROBES, u.size), u.dtype)
    rows = jax.lax.map(lambda sign: jax.jvp(gradient, (u,), (sign,))[1], signs)
    norms = jnp.sqrt((rows**2).mean(0))
    norms = jnp.where(jnp.isfinite(norms) & (norms > 0), norms, 1)
    log_scale = -0.5 * jnp.log(norms)
    noise = jax.random.normal(key_draws, (NUM_DRAWS, u.size), u.dtype)
    values = jax.vmap(density)(u[None] + noise * jnp.exp(log_scale)[None])
    elbo = values.mean() + log_scale.sum()
    return log_scale, jnp.where(jnp.isfinite(elbo), elbo, -jnp.inf)
