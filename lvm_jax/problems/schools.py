"""Eight schools, the hierarchical model of Rubin (1981)."""

import math

import jax.numpy as jnp
import numpy as np

from lvm_jax.problems.target import LOG_2PI, Target, line
from lvm_jax.typing import Array, Float, Scalar

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # y
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])  # sigma
SCALE = 5.0  # of mu's normal and of tau's half-Cauchy
BEST = {True: (-33.40405, -32.59171), False: (-31.59730, -31.53401)}  # ELBOs, by centred


def eight_schools(centred: bool = True) -> Target:
    """y_j ~ N(theta_j, sigma_j^2), theta_j ~ N(mu, tau^2), mu ~ N(0, 5^2), tau ~ half-Cauchy(5).

    z = (mu, log tau, theta_1, ..., theta_8), or with `centred` False (mu, log tau, eta_1, ...,
    eta_8) with theta = mu + tau eta. The density includes the Jacobian tau of the logarithm and
    all constants, so that Z = p(y) in both coordinates.

    Z integrates theta and mu in closed form, and tau by quadrature. So do the ELBOs of normals: the
    log-density is quadratic in mu and theta or eta. `facts` has the posterior means
    "mean_mu" and "mean_tau". Source: Rubin (1981); the priors of posteriordb.
    """

    def log_density(z: Float[Array, " 10"]) -> Scalar:
        mu, log_tau, rest = z[0], z[1], z[2:]
        # New arrays for each trace: JAX 0.10 keeps the float32 value of an array of NumPy that a
        # jitted function holds, and fails if x64 is switched on later.
        y, sigma = EFFECTS.astype(rest.dtype), ERRORS.astype(rest.dtype)
        tau = jnp.exp(log_tau)
        effects = rest if centred else mu + tau * rest
        white = (rest - mu) / tau if centred else rest
        log_prior = (-0.5 * white**2 - 0.5 * LOG_2PI).sum() - (8 * log_tau if centred else 0.0)
        log_y = -0.5 * ((y - effects) / sigma) ** 2 - 0.5 * LOG_2PI - np.log(sigma)
        log_mu = -0.5 * (mu / SCALE) ** 2 - math.log(SCALE) - 0.5 * LOG_2PI
        log_tau_prior = math.log(2 / (math.pi * SCALE)) - jnp.log1p((tau / SCALE) ** 2) + log_tau
        return log_mu + log_tau_prior + log_prior + log_y.sum()

    over_tau = line(lambda t: _marginal(t)[0], -25.0, 15.0)
    log_tau = over_tau.nodes
    facts = {
        "mean_mu": over_tau.mean(_marginal(log_tau)[1]),
        "mean_tau": over_tau.mean(np.exp(log_tau)),
    }
    name = "eight schools" if centred else "eight schools, non-centred"
    return Target(name, 10, log_density, over_tau.log_integral, 0.0, *BEST[centred], facts=facts)


def _marginal(log_tau: Float[np.ndarray, " M"]) -> tuple[np.ndarray, np.ndarray]:
    """log p(y, log tau) and E[mu | y, tau] at each tau: y_j ~ N(mu, sigma_j^2 + tau^2)."""
    tau = np.exp(log_tau)
    variances = ERRORS[None] ** 2 + tau[:, None] ** 2
    precision = (1 / variances).sum(1) + SCALE**-2
    mean = (EFFECTS[None] / variances).sum(1) / precision
    squared = (EFFECTS[None] ** 2 / variances).sum(1) - precision * mean**2
    log_dets = np.log(variances).sum(1) + 2 * math.log(SCALE) + np.log(precision)
    log_y = -0.5 * (squared + log_dets + len(EFFECTS) * LOG_2PI)
    log_prior = math.log(2 / (math.pi * SCALE)) - np.log1p((tau / SCALE) ** 2) + log_tau
    return log_y + log_prior, mean
