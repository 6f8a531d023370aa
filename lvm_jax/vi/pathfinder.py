"""The method "pathfinder": normals along paths of L-BFGS, by one path or by several.

At each point of a path the pairs of L-BFGS and a diagonal give a normal. Its mean is the end of a
step of Newton, and its covariance the estimate of the inverse of -Hessian:

    Sigma = diag(a) + B G B^T,    B = [diag(a) Y, S],    m = z + Sigma grad log p(z)

The normal of the highest ELBO along the path is the path's answer. The answer of several paths is
the mixture of their normals, with the weights that minimise KL(p || mixture) on importance-weighted
draws. An importance weight is p over the density of the mixture; with the density of a path's own
normal instead, two paths to one mode count its mass twice.

Source: Zhang, Carpenter, Gelman and Vehtari (2022), algorithms 1 to 4; Gilbert and Lemarechal
(1989) for the diagonal; Owen and Zhou (2000) for the mixture's density.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax._core.lbfgs import MAX_EVALUATIONS, Climb, Pairs, climb, usable
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import FullRankNormal
from lvm_jax.distributions.factored import FactoredNormal
from lvm_jax.distributions.mixtures import NormalMixture
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.mixing import draw_evenly, mixture_weights
from lvm_jax.vi.starts import draw_starts

NUM_DRAWS = 10  # of the ELBO of a normal
MAX_NUMBERS = 2**26  # in the points of all paths
DRAWS, PATH_SHARE = 10_000, 0.75  # for the weights of several paths; share of the budget before


class Best(NamedTuple):
    """The normal of the highest ELBO so far, while a path is followed."""

    diagonal: Float[Array, " D"]  # a
    pairs: Pairs
    normal: FactoredNormal
    elbo: Scalar
    evaluations: Int[Array, ""]


def pathfinder(*, num_paths: int = 20, start_scale: float = 2.0) -> Method:
    """The normal of the highest ELBO along a path of L-BFGS, or a mixture of several.

    The families full_rank and low_rank take one path, from the start. low_rank keeps the covariance
    in factors of `2 MEMORY` columns, for a D of 10,000 and more. The family mixture takes
    `num_paths` paths. Their starts are uniform on (start - start_scale, start + start_scale), or
    drawn from a `start` that is a function of a key.

    Raises ValueError for num_paths < 1 or start_scale <= 0.
    """
    num_paths = checks.integer(num_paths, "num_paths", 1)
    if not checks.number(start_scale, "start_scale") > 0:
        raise ValueError(f"start_scale: expected a number > 0, got {start_scale}")

    def run(key: Key[Array, ""], task: Task) -> Found:
        key_starts, key_paths, key_mixture = split(key, 3)
        if task.family == "mixture":
            starts = draw_starts(key_starts, task, num_paths, start_scale)
        else:
            starts = jnp.zeros((1, task.density.dim), task.density.dtype)
        limit = max(int(PATH_SHARE * task.max_evaluations) // (len(starts) * (1 + NUM_DRAWS)), 2)
        paths, best = follow(key_paths, starts, task, limit)
        spent = int(paths.evaluations.sum() + best.evaluations.sum())
        if task.family == "mixture":
            flat, more = combine(key_mixture, task, best)
            spent += more
        else:
            normal = jax.tree.map(lambda leaf: leaf[0], best.normal)
            flat = normal if task.family == "low_rank" else _dense(normal)
        row = (spent, float(best.elbo.max()), np.nan, np.nan, np.nan)
        reason = _reason(paths, limit)
        return Found(flat, reason, spent, Trace.of_rows([row]), "pathfinder")

    return Method(("full_rank", "low_rank", "mixture"), run)


def follow(
    key: Key[Array, ""], starts: Float[Array, "P D"], task: Task, limit: int
) -> tuple[Climb, Best]:
    """P paths of at most `limit` evaluations, and the best normal along each."""
    num_points = int(np.clip(MAX_NUMBERS // starts.size, 2, MAX_EVALUATIONS))
    paths = climb(starts, task.density, limit, min(limit, num_points))
    return paths, _best_along(key, paths, task.density)


def combine(key: Key[Array, ""], task: Task, best: Best) -> tuple[Distribution, int]:
    """The mixture of the paths' normals, and the evaluations for its weights."""
    proper = np.flatnonzero(np.isfinite(np.asarray(best.elbo)))
    if not proper.size:
        proper = np.arange(1)
    normals = jax.tree.map(lambda leaf: leaf[proper], best.normal)
    factors = _precision_factors(normals)
    widths = jnp.ones(1, normals.mean.dtype)
    equal = jnp.full((len(proper), 1), -np.log(len(proper)), normals.mean.dtype)
    mixture = NormalMixture(equal, normals.mean, factors, widths)
    each = max(min(DRAWS, task.max_evaluations // 4) // len(proper), 2)
    draws = draw_evenly(key, mixture, task.density, (each,))
    return mixture._replace(log_weights=mixture_weights(draws)), draws.log_p.size


@bounded_jit(lean=True)
def _best_along(key: Key[Array, ""], paths: Climb, density: Any) -> Best:
    # In sequence: paths differ in length, and batched factorisations that run at the same time can
    # deadlock in jaxlib.
    keys = jax.random.split(key, len(paths.point))
    rows = keys, paths.points, paths.gradients, paths.length
    return jax.lax.map(lambda row: _best(density, *row), rows)


def _best(
    density: Any,
    key: Key[Array, ""],
    points: Float[Array, "T D"],
    gradients: Float[Array, "T D"],
    length: Int[Array, ""],
) -> Best:
    """The best normal along one path: of unit variance at its start, or at a later point."""
    start = points[0]
    unit = jnp.ones_like(start)
    pairs = Pairs.empty(start)
    normal = normal_of(start, jnp.zeros_like(start), unit, pairs)
    first = Best(unit, pairs, normal, elbo_of(key, normal, density), jnp.int32(NUM_DRAWS))

    def body(row: Int[Array, ""], best: Best) -> Best:
        move, turn = points[row] - points[row - 1], gradients[row - 1] - gradients[row]
        diagonal = update_diagonal(best.diagonal, move, turn)
        pairs = best.pairs.add(move, turn)
        normal = normal_of(points[row], gradients[row], diagonal, pairs)
        elbo = elbo_of(jax.random.fold_in(key, row), normal, density)
        better = elbo > best.elbo
        normal, elbo = jax.tree.map(
            lambda a, b: jnp.where(better, a, b), (normal, elbo), (best.normal, best.elbo)
        )
        return Best(diagonal, pairs, normal, elbo, best.evaluations + NUM_DRAWS)

    return jax.lax.fori_loop(1, length, body, first)


@precision.full
def update_diagonal(
    diagonal: Float[Array, " D"], move: Float[Array, " D"], turn: Float[Array, " D"]
) -> Float[Array, " D"]:
    """The diagonal of the inverse of -Hessian after one more pair (Zhang et al., algorithm 3)."""
    a, b, c = turn @ (diagonal * turn), turn @ move, move @ (move / diagonal)
    inverse = a / (b * diagonal) + turn**2 / b - a * move**2 / (b * c * diagonal**2)
    proper = usable(move, turn) & jnp.isfinite(inverse).all() & (inverse > 0).all()
    return jnp.where(proper, 1 / jnp.where(proper, inverse, 1), diagonal)


@precision.full
def normal_of(
    point: Float[Array, " D"],
    gradient: Float[Array, " D"],
    diagonal: Float[Array, " D"],
    pairs: Pairs,
) -> FactoredNormal:
    """The normal at one point (Zhang et al., algorithm 4); NaN if its covariance is not definite.

    With s y = 1 for each pair the matrix E of the algorithm is the identity. R has 1 on the
    diagonal for a pair that is not in use.
    """
    scale = jnp.sqrt(diagonal)
    moves, turns = pairs
    upper = jnp.triu(moves @ turns.T, 1) + jnp.eye(len(moves), dtype=point.dtype)  # R
    inverse = solve_triangular(upper, jnp.eye(len(moves), dtype=point.dtype), lower=False)
    inner = jnp.diag((jnp.diagonal(moves @ turns.T) != 0).astype(point.dtype))
    inner = inner + (turns * diagonal[None]) @ turns.T
    zeros = jnp.zeros_like(inverse)
    middle = jnp.block([[zeros, -inverse], [-inverse.T, inverse.T @ inner @ inverse]])  # G
    columns = jnp.concatenate([scale[None] * turns, moves / scale[None]]).T  # diag(a)^-1/2 B
    basis, triangle = jnp.linalg.qr(columns)
    capacity = triangle @ middle @ triangle.T
    capacity = jnp.eye(len(capacity), dtype=point.dtype) + (capacity + capacity.T) / 2
    normal = FactoredNormal(point, scale, basis, jnp.linalg.cholesky(capacity))
    inside = (scale * gradient) @ basis
    ahead = scale * (scale * gradient + basis @ (capacity @ inside - inside))
    return normal._replace(mean=point + ahead)


def elbo_of(key: Key[Array, ""], normal: FactoredNormal, density: Any) -> Scalar:
    """The ELBO from `NUM_DRAWS` draws; -inf if it is not finite."""
    half = jax.random.normal(key, (NUM_DRAWS // 2, normal.mean.size), normal.mean.dtype)
    draws = normal.mean[None] + normal.transform(jnp.concatenate([half, -half]))
    elbo = jax.vmap(density)(draws).mean() + normal.entropy()
    return jnp.where(jnp.isfinite(elbo), elbo, -jnp.inf)


@precision.full
def _dense(normal: FactoredNormal) -> FullRankNormal:
    root = normal.transform(jnp.eye(normal.mean.size, dtype=normal.mean.dtype))
    upper = jnp.linalg.qr(root, mode="r")  # root^T root = upper^T upper
    sign = jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(upper.dtype)
    return FullRankNormal(normal.mean, (upper * sign[:, None]).T)


@bounded_jit(lean=True)
def _precision_factors(normals: FactoredNormal) -> Float[Array, "P D D"]:
    """Lower C of each normal, with (C C^T)^-1 its covariance."""

    def one(normal: FactoredNormal) -> Array:
        inverse = normal._replace(
            scale=1 / normal.scale,
            factor=jnp.linalg.cholesky(jnp.linalg.inv(normal.factor @ normal.factor.T)),
        )
        # The precision is S^-1 (I - Q Q^T + Q (L L^T)^-1 Q^T) S^-1, again of this form.
        return _dense(inverse).cholesky

    return jax.lax.map(one, normals)


def _reason(paths: Climb, limit: int) -> Reason:
    """CONVERGED if all paths ended uphill."""
    if bool(paths.converged.all()):
        return Reason.CONVERGED
    return Reason.BUDGET if bool((paths.evaluations >= limit).any()) else Reason.NO_PROGRESS
