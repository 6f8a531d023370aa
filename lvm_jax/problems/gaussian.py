"""Linear-Gaussian problems: z ~ N(m, I), x | z ~ N(W z + b, s^2 I)."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions, models
from lvm_jax._core import checks
from lvm_jax.guides.base import Guide
from lvm_jax.models import LinearGaussian
from lvm_jax.problems.base import Problem, changed, host
from lvm_jax.problems.changes import mean_field, shifted_marginals
from lvm_jax.typing import Array, ArrayLike, Distribution, Float


class Affine(NamedTuple):
    """phi of `rainforth`: the mean of q is A x + b."""

    weight: Float[Array, "D D"]  # A
    bias: Float[Array, " D"]  # b


def mixing(size: int, coupling: float) -> Float[np.ndarray, "size size"]:
    """W with W_ii = 1 and W_i,i+1 = coupling, so that x_i depends on z_i and z_(i+1)."""
    return np.eye(size) + coupling * np.eye(size, k=1)


def linear_gaussian(dim: int, coupling: float = 0.5, noise: float = 0.5) -> Problem:
    """z ~ N(0, I), x | z ~ N(W z, s^2 I) with W = `mixing`(dim, coupling), s = noise, in D = dim.

    The guide is `shifted_marginals` of the posterior. Raises ValueError for dim < 1 or a noise that
    is not positive.
    """
    dim = checks.integer(dim, "dim", 1)
    check_positive(noise, "noise")
    theta = LinearGaussian(
        host(np.zeros(dim)), host(mixing(dim, coupling)), host(np.zeros(dim)), host(math.log(noise))
    )
    model = models.linear_gaussian(dim, dim)
    discrepancy = "posterior marginals, 1.2 times as wide, 0.1 sd aside"
    return Problem(
        f"Gaussian, D = {dim}",
        model,
        theta,
        changed(model, theta, shifted_marginals),
        (),
        discrepancy,
    )


def correlated(
    correlation: float, deviations: tuple[float, float] = (0.6, 0.45), noise: float = 0.7
) -> Problem:
    """The model in the plane whose posterior has these deviations and this correlation, for any x.

    The posterior precision is I + W^T W / s^2, so W = s R with R^T R = V^-1 - I. m = (0.5, -0.3)
    and b = (-0.4, 1). The guide is the optimal mean-field normal, `mean_field`, with
    log p(x) - ELBO = -log(1 - correlation^2) / 2.

    Raises ValueError for a correlation outside (-1, 1) or a V whose eigenvalues are not below 1.
    """
    spread = np.array([[1.0, correlation], [correlation, 1.0]])
    covariance = np.outer(deviations, deviations) * spread
    largest = np.linalg.eigvalsh(covariance).max()
    if not abs(correlation) < 1 or largest >= 1:
        raise ValueError(
            "correlation, deviations: expected a posterior covariance with eigenvalues in (0, 1), "
            f"below the prior's, got correlation {correlation:g} and deviations {deviations}"
        )
    check_positive(noise, "noise")
    root = np.linalg.cholesky(np.linalg.inv(covariance) - np.eye(2))
    theta = LinearGaussian(
        host([0.5, -0.3]), host(noise * root.T), host([-0.4, 1.0]), host(math.log(noise))
    )
    model, name = models.linear_gaussian(2, 2), f"Gaussian, correlation {correlation:g}"
    guide = changed(model, theta, mean_field)
    return Problem(name, model, theta, guide, (), "best mean-field normal")


def rainforth(mean: ArrayLike) -> Problem:
    """z ~ N(mu, I), x | z ~ N(z, I), q(z | x) = N(A x + b, 2/3 I) with A = I/2 and b = mu/2.

    This phi is optimal: the posterior has the same mean, and variance 1/2. For every x
    log p(x) - ELBO = D/2 (1/3 - log 4/3), and Var(w) / p(x)^2 = (16/15)^(D/2) - 1.

    `mean` is mu, [D]. Raises ValueError for another shape. Source: Rainforth et al. (2018),
    section 4, with D = 20.
    """
    mu = host(checks.float_array(mean, "mean"))
    checks.finite(mu, "mean")
    if mu.ndim != 1 or mu.size == 0:
        raise ValueError(f"mean: expected mu of shape [D], got {mu.shape}")
    dim = mu.size
    theta = LinearGaussian(mu, host(np.eye(dim)), host(np.zeros(dim)), host(0.0))

    def q(phi: Affine, x: Float[Array, " D"]) -> Distribution:
        loc = phi.weight @ x + phi.bias
        return distributions.normal(loc, jnp.full_like(loc, math.sqrt(2 / 3)))

    phi = Affine(host(0.5 * np.eye(dim)), 0.5 * mu)
    return Problem(
        f"Gaussian, D = {dim}", models.linear_gaussian(dim, dim), theta,
        Guide(lambda key: phi, q), phi, "posterior with a variance a third too large",
    )  # fmt: skip


def check_positive(value: float, name: str) -> float:
    """Return `value` as a float; ValueError unless it is finite and above 0."""
    if not checks.number(value, name) > 0:
        raise ValueError(f"{name}: expected a number > 0, got {value:g}")
    return float(value)
