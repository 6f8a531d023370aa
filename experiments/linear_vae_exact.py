"""What the linear VAE must find, in closed form and in float64: probabilistic PCA.

With the eigenvalues lambda_u and eigenvectors U of the sample covariance, and s2 the noise variance,
the maximum of the likelihood is W = U (Lambda - s2 I)_+^1/2 R for any rotation R (Tipping and Bishop
1999). The best mean-field q of z given x has precisions M_uu, M = I + W^T W / s2, and lacks

    log p - ELBO = (sum_u log M_uu - log |M|) / 2

nats for every x alike, which is 0 only where W^T W is diagonal: R = I up to signs and order.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import decomposition, distributions, guides, models
from lvm_jax.guides import Guide
from lvm_jax.guides.amortized import Amortized
from lvm_jax.guides.families import FullRank, MeanField
from lvm_jax.models import LinearGaussian, Model, log_joint
from lvm_jax.normals import LogCholesky
from lvm_jax.training import kl_per_dimension
from lvm_jax.typing import Array, Float, Params, Scalar

FAMILIES = {"mean_field": guides.mean_field, "full_rank": guides.full_rank}
BLOCK = 1024  # rows that are measured together


class Spectrum(NamedTuple):
    """Eigenvalues, largest first, and eigenvectors of the sample covariance (over N), float64."""

    values: Float[np.ndarray, " D"]
    vectors: Float[np.ndarray, "D R"]  # of the R that are not 0, the largest entry of each positive

    def above(self, noise_variance: float) -> int:
        """How many eigenvalues are above s2: the units that the likelihood pays for."""
        return int((self.values > noise_variance).sum())


def spectrum(x: Float[np.ndarray, "N D"]) -> Spectrum:
    """The spectrum of centred rows."""
    rows = np.asarray(x, np.float64)
    num_points, dim = rows.shape
    rows = rows - rows.mean(0)
    _, singular, axes = (
        np.linalg.svd(rows, full_matrices=False) if dim > num_points else _gram(rows)
    )
    found = singular**2 / num_points
    rank = int((found > 1e-12 * found[0]).sum())
    values = np.zeros(dim)
    values[:rank] = found[:rank]
    vectors = axes[:rank].T
    largest = vectors[np.abs(vectors).argmax(0), np.arange(rank)]
    return Spectrum(values, vectors * np.sign(largest))


def _gram(rows: np.ndarray) -> tuple[None, np.ndarray, np.ndarray]:
    # Of many rows the D x D matrix is far smaller, as a decomposition of the rows would give it.
    values, vectors = np.linalg.eigh(rows.T @ rows)
    return None, np.sqrt(np.maximum(values[::-1], 0.0)), vectors[:, ::-1].T


def moment_points(spectrum: Spectrum, mean: Float[np.ndarray, " D"]) -> Float[np.ndarray, "2R D"]:
    """2 R points mean +- sqrt(R lambda_i) u_i, with the mean and covariance of the data.

    The average over them of anything quadratic in x is its average over all rows: log p, the ELBO
    of a q whose mean is linear in x and whose covariance is not a function of it, and A_u.
    """
    rank = spectrum.vectors.shape[1]
    offsets = (spectrum.vectors * np.sqrt(rank * spectrum.values[:rank])).T
    return mean + np.concatenate([offsets, -offsets])


def optimum(
    spectrum: Spectrum, mean: np.ndarray, latent_dim: int, noise_variance: float
) -> LinearGaussian:
    """The maximum-likelihood theta at a given s2, with R = I: units below s2 have a column of 0."""
    return stationary(spectrum, mean, latent_dim, noise_variance, latent_dim)


def stationary(
    spectrum: Spectrum, mean: np.ndarray, latent_dim: int, noise_variance: float, kept: int
) -> LinearGaussian:
    """The stationary point that uses the `kept` largest eigenvalues, of those above s2."""
    width = min(latent_dim, kept, spectrum.vectors.shape[1])
    loadings = np.zeros((len(mean), latent_dim))
    above = np.maximum(spectrum.values[:width] - noise_variance, 0.0)
    loadings[:, :width] = spectrum.vectors[:, :width] * np.sqrt(above)
    return LinearGaussian(
        np.zeros(latent_dim), loadings, mean, np.float64(0.5 * np.log(noise_variance))
    )


def precision(theta: LinearGaussian) -> Float[np.ndarray, "L L"]:
    """M = I + W^T W / s2, the inverse of the posterior's covariance."""
    loadings = np.asarray(theta.loadings, np.float64)
    return np.eye(loadings.shape[1]) + loadings.T @ loadings / float(np.exp(2 * theta.log_noise))


