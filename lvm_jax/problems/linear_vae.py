"""Probabilistic PCA and the linear VAE in closed form, in float64 on the host.

Let lambda_u be the eigenvalues and U the eigenvectors of the sample covariance, and s2 the noise
variance. The likelihood is maximal at W = U (Lambda - s2 I)_+^1/2 R for any rotation R (Tipping and
Bishop 1999). The ELBO of a VAE with a linear decoder and q(z | x) = N(V x + a, Sigma) has the same
maximum; with a mean-field q only for R = I up to signs and order (Lucas et al. 2019).
"""

from typing import Any, NamedTuple

import numpy as np

from lvm_jax._core import checks
from lvm_jax.distributions.normals import LogCholesky
from lvm_jax.guides.amortized import Amortized
from lvm_jax.guides.families import FullRank, MeanField
from lvm_jax.models import LinearGaussian
from lvm_jax.problems.base import host
from lvm_jax.typing import Array, ArrayLike, Float, Int


class Spectrum(NamedTuple):
    """Mean, eigenvalues (largest first) and eigenvectors of the sample covariance (over N)."""

    mean: Float[np.ndarray, " D"]
    values: Float[np.ndarray, " D"]
    vectors: Float[np.ndarray, "D R"]  # of the R eigenvalues above 0; largest entry positive

    def above(self, noise_variance: float) -> int:
        """The number of eigenvalues above s2."""
        return int((self.values > noise_variance).sum())

    def moment_points(self) -> Float[np.ndarray, "M D"]:
        """M = 2 R points mean +- sqrt(R lambda_i) u_i, with the mean and covariance of the data.

        For a quadratic function of x the average over these points equals the average over all
        rows: log p, and the ELBO of a q with a linear mean and a constant covariance.
        """
        rank = self.vectors.shape[1]
        offsets = (self.vectors * np.sqrt(rank * self.values[:rank])).T
        return self.mean + np.concatenate([offsets, -offsets])

    def stationary(
        self, latent_dim: int, noise_variance: float, kept: int | None = None
    ) -> LinearGaussian:
        """theta of the stationary point of the likelihood at s2 with R = I.

        It uses the `kept` largest eigenvalues, if above s2; the columns of the other units are 0.
        kept = L, the default, is the maximum of the likelihood at this s2.
        """
        width = min(latent_dim if kept is None else kept, self.vectors.shape[1])
        loadings = np.zeros((len(self.mean), latent_dim))
        above = np.maximum(self.values[:width] - noise_variance, 0.0)
        loadings[:, :width] = self.vectors[:, :width] * np.sqrt(above)
        parts = (np.zeros(latent_dim), loadings, self.mean, 0.5 * np.log(noise_variance))
        return LinearGaussian(*map(host, parts))

    def order(self, theta: LinearGaussian) -> Int[np.ndarray, " L"]:
        """The index of the unit of z that matches each leading eigenvector.

        This is the assignment that maximises the sum of |u_i^T w_j|.
        """
        from scipy.optimize import linear_sum_assignment

        leading = self.vectors[:, : theta.loadings.shape[1]]
        return linear_sum_assignment(-np.abs(leading.T @ theta.loadings))[1]


def spectrum(x: ArrayLike) -> Spectrum:
    """The spectrum of rows [N, D]. Raises ValueError for rows that are not finite or not [N, D]."""
    rows = np.asarray(checks.points(x, "x", 1), np.float64)
    mean = rows.mean(0)
    squares, axes = np.linalg.eigh((rows - mean).T @ (rows - mean))
    values, axes = np.maximum(squares[::-1], 0.0) / len(rows), axes[:, ::-1]
    positive = values > 1e-12 * values[0]
    largest = axes[np.abs(axes).argmax(0), np.arange(len(values))]
    return Spectrum(mean, np.where(positive, values, 0.0), (axes * np.sign(largest))[:, positive])


def noise_variance(theta: LinearGaussian) -> float:
    """s2 of an isotropic model."""
    return float(np.exp(2 * host(theta.log_noise)))


