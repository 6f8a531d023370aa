"""Conjugate priors of a Gaussian mixture, for maximum a posteriori (MAP) estimation by EM."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln, multigammaln

from lvm_jax._core import checks
from lvm_jax.typing import Array, ArrayLike, Float, Scalar

LOG_2PI = float(np.log(2 * np.pi))


class NormalInverseWishart(NamedTuple):
    """mu_k | Sigma_k ~ N(mean, Sigma_k / strength),  Sigma_k ~ IW(degrees, scale).

    `scale` is [D, D] for full and tied covariances; [D] for diagonal ones, with each variance
    inverse-gamma(degrees/2, scale_d/2); a scalar for spherical ones, inverse-gamma(degrees/2,
    scale/2) (Fraley and Raftery 2007, section 2.1).
    """

    mean: Any  # [D]
    strength: Any
    degrees: Any
    scale: Any


class ConjugatePrior(NamedTuple):
    """Prior of a mixture: Dirichlet(concentration) on the weights, and a prior on the components.

    Either part may be None. `concentration` is a number or [K], at least 1, so that the mode of
    the weights exists.
    """

    concentration: Any = None
    components: Any = None


def default_prior(
    x: ArrayLike, num_components: int, covariance_type: str = "full"
) -> ConjugatePrior:
    """The weakly informative prior of Fraley and Raftery (2007, section 2.2).

    mean = average of x, strength = 0.01, degrees = D + 2, and scale = cov(x) / K^(2/D), of which
    a diagonal model uses the diagonal and a spherical model its average. The prior of the weights
    is flat (concentration 1).

    Raises ValueError or TypeError for an x that is not [N, D] finite numbers with N >= 2,
    num_components < 1, or a covariance_type other than full, tied, diag and spherical.
    """
    num_components = checks.integer(num_components, "num_components", 1)
    checks.choice(covariance_type, "covariance_type", ("full", "tied", "diag", "spherical"))
    rows = np.asarray(checks.points(x, "x", 2), np.float64)
    dim = rows.shape[1]
    scale = np.cov(rows, rowvar=False).reshape(dim, dim) / num_components ** (2 / dim)
    if covariance_type == "diag":
        scale = np.diag(scale)
    elif covariance_type == "spherical":
        scale = np.trace(scale) / dim
    niw = NormalInverseWishart(rows.mean(0), 0.01, dim + 2.0, scale)
    return ConjugatePrior(1.0, niw)


def log_inverse_wishart(cholesky: Float[Array, "D D"], prior: NormalInverseWishart) -> Scalar:
    """log IW(Sigma; degrees, scale) at Sigma = L L^T, in nats."""
    dim = cholesky.shape[-1]
    half = prior.degrees / 2
    whitened = solve_triangular(cholesky, jnp.linalg.cholesky(prior.scale), lower=True)
    log_det_scale = jnp.linalg.slogdet(prior.scale)[1]
    log_det = 2 * jnp.log(jnp.diagonal(cholesky)).sum()
    normalizer = half * (log_det_scale - dim * np.log(2.0)) - multigammaln(half, dim)
    return normalizer - (half + (dim + 1) / 2) * log_det - 0.5 * (whitened**2).sum()


def log_inverse_gamma(variance: ArrayLike, prior: NormalInverseWishart) -> Array:
    """log IG(variance; degrees/2, scale/2), in nats, elementwise."""
    shape, rate = prior.degrees / 2, prior.scale / 2
    normalizer = shape * jnp.log(rate) - gammaln(shape)
    return normalizer - (shape + 1) * jnp.log(variance) - rate / variance


def log_dirichlet(log_weights: Float[Array, " K"], concentration: Float[Array, " K"]) -> Scalar:
    """log Dirichlet(weights; concentration), in nats, with 0 * log 0 = 0."""
    alpha = concentration
    kernel = jnp.where(alpha == 1, 0.0, (alpha - 1) * log_weights).sum()
    return kernel + gammaln(alpha.sum()) - gammaln(alpha).sum()


def check(
    prior: ConjugatePrior, num_components: int, dim: int, covariance_type: str | None
) -> ConjugatePrior:
    """Validate a prior on the host and return it with float64 arrays."""
    if not isinstance(prior, ConjugatePrior):
        raise TypeError(f"prior: expected an em.ConjugatePrior, got {type(prior).__name__}")
    alpha, niw = prior
    if alpha is not None:
        alpha = np.broadcast_to(np.asarray(alpha, np.float64), (num_components,))
        if not (np.isfinite(alpha).all() and (alpha >= 1).all()):
            raise ValueError(
                f"prior.concentration: expected numbers >= 1 (below 1 the mode lies at a zero "
                f"weight), got a minimum of {alpha.min():g}"
            )
    if niw is None:
        return ConjugatePrior(alpha, None)
    if covariance_type is None or not isinstance(niw, NormalInverseWishart):
        raise TypeError("prior.components: expected an em.NormalInverseWishart on Gaussians")
    shapes = {"full": (dim, dim), "tied": (dim, dim), "diag": (dim,), "spherical": ()}
    mean, scale = np.asarray(niw.mean, np.float64), np.asarray(niw.scale, np.float64)
    checks.shape(mean, (dim,), "prior.components.mean")
    checks.shape(scale, shapes[covariance_type], "prior.components.scale")
    if scale.ndim == 2:
        checks.symmetric_positive_definite(scale, "prior.components.scale")
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("prior.components.scale: expected positive numbers")
    strength = checks.number(niw.strength, "prior.components.strength")
    degrees = checks.number(niw.degrees, "prior.components.degrees")
    if not strength > 0:
        raise ValueError("prior.components.strength: expected a positive number, got 0")
    if degrees <= (dim - 1 if scale.ndim == 2 else 0):
        raise ValueError(
            f"prior.components.degrees: expected more than D - 1 = {dim - 1}, got {degrees:g}"
        )
    return ConjugatePrior(alpha, NormalInverseWishart(mean, strength, degrees, scale))


def cast(prior: Any, dtype: Any) -> Any:
    """The same prior with every number a NumPy array of `dtype`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), prior)
