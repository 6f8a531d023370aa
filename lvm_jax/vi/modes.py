"""The method "modes": one Gaussian for each mode that ascents from many starts reach.

    paths      L-BFGS from more and more starts, until no mode is the end of one path alone
    modes      ends are one mode if a standard deviation or two of either normal separates them
    normals    the curvature at a mode, then natural-gradient steps on the ELBO of each alone
    weights    by draws of all normals, weighted by the density of the mixture (`vi.mixing`)

Each normal has two widths, with separate weights: the wider one covers tails of p that are heavier
than those of a normal, and its weight vanishes where p has none.

The Good-Turing estimate (modes that one path alone reached) / (paths) is the chance that one more
path ends in a new mode. It speaks of the starts, not of the mass of p: a mode that no start can
reach is neither found nor counted.

Source: Good (1953), the estimate of unseen species; `vi.natural` and `vi.mixing` for their steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import FullRankNormal
from lvm_jax.distributions.mixtures import NormalMixture
from lvm_jax.typing import Array, Float, Int, Key, Scalar
from lvm_jax.vi.gaussian import run_from
from lvm_jax.vi.lbfgs import climb
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.mixing import Draws, draw_evenly, masses, mixture_weights
from lvm_jax.vi.modes_table import Modes
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.refine import refine
from lvm_jax.vi.start import Started, best_normal
from lvm_jax.vi.starts import draw_starts

BATCH = 64  # paths that are climbed at once, and the fewest
SEARCH_SHARE, REFINE_SHARE, DRAW_SHARE = 0.3, 0.3, 0.1  # of the budget
SAME = 2.0  # standard deviations: two equal normals that are closer have one mode together
DRAWS = 10_000  # of all components, for the weights and again for the masses
WIDER = 0.25  # share of the draws that have the second width


class Search(NamedTuple):
    """The distinct modes among the ends of some paths."""

    normals: Gaussian  # leaves [K, ...]
    num_paths: Int[np.ndarray, " K"]  # that ended in each
    total: int  # paths
    evaluations: int

    @property
    def unseen(self) -> float:
        """Good and Turing's estimate: the share of modes of one path in all paths."""
        return float((self.num_paths == 1).sum() / self.total)


def modes(*, num_paths: int | None = None, start_scale: float = 2.0) -> Method:
    """One Gaussian for each mode that ascents from many starts reach, and their masses.

    Starts are uniform on (start - start_scale, start + start_scale), or drawn from a `start` that
    is a function of a key. None for `num_paths` doubles the paths, from 64, until each mode was
    reached twice or three tenths of the budget are spent. The result has `modes`, a table of
    `Modes`. Where only one mode is found the fit is that of `natural_gradient` from this mode.

    Raises ValueError for num_paths < 1 or start_scale <= 0.
    """
    if num_paths is not None:
        num_paths = checks.integer(num_paths, "num_paths", 1)
    if not checks.number(start_scale, "start_scale") > 0:
        raise ValueError(f"start_scale: expected a number > 0, got {start_scale}")

    def run(key: Key[Array, ""], task: Task) -> Found:
        key_search, key_fit = jax.random.split(key)
        found = search(key_search, task, num_paths, start_scale)
        if len(found.num_paths) > 1:
            return _several(key_fit, task, found)
        return _one(key_fit, task, found)

    return Method(("mixture",), run)


def search(key: Key[Array, ""], task: Task, num_paths: int | None, scale: float) -> Search:
    """The modes at the ends of paths from starts around 0 or of the task's own."""
    budget = SEARCH_SHARE * task.max_evaluations
    batches: list[Any] = []
    target = BATCH if num_paths is None else num_paths
    while True:
        while (done := sum(len(batch.point) for batch in batches)) < target:
            key_batch = jax.random.fold_in(key, done)
            starts = draw_starts(key_batch, task, min(BATCH, target - done), scale)
            batches.append(climb(starts, task.density, int(budget), 1))
        found = _distinct(batches, task)
        if num_paths is not None or not found.unseen or 2 * found.evaluations > budget:
            return found
        target *= 2


def _distinct(batches: list[Any], task: Task) -> Search:
    """The modes among the ends of paths, from the highest end down."""
    ends = np.concatenate([np.asarray(batch.point) for batch in batches])
    values = np.concatenate([np.asarray(batch.value) for batch in batches])
    converged = np.concatenate([np.asarray(batch.converged) for batch in batches])
    spent = int(sum(np.asarray(batch.evaluations).sum() for batch in batches))
    left = list(np.flatnonzero(converged)[np.argsort(-values[converged], kind="stable")])
    normals, counts = [], []
    while left:
        peak = _peak(ends[left[0]], task.density)
        spent += task.density.dim + 2
        if not bool(peak.proper):  # a saddle
            left.pop(0)
            continue
        away = (ends[left] - np.asarray(peak.normal.mean)) @ np.asarray(peak.normal.factor)
        same = (away**2).sum(1) < SAME**2
        same[0] = True
        normals.append(peak.normal)
        counts.append(int(same.sum()))
        left = [row for row, known in zip(left, same, strict=True) if not known]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *normals) if normals else None
    return Search(stacked, np.array(counts, int), len(ends), spent)