def posterior_precision(theta: LinearGaussian) -> Float[Array | np.ndarray, "L L"]:
    """M = I + W^T W / s2, the precision of p(z | x); NumPy or JAX, as theta."""
    xp = theta.loadings.__array_namespace__()
    inner = theta.loadings.T @ theta.loadings / xp.exp(2 * theta.log_noise)
    return xp.eye(len(inner), dtype=inner.dtype) + inner


def mean_field_gap(theta: LinearGaussian) -> Any:
    """log p - ELBO of the optimal mean-field q, (sum_u log M_uu - log |M|) / 2, for every x.

    In nats; at least 0, and 0 if W^T W is diagonal. Differentiable for JAX arrays.
    """
    found, xp = posterior_precision(theta), theta.loadings.__array_namespace__()
    return 0.5 * (xp.log(xp.diagonal(found)).sum() - xp.linalg.slogdet(found)[1])


def best_guide(theta: LinearGaussian, family: str = "mean_field") -> Amortized:
    """phi of the optimal q of a family for `guides.linear(family, D, ("loc",))`, prior N(0, I).

    mean_field: N(M^-1 W^T (x - b) / s2, diag(1 / M_uu)). full_rank: the posterior.
    """
    family = checks.choice(family, "family", ("mean_field", "full_rank"))
    found = posterior_precision(theta)
    weight = np.linalg.solve(found, theta.loadings.T) / noise_variance(theta)
    loc = host(-weight @ theta.offset)
    if family == "mean_field":
        return Amortized(MeanField(loc, host(-0.5 * np.log(np.diagonal(found)))), weight)
    cholesky = host(np.linalg.cholesky(np.linalg.inv(found)))
    below = cholesky[np.tril_indices(len(found), -1)]
    return Amortized(FullRank(loc, LogCholesky(np.log(np.diagonal(cholesky)), below)), weight)


def active_variance(values: np.ndarray, noise_variance: float) -> np.ndarray:
    """A_u = Var_x(E[z_u | x]) = 1 - s2 / lambda_u at the optimum, or 0 if lambda_u <= s2.

    E[z_u | x] = (lambda_u - s2)^1/2 / lambda_u u_u^T (x - b), and u_u^T x has variance lambda_u.
    """
    return np.maximum(1 - noise_variance / np.maximum(values, np.finfo(float).tiny), 0.0)


def unit_kl(values: np.ndarray, noise_variance: float) -> np.ndarray:
    """Mean over the data of KL(q(z_u | x) || p(z_u)) at the optimum, log(lambda_u / s2) / 2.

    The mean KL is (d_u + A_u - 1 - log d_u) / 2, where q has the variance d_u = s2 / lambda_u and
    A_u = 1 - d_u. It is 0 if lambda_u <= s2.
    """
    return 0.5 * np.log(np.maximum(values / noise_variance, 1.0))


def rotation_gap(first: Any, second: Any, degrees: Any = 45.0) -> Any:
    """`mean_field_gap` after a rotation of two units of eigenvalues lambda_1 and lambda_2.

    With a, b the diagonal entries lambda / s2 of M and c, s the cosine and sine of the angle, the
    diagonal becomes a c^2 + b s^2 and a s^2 + b c^2; s2 cancels. In nats, elementwise.
    """
    cos, sin = np.cos(np.deg2rad(degrees)) ** 2, np.sin(np.deg2rad(degrees)) ** 2
    product = (first * cos + second * sin) * (first * sin + second * cos)
    return 0.5 * np.log(product / (first * second))


def elbo_hessian(value: float, noise: float) -> Float[np.ndarray, "2 2"]:
    """Hessian of the mean ELBO in (c, v) at 0, for an inactive unit W = c u, V = v u^T.

    u is the eigenvector of the eigenvalue `value`. For comparison, the second derivative of log p
    in c is (value - s2) / s2^2.
    """
    return np.array([[-1 / noise, value / noise], [value / noise, -value]])
