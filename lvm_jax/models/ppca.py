"""Probabilistic PCA: maximum likelihood in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.models.linear_gaussian import LinearGaussian
from lvm_jax.typing import ArrayLike


def ppca(x: ArrayLike, latent_dim: int) -> LinearGaussian:
    """The maximum-likelihood theta of `linear_gaussian(latent_dim, D, "isotropic")`.

    W = U (Lambda - s^2 I)^1/2 with the leading eigenvectors U and eigenvalues Lambda of the
    sample covariance (divided by N). s^2 is the mean of the discarded eigenvalues. W is unique up
    to a rotation; here its columns are orthogonal and the largest entry of each is positive.
    The computation is on the host in float64 and costs O(N D min(N, D)).

    Args:
        x: data, [N, D]. float64 is kept if x64 is on; otherwise float32.
        latent_dim: L, at least 1 and less than D.

    Raises:
        ValueError: for bad data, L >= D, or data that span only L dimensions, where s^2 = 0 and
            the likelihood is unbounded.

    Source: Tipping and Bishop (1999), equations 7-8, with R = I.
    """
    checks.host("models.ppca", "the log_evidence of models.linear_gaussian", x)
    data, dtype = read(x, latent_dim)
    mean = data.mean(0)
    loadings, noise = principal(data - mean, latent_dim)
    parameters = (np.zeros(latent_dim), loadings, mean, 0.5 * np.log(noise))
    return LinearGaussian(*(jnp.asarray(value, dtype) for value in parameters))


def read(x: ArrayLike, latent_dim: int) -> tuple[np.ndarray, np.dtype]:
    """The rows in float64 on the host, and the dtype of the result."""
    latent_dim = checks.integer(latent_dim, "latent_dim", 1)
    x = checks.points(x, "x", latent_dim + 2)
    if latent_dim >= x.shape[1]:
        raise ValueError(
            f"latent_dim: expected fewer than the {x.shape[1]} columns of x, got {latent_dim}"
        )
    return np.asarray(x, np.float64), jax.dtypes.canonicalize_dtype(x.dtype)


def principal(centred: np.ndarray, latent_dim: int) -> tuple[np.ndarray, float]:
    """W [D, L] and s^2 of centred rows."""
    num_points, dim = centred.shape
    wide = dim > num_points  # then the N x N matrix has the same eigenvalues
    gram = (centred @ centred.T if wide else centred.T @ centred) / num_points
    values, vectors = (array[..., ::-1] for array in np.linalg.eigh(gram))
    noise = float(values[latent_dim:].sum() / (dim - latent_dim))
    if not noise > np.finfo(np.float64).eps * gram.shape[0] * values[0]:
        raise ValueError(
            f"x: expected rows that span more than latent_dim = {latent_dim} dimensions, or the "
            "likelihood is unbounded; lower latent_dim or add distinct rows"
        )
    directions = vectors[:, :latent_dim]
    if wide:
        directions = centred.T @ directions
        directions = directions / np.linalg.norm(directions, axis=0)
    largest = directions[np.abs(directions).argmax(0), np.arange(latent_dim)]
    scale = np.sqrt(np.maximum(values[:latent_dim] - noise, 0.0))
    return directions * np.sign(largest) * scale, noise
