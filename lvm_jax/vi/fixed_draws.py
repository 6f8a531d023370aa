"""The ELBO of Gaussians for fixed draws of the noise, a smooth function of parameters x.

A chart N(m_0, (C C^T)^-1) gives the coordinates y = C^T (z - m_0), in which q is centred at v:

    full_rank    y = v + T e,           x = (v, T's lower triangle), log of T's diagonal
    mean_field   y = v + C^T (s * e),   x = (v, log (s / s_0)),      s_0 = diag(C C^T)^(-1/2)

with noise e ~ N(0, I) in pairs +-e. The quadratic |y|^2 / 2 is a control variate:

    ELBO(x) = mean_e[log p(z) + |y|^2 / 2] - E[|y|^2] / 2 + entropy

E[|y|^2] is in closed form, so that the ELBO of a Gaussian p with precision C C^T is exact for any
draws. Logarithms are divided by sqrt(2); the Hessian of the ELBO at its maximum is then about -I.

Source: Giordano, Ingram and Broderick (2023), equation 5; Burroni et al. (2023), SAA for VI.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions.normals import LOG_2PI, LogCholesky, upper_factor
from lvm_jax.typing import Array, Float, Scalar
from lvm_jax.vi.density import Density
from lvm_jax.vi.natural import Gaussian

ROOT_2 = 2**0.5


class Spread(NamedTuple):
    """The gradients of the draws of a mean: norms in x, with a Hessian of about -I."""

    elbo: Scalar
    standard_error: Scalar
    square: Scalar  # |mean gradient|^2
    variance: Scalar  # E|gradient - its mean|^2, of one pair


def num_parameters(dim: int, diagonal: bool) -> int:
    """The size of x."""
    return 2 * dim if diagonal else dim + dim * (dim + 1) // 2


def _triangle(x: Float[Array, " P"], dim: int) -> Float[Array, "D D"]:
    """T of full_rank."""
    rest = x[dim:]
    return LogCholesky(rest[:dim] / ROOT_2, rest[dim:]).factor()


def _scale(x: Float[Array, " P"], chart: Gaussian) -> Float[Array, " D"]:
    """s of mean_field."""
    return jnp.exp(x[chart.mean.size :] / ROOT_2) / jnp.sqrt((chart.factor**2).sum(1))


@precision.full
def values(
    x: Float[Array, " P"],
    noise: Float[Array, "S D"],
    density: Density,
    chart: Gaussian,
    diagonal: bool,
) -> Float[Array, " S"]:
    """The terms of the ELBO of each pair +-e, whose mean is ELBO(x)."""
    dim = chart.mean.size
    v, log_det = x[:dim], jnp.log(jnp.diagonal(chart.factor)).sum()
    if diagonal:
        scale = _scale(x, chart)
        away = (noise * scale[None]) @ chart.factor
        square = (scale**2 * (chart.factor**2).sum(1)).sum()
        entropy = jnp.log(scale).sum()
    else:
        lower = _triangle(x, dim)
        away = noise @ lower.T
        square = (lower**2).sum()
        entropy = jnp.log(jnp.diagonal(lower)).sum() - log_det

    def term(y: Float[Array, "S D"]) -> Float[Array, " S"]:
        z = chart.mean[None] + solve_triangular(chart.factor, y.T, trans=1, lower=True).T
        return jax.vmap(density)(z) + 0.5 * (y**2).sum(1)

    mean = 0.5 * (term(v[None] + away) + term(v[None] - away))
    return mean - 0.5 * (v @ v + square) + entropy + 0.5 * dim * (1 + LOG_2PI)


@bounded_jit(4)
def value_and_gradient(
    x: Array, noise: Array, density: Density, chart: Gaussian, diagonal: bool
) -> tuple[Scalar, Float[Array, " P"]]:
    """ELBO(x), and its gradient."""
    return jax.value_and_grad(lambda x: values(x, noise, density, chart, diagonal).mean())(x)


@bounded_jit(5)
def hessian_times(
    x: Array, direction: Array, noise: Array, density: Density, chart: Gaussian, diagonal: bool
) -> Float[Array, " P"]:
    """The product of the Hessian of ELBO(x) with a direction."""
    gradient = jax.grad(lambda x: values(x, noise, density, chart, diagonal).mean())
    return jax.jvp(gradient, (x,), (direction,))[1]


@bounded_jit(4)
def spread(x: Array, noise: Array, density: Density, chart: Gaussian, diagonal: bool) -> Spread:
    """The ELBO from some draws, and the mean and variance of the gradients of its terms."""

    def one(row: Float[Array, " D"]) -> tuple[Scalar, Array]:
        return jax.value_and_grad(lambda x: values(x, row[None], density, chart, diagonal)[0])(x)

    def add(total: Array, row: Float[Array, " D"]) -> tuple[Array, tuple[Scalar, Scalar]]:
        value, gradient = one(row)
        return total + gradient, (value, (gradient**2).sum())

    total, (terms, squares) = jax.lax.scan(add, jnp.zeros_like(x), noise)
    count = len(noise)
    square = ((total / count) ** 2).sum()
    variance = (squares.mean() - square) * count / (count - 1)
    return Spread(terms.mean(), terms.std() / count**0.5, square, variance)


@bounded_jit(2, lean=True)
def normal_of(x: Array, chart: Gaussian, diagonal: bool) -> Gaussian:
    """q as a normal: N(m, (C C^T)^-1), of which mean_field is the diagonal restriction."""
    dim = chart.mean.size
    mean = chart.mean + solve_triangular(chart.factor, x[:dim], trans=1, lower=True)
    if diagonal:
        own = 1 / jnp.sqrt((chart.factor**2).sum(1))
        return Gaussian(mean, (own / _scale(x, chart))[:, None] * chart.factor)
    eye = jnp.eye(dim, dtype=x.dtype)
    inverse = solve_triangular(_triangle(x, dim), eye, lower=True)
    return Gaussian(mean, chart.factor @ upper_factor(inverse)[1].T)


def origin(chart: Gaussian, diagonal: bool) -> Float[np.ndarray, " P"]:
    """The x of the chart's own normal."""
    return np.zeros(num_parameters(chart.mean.size, diagonal), chart.mean.dtype)
