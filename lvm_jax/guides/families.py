"""Families of q with unconstrained parameters; each starts at N(0, I) or at the uniform.

All raise ValueError or TypeError for sizes that are not integers >= 1 (>= 2 for `num_values` and
for `dim` of `low_rank`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.distributions import Categorical, FullRankNormal, LowRankNormal, normal
from lvm_jax.distributions.normals import LogCholesky
from lvm_jax.guides.base import Family
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Key


class Location(NamedTuple):
    """eta of N(loc, fixed)."""

    loc: Float[Array, " D"]


class MeanField(NamedTuple):
    """eta of N(loc, diag(exp(log_scale))^2)."""

    loc: Float[Array, " D"]
    log_scale: Float[Array, " D"]


class FullRank(NamedTuple):
    """eta of N(loc, L L^T)."""

    loc: Float[Array, " D"]
    log_cholesky: LogCholesky


class LowRank(NamedTuple):
    """eta of N(loc, F F^T + diag(exp(log_scale))^2)."""

    loc: Float[Array, " D"]
    factor: Float[Array, "D R"]
    log_scale: Float[Array, " D"]


class Logits(NamedTuple):
    """eta of a discrete distribution."""

    logits: Float[Array, "..."]


def location(dim: int, scale: float | ArrayLike | Sequence[float]) -> Family:
    """N(loc, diag(scale^2)) in `dim` dimensions with a fixed standard deviation, one or [dim].

    Raises ValueError for a scale of another shape, or that is not finite and positive.
    """
    dim = checks.integer(dim, "dim", 1)
    given = np.asarray(checks.float_array(scale, "scale"))
    if given.shape not in ((), (dim,)) or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"scale: expected one positive number or {dim} of them, got {scale}")

    def build(eta: Location) -> Distribution:
        return normal(eta.loc, jnp.broadcast_to(jnp.asarray(given, eta.loc.dtype), (dim,)))

    return Family(lambda key: Location(jnp.zeros(dim)), build)


def mean_field(dim: int) -> Family:
    """N(loc, diag(scale^2)) in `dim` dimensions."""
    dim = checks.integer(dim, "dim", 1)
    return Family(
        init=lambda key: MeanField(jnp.zeros(dim), jnp.zeros(dim)),
        build=lambda eta: normal(eta.loc, jnp.exp(eta.log_scale)),
    )


def full_rank(dim: int) -> Family:
    """N(loc, L L^T) in `dim` dimensions, L lower triangular with a positive diagonal."""
    dim = checks.integer(dim, "dim", 1)
    zeros = jnp.zeros
    return Family(
        init=lambda key: FullRank(zeros(dim), LogCholesky(zeros(dim), zeros(dim * (dim - 1) // 2))),
        build=lambda eta: FullRankNormal(eta.loc, eta.log_cholesky.factor()),
    )


def low_rank(dim: int, rank: int) -> Family:
    """N(loc, F F^T + diag(scale^2)) in `dim` dimensions, where F has `rank` < `dim` columns.

    F starts with small random entries, because its gradient vanishes at F = 0. Raises ValueError
    for rank >= `dim`.
    """
    dim = checks.integer(dim, "dim", 2)
    rank = checks.integer(rank, "rank", 1)
    if rank >= dim:
        raise ValueError(f"rank: expected fewer than dim = {dim}, got {rank}; use full_rank")

    def init(key: Key[Array, ""]) -> LowRank:
        checks.key(key)
        factor = 0.1 * jax.random.normal(key, (dim, rank))
        return LowRank(jnp.zeros(dim), factor, jnp.zeros(dim))

    return Family(
        init,
        build=lambda eta: LowRankNormal(eta.loc, eta.factor, jnp.exp(eta.log_scale)),
    )


def label(num_values: int) -> Family:
    """One integer in {0, ..., L - 1}, such as the z of a mixture."""
    num_values = checks.integer(num_values, "num_values", 2)
    return Family(
        init=lambda key: Logits(jnp.zeros(num_values)),
        build=lambda eta: Categorical(logits=eta.logits),
    )


def categorical(num_variables: int, num_values: int) -> Family:
    """K independent integers in {0, ..., L - 1}."""
    shape = _table_shape(num_variables, num_values)
    return Family(
        init=lambda key: Logits(jnp.zeros(shape)),
        build=lambda eta: distributions.categorical(eta.logits),
    )


def one_hot(num_variables: int, num_values: int) -> Family:
    """K independent one-hot rows of L floats."""
    shape = _table_shape(num_variables, num_values)
    return Family(
        init=lambda key: Logits(jnp.zeros(shape)),
        build=lambda eta: distributions.one_hot(eta.logits),
    )


def bernoulli(num_variables: int) -> Family:
    """K independent bits, 0.0 or 1.0."""
    num_variables = checks.integer(num_variables, "num_variables", 1)
    return Family(
        init=lambda key: Logits(jnp.zeros(num_variables)),
        build=lambda eta: distributions.Bernoulli(eta.logits),
    )


def _table_shape(num_variables: int, num_values: int) -> tuple[int, int]:
    num_variables = checks.integer(num_variables, "num_variables", 1)
    return num_variables, checks.integer(num_values, "num_values", 2)
