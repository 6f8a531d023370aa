"""Common eigenvectors D of K covariances Sigma_k = D V_k D^T, by plane rotations.

The M-step of the covariance models EVE and VVE minimises over an orthogonal D and diagonal V_k

    F(D, V) = sum_k share_k (log |V_k| + tr(V_k^-1 T_k)),   T_k = D^T S_k D

(Celeux and Govaert 1995, section 3; Flury and Gautschi 1986). A rotation of the columns p and q of
D by an angle a changes F by a multiple of cos 2a and one of sin 2a, so that the best angle has a
closed form, and rotations of disjoint pairs do not affect each other. V is estimated again between
rotations: no step raises F. Browne and McNicholas (2014) descend on the same F by majorisation.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.typing import Array, Float, Scalar

MAX_SWEEPS = 30  # over all pairs
Rule = Callable[[Float[Array, "K D"]], Float[Array, "K D"]]  # diagonals of T_k -> V_k


def common(
    spread: Float[Array, "K D D"],
    share: Float[Array, " K"],
    before: Float[Array, "K D D"],
    rule: Rule,
) -> Float[Array, "K D D"]:
    """The covariances D V_k D^T with the lower F of two starts.

    They are the common eigenvectors of the covariances `before`, from which no step raises F, and
    those of the mean of S_k, because the first may be a saddle point.
    """
    both = jnp.stack([pooled(before, share), jnp.tensordot(share, spread, 1)])
    bases = jnp.linalg.eigh(both)[1]
    bases, values = jax.vmap(lambda basis: descend(spread, share, basis, rule))(bases)
    basis = bases[jnp.argmin(values)]
    variances = rule(jax.vmap(lambda s: jnp.diagonal(basis.T @ s @ basis))(spread))
    return jax.vmap(lambda v: (basis * v[None]) @ basis.T)(variances)


def pooled(matrices: Float[Array, "K D D"], share: Float[Array, " K"]) -> Float[Array, "D D"]:
    """A weighted sum of matrices with common eigenvectors, which it has too.

    The factors are irrational: a sum with equal ones may have equal eigenvalues, for instance of
    exchanged axes.
    """
    number = jnp.arange(1, len(share) + 1, dtype=matrices.dtype)
    factors = jnp.where(share > 0, 0.5 + (number * math.sqrt(1.25)) % 1, 0)
    return jnp.tensordot(factors / jnp.trace(matrices, axis1=1, axis2=2), matrices, 1)


def descend(
    spread: Float[Array, "K D D"], share: Float[Array, " K"], basis: Float[Array, "D D"], rule: Rule
) -> tuple[Float[Array, "D D"], Scalar]:
    """Rotate the basis until a sweep lowers F by less than the tolerance: basis and F."""
    partners = jnp.asarray(rounds(basis.shape[0]))
    turned = jax.vmap(lambda s: basis.T @ s @ basis)(spread)
    tolerance = jnp.finfo(basis.dtype).eps ** 0.75

    def sweep(state: Any) -> Any:
        turned, basis, value, _, number = state

        def body(i: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return rotate(*pair, share, partners[i], rule)

        turned, basis = jax.lax.fori_loop(0, len(partners), body, (turned, basis))
        return turned, basis, objective(turned, share, rule), value, number + 1

    def unfinished(state: Any) -> Array:
        return (state[3] - state[2] > tolerance) & (state[4] < MAX_SWEEPS)

    value = objective(turned, share, rule)
    start = turned, basis, value, jnp.full_like(value, jnp.inf), 0
    _, basis, value, *_ = jax.lax.while_loop(unfinished, sweep, start)
    return basis, value


def objective(turned: Float[Array, "K D D"], share: Float[Array, " K"], rule: Rule) -> Scalar:
    """F at the variances of the rule."""
    spread = jnp.diagonal(turned, axis1=1, axis2=2)
    variances = rule(spread)
    return share @ (jnp.log(variances) + spread / variances).sum(1)


def rotate(
    turned: Float[Array, "K D D"],
    basis: Float[Array, "D D"],
    share: Float[Array, " K"],
    partner: Array,
    rule: Rule,
) -> tuple[Float[Array, "K D D"], Float[Array, "D D"]]:
    """Rotate each axis and its partner by the best angle at the variances of the rule."""
    own = jnp.diagonal(turned, axis1=1, axis2=2)
    precision = share[:, None] / rule(own)
    axis = jnp.arange(len(partner))
    other, precise = own[:, partner], precision[:, partner]
    kept = (precision * own + precise * other).sum(0)
    swapped = (precision * other + precise * own).sum(0)
    bend = ((precision - precise) * turned[:, axis, partner]).sum(0)
    angle = jnp.where(partner == axis, 0, 0.5 * jnp.arctan2(-bend, (swapped - kept) / 2))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    half = cos[None, :, None] * turned + sin[None, :, None] * turned[:, partner]
    turned = half * cos[None, None] + half[:, :, partner] * sin[None, None]
    return turned, basis * cos[None] + basis[:, partner] * sin[None]


@lru_cache
def rounds(dim: int) -> np.ndarray:
    """Rounds of disjoint pairs that meet every pair once: the partner of each axis, [rounds, D].

    The circle method of a tournament; with an odd number one axis a round has itself.
    """
    size = dim + dim % 2
    table = np.tile(np.arange(dim, dtype=np.int32), (size - 1, 1))
    for number, row in enumerate(table):
        seats = np.concatenate([[0], 1 + np.roll(np.arange(size - 1), number)])
        for a, b in zip(seats[: size // 2], seats[::-1][: size // 2], strict=True):
            if max(a, b) < dim:
                row[a], row[b] = b, a
    return table
