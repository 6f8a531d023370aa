"""Exact averages over data of the terms of a linear VAE, and maximisation of its ELBO.

p(x | z) = N(W z + b, s2 I) and q(z | x) = N(V x + a, Sigma). `linear_vae` has the closed forms of
the optimum.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from lvm_jax import decomposition, distributions, guides, models
from lvm_jax._core import checks
from lvm_jax.guides import Guide
from lvm_jax.guides.amortized import Amortized
from lvm_jax.models import LinearGaussian, Model
from lvm_jax.problems import linear_vae
from lvm_jax.training.objective import kl_per_dimension
from lvm_jax.typing import Array, Distribution, Float, Params, Scalar

FAMILIES = {"mean_field": guides.mean_field, "full_rank": guides.full_rank}
BLOCK = 1024  # rows per batch
TO_THE_END = {"maxcor": 30, "ftol": 0.0, "gtol": 1e-9}  # of L-BFGS, in float64


class Averages(NamedTuple):
    """Averages over the data, in nats per point."""

    log_evidence: Scalar  # log p(x)
    elbo: Scalar  # energy + entropy, computed without log p and the posterior
    kl_posterior: Scalar  # KL(q || p(z | x)), computed without the other terms
    kl_units: Float[Array, " L"]  # KL(q(z_u | x) || p(z_u)) of the marginals of q
    means: Float[Array, "L L"]  # Cov_x(E_q[z]); its diagonal is A_u


@cache
def model_and_guide(
    dim: int, latent_dim: int, family: str = "mean_field", covariance: str = "shared"
) -> tuple[Model, Guide]:
    """The linear VAE: PPCA, and q(z | x) = N(V x + a, Sigma); cached by its arguments.

    family: "mean_field" or "full_rank". covariance: "shared" has one Sigma for all x, "per_x" a
    Sigma that depends on x. Raises ValueError for another value.
    """
    family = checks.choice(family, "family", list(FAMILIES))
    covariance = checks.choice(covariance, "covariance", ("shared", "per_x"))
    fields = ("loc",) if covariance == "shared" else None
    guide = guides.linear(FAMILIES[family](latent_dim), dim, fields)
    return models.linear_gaussian(latent_dim, dim), guide


def averages(
    model: Model, guide: Guide, theta: Params, phi: Params, rows: Float[Array, "N D"]
) -> Averages:
    """Exact averages over rows [N, D]; a pure function, not compiled.

    Raises ValueError for a model without closed forms and for a q that is not Gaussian.
    """
    posterior_of, evidence_of = _closed_forms(model)

    def one(x: Float[Array, " D"]) -> tuple[Scalar, Scalar, Scalar, Array, Array]:
        q, posterior = guide.posterior(phi, x), posterior_of(theta, x)
        found = decomposition.decompose_exactly(model(theta).log_joint(x), q, posterior=posterior)
        gaussian = distributions.gaussian_parts(q)
        if gaussian is None or found.kl_posterior is None:
            raise ValueError(f"guide: expected a Gaussian q, got {type(q).__name__}")
        mean, cholesky = gaussian
        marginal = distributions.normal(mean, jnp.sqrt((cholesky**2).sum(1)))
        kl_units = kl_per_dimension(marginal, model.prior(theta))
        return evidence_of(theta, x), found.elbo.value, found.kl_posterior.value, kl_units, mean

    found = jax.lax.map(one, rows, batch_size=min(BLOCK, rows.shape[0]))
    log_evidence, elbo, kl_posterior, kl_units = (part.mean(0) for part in found[:-1])
    centred = found[-1] - found[-1].mean(0)[None]
    covariance = centred.T @ centred / rows.shape[0]
    return Averages(log_evidence, elbo, kl_posterior, kl_units, covariance)


def _closed_forms(model: Model) -> tuple[Callable[..., Distribution], Callable[..., Scalar]]:
    if model.posterior is None or model.log_evidence is None:
        raise ValueError("model: expected closed forms of p(z | x) and log p(x), got none")
    return model.posterior, model.log_evidence


quick = jax.jit(averages, static_argnums=(0, 1))


def in_double(model: Model, guide: Guide, theta: Params, phi: Params, rows: np.ndarray) -> Averages:
    """`averages` in float64, on the host."""
    with jax.enable_x64(True):
        theta, phi, rows = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), (theta, phi, rows))
        return jax.tree.map(np.asarray, quick(model, guide, theta, phi, rows))


def at_optimum(theta: LinearGaussian, rows: np.ndarray, family: str = "mean_field") -> Averages:
    """`averages` in float64, on the host, with the optimal q, `linear_vae.best_guide`."""
    model, guide = model_and_guide(*np.shape(theta.loadings), family)
    return in_double(model, guide, theta, linear_vae.best_guide(theta, family), rows)


def mean_log_p(loadings: Array, theta: LinearGaussian, rows: Array) -> Scalar:
    """The average of log p(x) over rows, as a function of W."""
    model, _ = model_and_guide(*loadings.shape)
    moved = theta._replace(loadings=loadings)
    return jax.vmap(lambda x: _closed_forms(model)[1](moved, x))(rows).mean()


def mean_elbo(at: tuple[Array, Amortized], theta: LinearGaussian, rows: Array) -> Scalar:
    """The average of the mean-field ELBO over rows, as a function of W and phi."""
    loadings, phi = at
    model, guide = model_and_guide(*loadings.shape)
    return averages(model, guide, theta._replace(loadings=loadings), phi, rows).elbo


@partial(jax.jit, static_argnames="mean_field")
def loss_and_slope(
    theta: LinearGaussian, rows: Array, mean_field: bool
) -> tuple[Scalar, LinearGaussian]:
    """Minus the ELBO of the optimal q for theta, and its gradient."""

    def loss(theta: LinearGaussian) -> Scalar:
        lost = linear_vae.mean_field_gap(theta) if mean_field else 0.0
        return lost - mean_log_p(theta.loadings, theta, rows)

    return jax.value_and_grad(loss)(theta)


def ascend(
    theta: LinearGaussian, rows: np.ndarray, mean_field: bool, learn_noise: bool, max_steps: int
) -> tuple[LinearGaussian, int, float]:
    """Maximise the ELBO of the optimal q over theta, by L-BFGS in float64.

    The ELBO of the optimal mean-field q is log p - `mean_field_gap`; that of the optimal full-rank
    q is log p. p(z) = N(0, I) is fixed, and s2 too unless `learn_noise`. Rows [N, D] may be
    `Spectrum.moment_points`. Returns theta, the number of steps, and the largest absolute entry of
    the final gradient. Raises ValueError for max_steps < 0.
    """
    max_steps = checks.integer(max_steps, "max_steps", 0)
    parts_free: tuple[Any, ...] = (0.0, 1.0, 1.0, float(learn_noise))  # p(z) = N(0, I) is fixed
    free = LinearGaussian(*parts_free)
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
