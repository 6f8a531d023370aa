"""Natural-gradient ascent of the ELBO over Gaussians, from gradients of the log-density alone.

A Gaussian q = N(m, A^-1) with precision A = C C^T. Draws z = m + C^-T e come in pairs +-e. The
residual r = grad log p(z) - grad log q(z), in the coordinates of the noise, has the mean and the
first moment that the step needs, by Stein's identity:

    r = C^-1 grad log p(z) + e,    E[r] = C^-1 grad_m ELBO,    E[e r^T] = C^-1 E[Hessian + A] C^-T

Both vanish for every draw if p is Gaussian and q = p, so that the noise of the steps vanishes where
q fits. A pair +-e cancels the even part of r in E[e r^T], its largest part for a skewed p.

    m <- m + rate C^-T E[r],    A <- C (I - rate M + rate^2 M^2 / 2) C^T,    M = E[e r^T]

The quadratic in M is positive definite for any M.

Source: Khan and Rue (2023), the Bayesian learning rule, equation 10; Lin, Schmidt and Khan (2020)
for the quadratic; Roeder, Wu and Duvenaud (2017) for the residual.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax.distributions import FullRankNormal, normal
from lvm_jax.distributions.affine import solve_transposed
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar
from lvm_jax.vi.blocks import Step

FLOOR = 1e-6  # the smallest eigenvalue of a curvature with diagonal 1
NUM_HESSIANS = 4  # of a mean curvature
# The most that a step changes log A, by the Frobenius norm in the coordinates of the noise, over
# the root of the rate. A rare large gradient then moves the state no further than noise does.
TRUST = 1.0


Matrix = Float[Array, "D D"] | Float[Array, " D"]  # a matrix, or the diagonal of a diagonal one


class Gaussian(NamedTuple):
    """N(m, A^-1), or its diagonal restriction N(m, diag(A)^-1); A = C C^T."""

    mean: Float[Array, " D"]  # m
    factor: Matrix  # C, lower


class Averaged(NamedTuple):
    """Mean and precision, whose averages over steps are again those of a Gaussian."""

    mean: Float[Array, " D"]
    precision: Matrix


def average_of(state: Gaussian) -> Averaged:
    """The parameters to average."""
    factor = state.factor
    return Averaged(state.mean, factor**2 if factor.ndim == 1 else factor @ factor.T)


@precision.full
def full_rank_step(
    num_samples: int,
    log_density: Callable[[Array], Scalar],
    key: Key[Array, ""],
    state: Gaussian,
    rate: Scalar,
) -> Step:
    """One step over N(m, A^-1), with `num_samples` draws, an even number."""
    mean, factor = state
    noise = _pairs(key, num_samples, mean)
    z = mean[None] + solve_triangular(factor, noise.T, trans=1, lower=True).T
    value, gradient = jax.vmap(jax.value_and_grad(log_density))(z)
    residual = solve_triangular(factor, gradient.T, lower=True).T + noise
    log_q = jnp.log(jnp.diagonal(factor)).sum() - 0.5 * _square(noise)

    first = residual.mean(0)
    second = noise.T @ residual / num_samples
    second = (second + second.T) / 2
    limit = TRUST * jnp.sqrt(jnp.minimum(rate, 1))
    move = _bounded(rate * first, limit * mean.size**0.5)
    move = solve_triangular(factor, move, trans=1, lower=True)
    change = _bounded(rate * second, limit)
    growth = jnp.eye(mean.size, dtype=mean.dtype) - change + change @ change / 2
    new = Gaussian(mean + move, factor @ jnp.linalg.cholesky(growth))
    return Step(_kept(new, state, value), value - log_q)


@precision.full
def mean_field_step(
    num_samples: int,
    log_density: Callable[[Array], Scalar],
    key: Key[Array, ""],
    state: Gaussian,
    rate: Scalar,
) -> Step:
    """One step over N(m, diag(A)^-1), with `num_samples` draws, an even number.

    The off-diagonal part of A, from the start, is no part of q. It is the control variate of the
    residual and the metric of m, which an ill-conditioned density needs. A diagonal C, [D], has no
    such part and takes O(D) memory.
    """
    mean, factor = state
    dense = factor.ndim == 2
    scale = 1 / (jnp.sqrt((factor**2).sum(1)) if dense else factor)  # of q
    noise = _pairs(key, num_samples, mean)
    away = noise * scale[None]
    value, gradient = jax.vmap(jax.value_and_grad(log_density))(mean[None] + away)
    residual = gradient + ((away @ factor) @ factor.T if dense else away * factor[None] ** 2)
    log_q = -jnp.log(scale).sum() - 0.5 * _square(noise)

    first = residual.mean(0)
    white = solve_triangular(factor, first, lower=True) if dense else first / factor
    limit = TRUST * jnp.sqrt(jnp.minimum(rate, 1))
    move = solve_transposed(factor, _bounded(rate * white, limit)[None])[0]
    move = scale * _bounded(move / scale, limit * mean.size**0.5)
    change = _bounded(rate * (away * residual).mean(0), limit)
    growth = jnp.sqrt(1 - change + change**2 / 2)
    new = Gaussian(mean + move, growth[:, None] * factor if dense else growth * factor)
    return Step(_kept(new, state, value), value - log_q)


@precision.full
def refresh_curvature(
    log_density: Callable[[Array], Scalar], key: Key[Array, ""], state: Gaussian
) -> Gaussian:
    """The state of `mean_field_step` with the mean of |Hessian| over a few draws of q in A.

    The diagonal of A, which is q's precision, stays.
    """
    own = jnp.sqrt((state.factor**2).sum(1))
    noise = _pairs(key, NUM_HESSIANS, state.mean)
    hessians = jax.lax.map(jax.hessian(log_density), state.mean[None] + noise / own[None])
    root = root_of_curvature(-hessians.mean(0))
    factor = (own / jnp.sqrt((root**2).sum(1)))[:, None] * root
    proper = jnp.isfinite(factor).all()
    return Gaussian(state.mean, jnp.where(proper, factor, state.factor))


def full_rank(average: Averaged) -> Distribution:
    """N(m, A^-1)."""
    return FullRankNormal(average.mean, _lower_root_of_inverse(average.precision))


def mean_field(average: Averaged) -> Distribution:
    """N(m, diag(A)^-1)."""
    return normal(average.mean, 1 / jnp.sqrt(_diagonal(average.precision)))


@precision.full
def full_rank_distance(first: Averaged, second: Averaged) -> Scalar:
    """The mean of KL(q_1 || q_2) and KL(q_2 || q_1), in nats."""
    ratio = jnp.linalg.solve(second.precision, first.precision)
    inverse = jnp.linalg.inv(ratio)
    traces = jnp.trace(ratio) + jnp.trace(inverse) - 2 * first.mean.size
    return (traces + _shift(first, second)) / 4


@precision.full
def mean_field_distance(first: Averaged, second: Averaged) -> Scalar:
    """As `full_rank_distance`, for diagonal q and with A as the curvature in m."""
    ratio = _diagonal(first.precision) / _diagonal(second.precision)
    return ((ratio + 1 / ratio - 2).sum() + _shift(first, second)) / 4


@precision.full
def full_rank_products(averages: Averaged, centre: Averaged) -> Float[Array, "G G"]:
    """The inner products of averages [G, ...] - centre by the Fisher information at the centre."""
    factor = jnp.linalg.cholesky(centre.precision)

    def one(average: Averaged) -> Array:
        away = factor.T @ (average.mean - centre.mean)
        half = solve_triangular(factor, average.precision - centre.precision, lower=True)
        white = solve_triangular(factor, half.T, lower=True) / jnp.sqrt(jnp.asarray(2, half.dtype))
        return jnp.concatenate([away, white.ravel()])

    rows = jax.lax.map(one, averages)
    return rows @ rows.T


@precision.full
def mean_field_products(averages: Averaged, centre: Averaged) -> Float[Array, "G G"]:
    """As `full_rank_products`, for diagonal q and with A as the curvature in m."""
    away = averages.mean - centre.mean[None]
    ratio = jax.vmap(_diagonal)(averages.precision) / _diagonal(centre.precision)[None] - 1
    dense = centre.precision.ndim == 2
    bent = away @ centre.precision if dense else away * centre.precision[None]
    return bent @ away.T + ratio @ ratio.T / 2


def _shift(first: Averaged, second: Averaged) -> Scalar:
    away = first.mean - second.mean
    both = first.precision + second.precision
    return away @ (both @ away if both.ndim == 2 else both * away)


def _diagonal(matrix: Matrix) -> Float[Array, " D"]:
    return matrix if matrix.ndim == 1 else jnp.diagonal(matrix)


def _lower_root_of_inverse(matrix: Float[Array, "D D"]) -> Array:
    """Lower L with L L^T = matrix^-1, from the Cholesky factor of the reversed matrix."""
    upper = jnp.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]  # matrix = upper upper^T
    return solve_triangular(upper, np.eye(len(matrix), dtype=matrix.dtype), trans=1, lower=False)


def _pairs(key: Key[Array, ""], num_samples: int, like: Float[Array, " D"]) -> Float[Array, "S D"]:
    """Standard normal draws e and -e."""
    half = jax.random.normal(key, (num_samples // 2, like.size), like.dtype)
    return jnp.concatenate([half, -half])


def _square(noise: Float[Array, "S D"]) -> Float[Array, " S"]:
    return (noise**2).sum(1) + noise.shape[1] * LOG_2PI


def _bounded(change: Array, limit: Scalar) -> Array:
    """The change, shortened to a norm of at most `limit`."""
    return change * jnp.minimum(1, limit / jnp.maximum(jnp.sqrt((change**2).sum()), 1e-30))


def _kept(new: Gaussian, old: Gaussian, value: Float[Array, " S"]) -> Gaussian:
    """The new state; if a number is not finite the old one, with half the standard deviations."""
    leaves = (new.mean, new.factor, value)
    proper = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
    narrower = Gaussian(old.mean, 2 * old.factor)
    return jax.tree.map(lambda a, b: jnp.where(proper, a, b), new, narrower)


@precision.full
def root_of_curvature(curvature: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Lower C, with C C^T = `curvature` where it is positive definite.

    The curvature is scaled to a diagonal of 1; its eigenvalues are replaced by their absolute
    values, of at least `FLOOR`.
    """
    curvature = jnp.nan_to_num(curvature)
    size = jnp.abs(jnp.diagonal(curvature))
    scale = jnp.sqrt(jnp.where(size > 0, size, 1))
    values, axes = jnp.linalg.eigh(curvature / jnp.outer(scale, scale))
    root = axes * jnp.sqrt(jnp.maximum(jnp.abs(values), FLOOR))[None]
    upper = jnp.linalg.qr((scale[:, None] * root).T, mode="r")
    sign = jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(upper.dtype)
    return (upper * sign[:, None]).T
