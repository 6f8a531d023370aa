"""The method "modes": one Gaussian for each mode that ascents from many starts reach.

    paths      L-BFGS from twice as many starts, until no mode is the end of one path alone and a
               mode is the end of 20 paths on average
    modes      an end within two standard deviations of a mode's normal is that mode
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

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax._core.lbfgs import Climb, climb
from lvm_jax._core.warn import warn
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import FullRankNormal
from lvm_jax.distributions.mixtures import NormalMixture
from lvm_jax.typing import Array, Float, Int, Key, Scalar
from lvm_jax.vi.gaussian import run_from
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.mixing import Draws, draw_evenly, masses, mixture_weights
from lvm_jax.vi.modes_table import UNSEEN, Modes, good_turing
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.refine import Refined, refine
from lvm_jax.vi.start import NUM_DRAWS, Started, best_normal, elbo_of
from lvm_jax.vi.starts import draw_starts

BATCH = 64  # paths that are climbed at once
PATHS_PER_MODE = 20  # a mode whose basin is a fifth of the mean is missed with probability e^-4
SHORT_PATH = 30  # evaluations that a path has at least
SEARCH_SHARE, REFINE_SHARE, DRAW_SHARE = 0.3, 0.3, 0.1  # of the budget
SAME = 2.0  # standard deviations: two equal normals that are closer have one mode together
DRAWS = 10_000  # of all components, for the weights and again for the masses
ONE_DRAWS = 1_000  # of a single component, for its log mass
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
        return good_turing(self.num_paths, self.total)


def modes(*, num_paths: int | None = None, start_scale: float = 2.0) -> Method:
    """One Gaussian for each mode that ascents from many starts reach, and their masses.

    Starts are uniform on (start - start_scale, start + start_scale), or drawn from a `start` that
    is a function of a key. None for `num_paths` doubles the paths, from 64, until each mode was
    reached twice, and 20 times on average, or three tenths of the budget are spent. The result has
    `modes`, a table of `Modes`. Where only one mode is found the fit is that of `natural_gradient`
    from this mode, or from the best normal along a path if its ELBO is higher.

    Raises ValueError for num_paths < 1 or start_scale <= 0.
    """
    if num_paths is not None:
        num_paths = checks.integer(num_paths, "num_paths", 1)
    if not checks.number(start_scale, "start_scale") > 0:
        raise ValueError(f"start_scale: expected a number > 0, got {start_scale}")

    def run(key: Key[Array, ""], task: Task) -> Found:
        key_search, key_fit = split(key)
        found = search(key_search, task, num_paths, start_scale)
        _warn_of_unseen(found)
        if len(found.num_paths) > 1:
            return _several(key_fit, task, found)
        return _one(key_fit, task, found)

    return Method(("mixture",), run)


def search(key: Key[Array, ""], task: Task, num_paths: int | None, scale: float) -> Search:
    """The modes at the ends of paths from starts around 0 or of the task's own."""
    budget = SEARCH_SHARE * task.max_evaluations
    first = int(np.clip(budget // SHORT_PATH, 1, BATCH))
    target = first if num_paths is None else num_paths
    limit = max(int(budget) // min(target, BATCH), SHORT_PATH)
    found = Search(_none(task), np.zeros(0, int), 0, 0)
    while True:
        while found.total < target:
            key_batch = jax.random.fold_in(key, found.total)
            starts = draw_starts(key_batch, task, min(BATCH, target - found.total), scale)
            found = _extend(found, climb(starts, task.density, limit, 1), task)
        enough = not found.unseen and found.total >= PATHS_PER_MODE * len(found.num_paths)
        if num_paths is not None or enough or 2 * found.evaluations > budget:
            return found
        target *= 2


def _none(task: Task) -> Gaussian:
    dim, dtype = task.density.dim, task.density.dtype
    return Gaussian(jnp.zeros((0, dim), dtype), jnp.zeros((0, dim, dim), dtype))


def _extend(found: Search, paths: Climb, task: Task) -> Search:
    """The search after some more paths, from the highest end down."""
    counts, spent = list(found.num_paths), found.evaluations + int(paths.evaluations.sum())
    ends, converged = np.asarray(paths.point), np.asarray(paths.converged)
    order = np.argsort(-np.asarray(paths.value), kind="stable")
    means, factors = (list(np.asarray(leaf)) for leaf in found.normals)
    for row in order[converged[order]]:
        apart = _distances(ends[row], means, factors)
        if apart.size and apart.min() < SAME:
            counts[int(apart.argmin())] += 1
            continue
        peak = _peak(ends[row], task.density)
        spent += task.density.dim + 2
        if bool(peak.proper):  # otherwise a saddle
            means.append(np.asarray(peak.normal.mean))
            factors.append(np.asarray(peak.normal.factor))
            counts.append(1)
    if means:
        found = found._replace(normals=Gaussian(jnp.array(means), jnp.array(factors)))
    return Search(found.normals, np.array(counts, int), found.total + len(ends), spent)


def _distances(point: Any, means: Any, factors: Any) -> Float[np.ndarray, " K"]:
    """The distances from one point to K means, in the standard deviations of each normal."""
    if not len(means):
        return np.zeros(0)
    away = np.einsum("kd,kde->ke", np.asarray(point)[None] - np.asarray(means), np.asarray(factors))
    return np.sqrt((away**2).sum(1))


def merge(refined: Refined, num_paths: Int[np.ndarray, " K"]) -> tuple[Refined, np.ndarray]:
    """Without normals that the steps have led to the place of another of higher ELBO."""
    means, factors = (np.asarray(leaf) for leaf in refined.normals)
    kept: list[int] = []
    counts: list[int] = []
    for row in np.argsort(-refined.elbo, kind="stable"):
        to_kept = _distances(means[row], means[kept], factors[kept])
        from_row = _distances(means[row], means[kept], np.repeat(factors[row][None], len(kept), 0))
        apart = np.maximum(to_kept, from_row)
        if apart.size and apart.min() < SAME:
            counts[int(apart.argmin())] += num_paths[row]
        else:
            kept.append(row)
            counts.append(num_paths[row])
    normals = Gaussian(jnp.asarray(means[kept]), jnp.asarray(factors[kept]))
    left = refined._replace(normals=normals, elbo=refined.elbo[kept], noise=refined.noise[kept])
    return left, np.array(counts)


def _warn_of_unseen(found: Search) -> None:
    """Warn where one more path is likely to end in a new mode."""
    if found.unseen > UNSEEN:
        warn(
            f"modes: {found.total} paths reached {len(found.num_paths)} modes, and another path "
            f"ends in a new one with probability {found.unseen:.2g}, so q and log Z count the "
            "found modes only; give a larger max_evaluations, or vi.modes(num_paths=...)",
            RuntimeWarning,
        )


class Peak(NamedTuple):
    """The normal of the curvature at the end of a path."""

    normal: Gaussian
    proper: Scalar  # whether the curvature is positive definite


@bounded_jit(lean=True)
def _peak(u: Float[Array, " D"], density: Any) -> Peak:
    """The normal after one step of Newton, with the curvature before it."""
    factor = jnp.linalg.cholesky(-jax.hessian(density)(u))
    proper = jnp.isfinite(factor).all()
    gradient = jax.grad(density)(u)
    step = jax.scipy.linalg.cho_solve((factor, True), gradient)
    step = jnp.where(proper & (step @ gradient < 1), step, 0)
    return Peak(Gaussian(u + step, factor), proper)


def _one(key: Key[Array, ""], task: Task, found: Search) -> Found:
    """The fit of one Gaussian, from the mode or from the best normal along a path.

    The second is better where the mode has little mass, as in the neck of a funnel.
    """
    key_start, key_fit, key_mass = split(key, 3)
    num_draws = max(min(ONE_DRAWS, int(DRAW_SHARE * task.max_evaluations)), 2)
    alone = task._replace(family="full_rank", max_evaluations=task.max_evaluations - num_draws)
    started = best_normal(key_start, task.density, alone.max_evaluations)
    spent = found.evaluations + started.evaluations
    if found.num_paths.size:
        state = jax.tree.map(lambda leaf: leaf[0], found.normals)
        elbo = float(_elbo(key_start, state, task.density))
        spent += NUM_DRAWS
        if elbo >= started.elbo:
            started = Started(state, elbo, spent)
    started = started._replace(evaluations=spent)
    fitted = run_from(key_fit, alone, started)
    mean, factor = _gaussian(fitted.flat)
    one = jnp.ones(1, mean.dtype)
    mixture = NormalMixture(jnp.log(one)[None], mean[None], factor[None], one)
    draws = draw_evenly(key_mass, mixture, task.density, (num_draws,))
    return fitted._replace(
        flat=mixture,
        method="modes",
        evaluations=fitted.evaluations + draws.log_p.size,
        modes=_table(task, mixture, draws, found),
    )


@bounded_jit(lean=True)
def _elbo(key: Key[Array, ""], normal: Gaussian, density: Any) -> Scalar:
    return elbo_of(key, normal, density, False)


@bounded_jit(lean=True)
@precision.full
def _gaussian(flat: FullRankNormal) -> Gaussian:
    inverse = jnp.linalg.inv(flat.cholesky @ flat.cholesky.T)
    return Gaussian(flat.mean, jnp.linalg.cholesky((inverse + inverse.T) / 2))


def _several(key: Key[Array, ""], task: Task, found: Search) -> Found:
    """The mixture of a Gaussian for each mode."""
    key_refine, key_weights, key_masses = split(key, 3)
    budget = int(REFINE_SHARE * task.max_evaluations)
    refined = refine(key_refine, task, found.normals, budget)
    refined, num_paths = merge(refined, found.num_paths)
    found = found._replace(num_paths=num_paths)
    dim, dtype = task.density.dim, task.density.dtype
    widths = jnp.array([1.0, wider(dim)], dtype)
    number = len(num_paths)
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
