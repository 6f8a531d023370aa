"""Sums of scores, their outer products and second derivatives of log p over rows, in chunks.

The derivatives are those in local coordinates u of the mixture, with u = 0 at the mixture: the
family's `chart`, and the log-weights relative to the largest one. There the information of
complete data is about N times the identity, which reduces rounding errors. All is in float64.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax._core import checks
from lvm_jax.compiling import bucket, pad_rows
from lvm_jax.em import chunks, incomplete, sources
from lvm_jax.em.compiling import over_data
from lvm_jax.em.estimates import Estimates, numbers
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.typing import Array, ArrayLike, Float

CHUNK_FLOATS = 2**22  # of the scores and of the derivatives by components of a chunk


class Information(NamedTuple):
    """Sums over rows in P coordinates, with s_n = w_n d log p(x_n) / du."""

    outer: Any  # [P, P], sum_n w_n s_n s_n^T
    total: Any  # [P], sum_n w_n s_n
    size: Any  # [P], sum_n w_n |s_n|
    hessian: Any  # [P, P], -sum_n w_n d^2 log p(x_n) / du^2; zeros where not computed
    rows: Any  # number of rows of positive weight


def place(
    family: ExponentialFamily, at: MixtureParameters, u: Float[Array, " A"]
) -> MixtureParameters:
    """The mixture at coordinates u, [K - 1 + numbers of the components]."""
    weights = jnp.exp(at.log_weights)
    size = jnp.sqrt(weights)
    others = jnp.argsort(-weights)[1:]
    head, tail = u[: len(others)], u[len(others) :]
    log_weights = jax.nn.log_softmax(at.log_weights.at[others].add(head / size[others]))
    start, move = family.chart(at.components, size)
    free, unravel = ravel_pytree(start)
    return MixtureParameters(log_weights, move(unravel(free + tail)))


@over_data(0)
def slopes(
    family: ExponentialFamily, at: MixtureParameters, origin: Float[Array, " D"]
) -> tuple[Estimates, Any]:
    """d estimates / du, leaves [..., A], and d parameters / du."""
    at = jax.tree.map(jnp.asarray, at)
    free, _ = family.chart(at.components, jnp.exp(at.log_weights / 2))
    number = sum(leaf.size for leaf in jax.tree.leaves(free)) + len(at.log_weights) - 1

    def moved(u: Array) -> tuple[Estimates, Any]:
        parameters = place(family, at, u)
        return numbers(family, parameters, origin), parameters

    return jax.jacfwd(moved)(jnp.zeros(number))


@over_data(0, 1)
def block(
    family: ExponentialFamily,
    curved: bool,
    at: MixtureParameters,
    kept: Any,
    length: Any,
    x: Float[Array, "n D"],
    weight: Float[Array, " n"],
) -> Information:
    """The sums of one chunk in the coordinates `kept` [P] of A; `length` is zeros [A]."""
    at = jax.tree.map(jnp.asarray, at)
    zero = jnp.zeros(kept.shape[0])

    def log_prob(u: Array, x: Array) -> Array:
        moved = place(family, at, jnp.zeros(length.shape[0]).at[kept].add(u))
        joint = family.exact_log_prob(moved.components, x) + moved.log_weights[None]
        return jax.nn.logsumexp(joint, axis=1)

    scores = jax.vmap(jax.grad(lambda u, row: log_prob(u, row[None])[0]), (None, 0))(zero, x)
    weighted = scores * weight[:, None]
    hessian = jnp.zeros((len(zero), len(zero)))
    if curved:
        slope = jax.grad(lambda u: -(weight @ log_prob(u, x)))
        hessian = jax.lax.map(lambda v: jax.jvp(slope, (zero,), (v,))[1], jnp.eye(len(zero)))
    size = jnp.abs(weighted).sum(0)
    return Information(weighted.T @ scores, weighted.sum(0), size, hessian, (weight > 0).sum())


def gather(
    mixture: Mixture,
    at: MixtureParameters,
    kept: np.ndarray,
    length: int,
    x: Any,
    sample_weight: ArrayLike | None,
    curved: bool,
) -> Information:
    """`Information` of all rows of x, an array or data that stream."""
    dim, k = mixture.origin.shape[0], len(at.log_weights)
    rows = max(64, CHUNK_FLOATS // (len(kept) + 4 * k * dim * dim))
    origin, sums = np.asarray(mixture.origin, np.float64), None
    for one, weight in blocks(mixture, x, sample_weight, rows - rows % 64):
        family = mixture.family
        if np.isnan(one).any():
            family = family.incomplete(1) or family
        part = block(family, curved, at, kept, np.zeros(length), one - origin[None], weight)
        part = jax.tree.map(np.asarray, part)
        sums = part if sums is None else jax.tree.map(np.add, sums, part)
    if sums is None:
        raise ValueError("x: expected rows, got none")
    return sums


def blocks(
    mixture: Mixture, x: Any, sample_weight: ArrayLike | None, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights in float64, `rows` at a time; the last are padded with weight 0."""
    source = sources.as_source(x)
    if source is None:
        x, _ = incomplete.read_rows(x, mixture.family)
        check_width(mixture, x.shape[1])
        given = np.ones(len(x)) if sample_weight is None else checks.weights(sample_weight, len(x))
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            yield padded(x[part], np.asarray(given[part], np.float64), rows)
        return
    check_width(mixture, source.dim)
    weights, number = chunks.place_of_weights(sample_weight), 0
    for chunk in chunks.read(source, rows, weights):
        chunks.check_rows(source, mixture.family, chunk)
        number += chunk.size
        live = np.ones(chunk.size) if chunk.weight is None else chunk.weight[: chunk.size]
        yield padded(chunk.x[: chunk.size], live, rows)
    chunks.check_weight_length(weights, number)


def padded(x: np.ndarray, weight: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in float64, padded to a bucket of at most `rows`."""
    size = min(rows, bucket(len(x)))
    return pad_rows(np.asarray(x, np.float64), size), np.pad(weight, (0, size - len(weight)))


def check_width(mixture: Mixture, dim: int) -> None:
    """Refuse rows of another width than the mixture's."""
    if dim != mixture.origin.shape[0]:
        raise ValueError(
            f"x: expected {mixture.origin.shape[0]} columns as in the mixture, got {dim}"
        )
