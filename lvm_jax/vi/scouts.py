"""A search for modes that a proposal does not cover, by ascents from points far from its draws.

An ascent that ends where the proposal has almost no density is a mode that its draws miss, if the
mode has mass: the normal of the curvature there is the proposal of a second estimate.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax._core.keys import split
from lvm_jax._core.lbfgs import climb
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence import Evidence
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar
from lvm_jax.vi.adaptive import largest_log_weight
from lvm_jax.vi.density import Density
from lvm_jax.vi.method import Task
from lvm_jax.vi.starts import draw_starts

NUM_SCOUTS = 32
MAX_EVALUATIONS = 60  # of one ascent
START_SCALE = 2.0  # of starts around the start of the fit
WIDTHS = 5.0  # times the distance of a draw of q from the mean
MAX_MODES, NUM_DRAWS = 4, 200  # ends that are weighed, and draws of each


class Scouted(NamedTuple):
    """The mass at modes without draws, as a share of Z, and the cost."""

    share: float
    evaluations: int


def scout(
    key: Key[Array, ""],
    q: Distribution,
    proposal: Distribution,
    density: Density,
    found: Evidence,
    draw_start: Callable[[Key[Array, ""]], Any] | None,
) -> Scouted:
    """Mass over Z at ends of ascents whose weight by the proposal contradicts `found`.

    Half of the starts are draws of q, `WIDTHS` times as far from their mean, the others uniform
    around the start of the fit or of `draw_start`.
    """
    key_starts, key_q, key_draws = split(key, 3)
    cut = np.asarray(largest_log_weight(found), density.dtype)
    half = NUM_SCOUTS // 2
    task = Task(density, "mixture", 0.0, 0, draw_start)
    around = draw_starts(key_starts, task, half, START_SCALE)
    paths = climb(_with_wide(key_q, q, around), density, MAX_EVALUATIONS, 1)
    log_w = np.asarray(_log_weights(paths.point, paths.value, proposal), float)
    paths = jax.tree.map(np.asarray, paths)
    spent = int(paths.evaluations.sum())

    log_w = np.where(paths.converged, log_w, -np.inf)
    share = 0.0
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for row in np.argsort(-paths.value, kind="stable"):
        end = paths.point[row].astype(float)
        if not log_w[row] > cut or len(seen) == MAX_MODES or _known(end, seen):
            continue
        key_one = jax.random.fold_in(key_draws, int(row))
        log_mass, factor = _mass(key_one, paths.point[row], density, proposal, cut)
        spent += density.dim + 1 + NUM_DRAWS
        seen.append((end, np.asarray(factor, float)))
        mass = float(np.exp(np.asarray(log_mass, float) - found.log_evidence))
        share += mass if np.isfinite(mass) else 0.0
    return Scouted(share, spent)


def compile_ascents(density: Density, pool: Executor) -> None:
    """Compile the ascents of `scout` in a thread of the pool."""
    starts = np.zeros((NUM_SCOUTS, density.dim), density.dtype)
    climb.compile_in(pool, starts, density, MAX_EVALUATIONS, 1)


def _known(end: Float[np.ndarray, " D"], seen: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether an end is within two standard deviations of another."""
    return any(((end - mode) @ factor) @ ((end - mode) @ factor) < 4 for mode, factor in seen)


@bounded_jit(lean=True)
def _with_wide(
    key: Key[Array, ""], q: Distribution, around: Float[Array, "P D"]
) -> Float[Array, "S D"]:
    """These P starts, and as many draws of q, `WIDTHS` times as far from their mean: S = 2 P."""
    wide = q.sample(seed=key, sample_shape=around.shape[:1])
    wide = wide.mean(0)[None] + WIDTHS * (wide - wide.mean(0)[None])
    return jnp.concatenate([around, wide])


@bounded_jit(lean=True)
def _log_weights(
    u: Float[Array, "N D"], log_p: Float[Array, " N"], q: Distribution
) -> Float[Array, " N"]:
    return log_p - jax.vmap(q.log_prob)(u)


@bounded_jit(lean=True)
@precision.full
def _mass(
    key: Key[Array, ""], mode: Array, density: Density, proposal: Distribution, cut: Scalar
) -> tuple[Scalar, Array]:
    """log of the integral of p where log p - log g > cut, by draws of the normal at a mode.

    NaN where the curvature is not that of a mode. With the lower factor of the precision.
    """
    factor = jnp.linalg.cholesky(-jax.hessian(density)(mode))
    noise = jax.random.normal(key, (NUM_DRAWS, mode.size), mode.dtype)
    away = jax.scipy.linalg.solve_triangular(factor, noise.T, trans=1, lower=True).T
    log_normal = jnp.log(jnp.diagonal(factor)).sum() - 0.5 * (noise**2).sum(1)
    log_normal -= 0.5 * mode.size * np.log(2 * np.pi)
    u = mode[None] + away
    log_p = jax.vmap(density)(u)
    missed = log_p - jax.vmap(proposal.log_prob)(u) > cut
    log_w = jnp.where(missed, log_p - log_normal, -jnp.inf)
    return jax.nn.logsumexp(log_w) - np.log(NUM_DRAWS), factor
