"""Exact second moments of importance weights: E_q[w^2] / p(x)^2 = E_q[(p(z | x) / q(z))^2].

E_q[w^2] / p(x)^2 - 1 is the chi-square divergence of p(z | x) from q; divided by S it is the
relative variance of the mean of S weights w = p(x, z) / q(z).
"""

import math

import numpy as np
from scipy.special import logsumexp

from lvm_jax.distributions import FullRankNormal, Table
from lvm_jax.typing import Float


def of_normals(posterior: FullRankNormal, q: FullRankNormal) -> float:
    """log of the integral of p(z | x)^2 / q(z), in nats, in float64; inf if it diverges.

    With covariances V of the posterior and C of q, the integrand is proportional to a normal with
    precision P = 2 V^-1 - C^-1. The integral is its maximum times (2 pi)^(D/2) |P|^(-1/2), and
    diverges unless P is positive definite.
    """
    inverse, other = (np.linalg.inv(np.asarray(n.cholesky, np.float64)) for n in (posterior, q))
    precision, other = 2 * inverse.T @ inverse, other.T @ other
    curvature = precision - other
    if np.linalg.eigvalsh(curvature).min() <= 0:
        return math.inf
    top = np.linalg.solve(curvature, precision @ posterior.mean - other @ q.mean)
    height = 2 * _log_normal(posterior, top) - _log_normal(q, top)
    log_det = np.linalg.slogdet(curvature)[1]
    return float(height + 0.5 * len(top) * math.log(2 * math.pi) - 0.5 * log_det)


def of_tables(posterior: Table, logits: Float[np.ndarray, "K L"]) -> float:
    """log of the sum of p(z | x)^2 / q(z) over z in {0, ..., L - 1}^K, in nats.

    q has independent factors with these logits; `posterior` has M values of z, [M, K].
    """
    log_q = logits - logsumexp(logits, axis=1, keepdims=True)
    rows = log_q[np.arange(len(logits))[None], posterior.values].sum(1)
    return float(logsumexp(2 * np.asarray(posterior.log_probs) - rows))


def _log_normal(q: FullRankNormal, z: Float[np.ndarray, " D"]) -> float:
    """log N(z; mean, L L^T)."""
    white = np.linalg.solve(q.cholesky, z - q.mean)
    log_det = np.log(np.diagonal(q.cholesky)).sum()
    return float(-0.5 * (white @ white + len(z) * math.log(2 * math.pi)) - log_det)