def mean_field_gap(theta: LinearGaussian) -> float:
    """log p - ELBO of the best mean-field q, in nats; by Hadamard's inequality it is not negative."""
    found = precision(theta)
    return float(0.5 * (np.log(np.diagonal(found)).sum() - np.linalg.slogdet(found)[1]))


def best_guide(theta: LinearGaussian, family: str = "mean_field") -> Amortized:
    """phi of the best q of a family, N(M^-1 W^T (x - b) / s2, diag(1 / M_uu)) or the posterior.

    Of "full_rank" it is the posterior, whose covariance is M^-1.
    """
    found = precision(theta)
    noise = float(np.exp(2 * theta.log_noise))
    weight = np.linalg.solve(found, np.asarray(theta.loadings, np.float64).T) / noise
    loc = -weight @ np.asarray(theta.offset, np.float64)
    if family == "full_rank":
        cholesky = np.linalg.cholesky(np.linalg.inv(found))
        below = cholesky[np.tril_indices(len(found), -1)]
        free = LogCholesky(np.log(np.diagonal(cholesky)), below)
        return Amortized(FullRank(loc, free), weight)
    return Amortized(MeanField(loc, -0.5 * np.log(np.diagonal(found))), weight)


@cache
def model_and_guide(dim: int, latent_dim: int, family: str = "mean_field") -> tuple[Model, Guide]:
    """The linear VAE: PPCA, and q(z | x) = N(V x + a, Sigma), of which `best_guide` is a phi."""
    guide = guides.linear(FAMILIES[family](latent_dim), dim, ("loc",))
    return models.linear_gaussian(latent_dim, dim), guide


def active_variance(values: np.ndarray, noise_variance: float) -> np.ndarray:
    """A_u = Var_x(E[z_u | x]) = 1 - s2 / lambda_u at the optimum, and 0 where lambda_u <= s2.

    E[z_u | x] = (lambda_u - s2)^1/2 / lambda_u u_u^T (x - b), and u_u^T x has variance lambda_u.
    """
    return np.maximum(1 - noise_variance / np.maximum(values, np.finfo(float).tiny), 0.0)


def unit_kl(values: np.ndarray, noise_variance: float) -> np.ndarray:
    """KL(q(z_u | x) || p(z_u)) = log(lambda_u / s2) / 2 at the optimum, averaged over the data.

    The variance of q is s2 / lambda_u and A_u = 1 - s2 / lambda_u, so that in the divergence
    (d_u + A_u - 1 - log d_u) / 2 all but the logarithm cancels; 0 where lambda_u <= s2.
    """
    return 0.5 * np.log(np.maximum(values / noise_variance, 1.0))


class Measured(NamedTuple):
    """Averages over the data, in nats per point of the scaled data."""

    log_evidence: Scalar  # log p(x)
    elbo: Scalar  # energy + entropy: neither log p nor the posterior enters it
    kl_posterior: Scalar  # KL(q || p(z | x)) by its closed form: enters nothing else
    kl_units: Float[Array, " L"]  # KL(q(z_u | x) || p(z_u)), of the marginals of q
    means: Float[Array, "L L"]  # Cov_x(E_q[z]); its diagonal is A_u


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
    covariance = centred.T @ centred / rows.shape[0]
    return Measured(*(part.mean(0) for part in parts), covariance)


@partial(jax.jit, static_argnums=(0, 1))
def _measure(model: Model, guide: Guide, theta: Params, phi: Params, rows: Array) -> Measured:
    return measure(model, guide, theta, phi, rows)


def measure_double(
    model: Model, guide: Guide, theta: Params, phi: Params, rows: np.ndarray
) -> Measured:
    """`measure` in float64, on the host."""
    with jax.enable_x64(True):
        theta, phi, rows = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), (theta, phi, rows))
        return jax.tree.map(np.asarray, _measure(model, guide, theta, phi, rows))


def measure_optimum(
    theta: LinearGaussian, rows: np.ndarray, family: str = "mean_field"
) -> Measured:
    """`measure` in float64 with the best q of a family."""
    model, guide = model_and_guide(*np.shape(theta.loadings), family)
    return measure_double(model, guide, theta, best_guide(theta, family), rows)
