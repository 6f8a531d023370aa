"""The statistics of factor analysers: regressions on the factors, which merge."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from lvm_jax.em.pairs import move
from lvm_jax.typing import Array, Float, Scalar


class FactorMoments(NamedTuple):
    """The regression of the rows on z, whose posterior is that of the current components.

    It merges without cancellation: every term of the merged `scatter` is positive.
    """

    counts: Float[Array, " K"]
    means: Float[Array, "K D"]  # of x
    remainder: Float[Array, "K D"]
    latents: Float[Array, "K q"]  # means of E[z | x]
    second: Float[Array, "K q q"]  # sum_n w_n E[(z - mean) (z - mean)^T | x_n]
    loadings: Float[Array, "K D q"]  # of the regression
    scatter: Float[Array, "K D"]  # sum_n w_n E[residual^2 | x_n] of the regression


def regress(cross: Float[Array, "D q"], second: Float[Array, "q q"], count: Scalar) -> Array:
    """cross second^-1; 0 without rows."""
    eye = jnp.eye(len(second), dtype=second.dtype)
    factor = jnp.linalg.cholesky(second + jnp.where(count > 0, 0, 1) * eye)
    return cho_solve((factor, True), cross.T).T


def quadratic(rows: Float[Array, "D q"], matrix: Float[Array, "q q"]) -> Float[Array, " D"]:
    """The diagonal of rows matrix rows^T."""
    return ((rows @ matrix) * rows).sum(1)


def merge_one(a: FactorMoments, b: FactorMoments) -> FactorMoments:
    """The regression of the union of two blocks, one component."""
    count = a.counts + b.counts
    share = b.counts / jnp.where(count > 0, count, 1)
    both = a.counts * share
    high, low = b.means - a.means, b.remainder - a.remainder
    x, z = high + low, b.latents - a.latents
    second = a.second + b.second + both * jnp.outer(z, z)
    apart = b.loadings - a.loadings
    cross = apart @ b.second + both * jnp.outer(x - a.loadings @ z, z)
    change = regress(cross, second, count)
    loadings = a.loadings + change
    scatter = a.scatter + b.scatter + quadratic(change, a.second)
    scatter = scatter + quadratic(apart - change, b.second) + both * (x - loadings @ z) ** 2
    means, rest = move(a.means, a.remainder + share * low, share * high)
    latents = a.latents + share * z
    return FactorMoments(count, means, rest, latents, second, loadings, scatter)