class Peak(NamedTuple):
    """The normal of the curvature at the end of a path."""

    normal: Gaussian
    proper: Scalar  # whether the curvature is positive definite


@bounded_jit()
def _peak(u: Float[Array, " D"], density: Any) -> Peak:
    """The normal after one step of Newton, with the curvature before it."""
    factor = jnp.linalg.cholesky(-jax.hessian(density)(u))
    proper = jnp.isfinite(factor).all()
    gradient = jax.grad(density)(u)
    step = jax.scipy.linalg.cho_solve((factor, True), gradient)
    step = jnp.where(proper & (step @ gradient < 1), step, 0)
    return Peak(Gaussian(u + step, factor), proper)


def _one(key: Key[Array, ""], task: Task, found: Search) -> Found:
    """The fit of one Gaussian: from the mode, or where there is none from the best of a path."""
    key_start, key_fit, key_mass = jax.random.split(key, 3)
    alone = task._replace(family="full_rank")
    if found.num_paths.size:
        state = jax.tree.map(lambda leaf: leaf[0], found.normals)
        started = Started(state, np.nan, found.evaluations)
    else:
        started = best_normal(key_start, task.density, task.max_evaluations)
        started = started._replace(evaluations=started.evaluations + found.evaluations)
    fitted = run_from(key_fit, alone, started)
    normals = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], _gaussian(fitted.flat))
    mixture = NormalMixture(
        jnp.zeros((1, 1), task.density.dtype), *normals, jnp.ones(1, task.density.dtype)
    )
    draws = draw_evenly(key_mass, mixture, task.density, (_draws(task, 1),))
    return fitted._replace(
        flat=mixture,
        method="modes",
        evaluations=fitted.evaluations + draws.log_p.size,
        modes=_table(task, mixture, draws, found),
    )


@bounded_jit()
def _gaussian(flat: FullRankNormal) -> Gaussian:
    precision = jnp.linalg.inv(flat.cholesky @ flat.cholesky.T)
    return Gaussian(flat.mean, jnp.linalg.cholesky((precision + precision.T) / 2))


def _several(key: Key[Array, ""], task: Task, found: Search) -> Found:
    """The mixture of a Gaussian for each mode."""
    key_refine, key_weights, key_masses = jax.random.split(key, 3)
    budget = int(REFINE_SHARE * task.max_evaluations)
    refined = refine(key_refine, task, found.normals, budget)
    dim, dtype = task.density.dim, task.density.dtype
    widths = jnp.array([1.0, wider(dim)], dtype)
    number = len(found.num_paths)
    equal = jnp.full((number, 2), -np.log(2 * number), dtype)
    mixture = NormalMixture(equal, *refined.normals, widths)

    each = _draws(task, number)
    counts = each - max(int(WIDER * each), 1), max(int(WIDER * each), 1)
    first = draw_evenly(key_weights, mixture, task.density, counts)
    mixture = mixture._replace(log_weights=mixture_weights(first))
    second = draw_evenly(key_masses, mixture, task.density, counts)
    table = _table(task, mixture, second, found)

    spent = found.evaluations + refined.evaluations + 2 * second.log_p.size
    error = float((table.mass.value * refined.noise).sum())
    row = (spent, float((table.mass.value * refined.elbo).sum()), np.nan, np.nan, error)
    reason = Reason.CONVERGED if error <= task.tolerance and not found.unseen else Reason.BUDGET
    return Found(mixture, reason, spent, Trace.of_rows([row]), "modes", modes=table)


def wider(dim: int) -> float:
    """The second width s: s^2 D is two standard deviations above the mean of |e|^2, e ~ N(0, I)."""
    return float(np.sqrt(1 + 2 * np.sqrt(2 / dim)))


def _draws(task: Task, number: int) -> int:
    """Draws of each of `number` components."""
    return max(min(DRAWS, int(DRAW_SHARE * task.max_evaluations)) // number, 4)


def _table(task: Task, mixture: NormalMixture, draws: Draws, found: Search) -> Modes:
    """The table of the modes, in the order of their masses."""
    measured = masses(draws, mixture.log_weights)
    order = np.argsort(-np.asarray(measured.mass.value), kind="stable")
    location = jax.vmap(task.density.unflatten)(mixture.means[order])
    num_paths = found.num_paths if found.num_paths.size else np.zeros(1, int)
    return Modes(
        location,
        measured.log_mass[order],
        jax.tree.map(lambda leaf: leaf[order], measured.mass),
        num_paths[order],
        found.total,
    )
