"""Fits of every family and number of components, with shared starts and programs."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax._core.warn import warn
from lvm_jax.em import inputs, loop, sources
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.fit import fit
from lvm_jax.em.gaussian import Gaussian
from lvm_jax.em.information import Criteria, criteria, from_evaluation
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.preparation import Prepared, Request, Shared, conclude, prepare
from lvm_jax.em.result import MixtureFit
from lvm_jax.typing import Array, ArrayLike, Key

OF_STREAMS = ("checkpoint", "mesh")  # options of `fit` whose fits are not in one program
LARGE = 2**22  # numbers in x, whose fits take longer than compilation
REGULARIZATION: float = Request._field_defaults["regularization"]


class Candidate(NamedTuple):
    """One fit of a search."""

    family: str
    num_components: int
    fit: MixtureFit
    criteria: Criteria
    is_singular: bool  # it failed, or the regularization sets a variance: see `em.select`

    @property
    def name(self) -> str:
        """The family and the number of components."""
        return f"{self.family} of {self.num_components}"


def is_singular(mixture: Mixture, regularization: float) -> bool:
    """Whether a component's variance in some direction is mostly regularization, or 0.

    The likelihood is unbounded there without regularization, and its value depends on it.
    """
    if not isinstance(mixture.family, Gaussian):
        return False
    scale = np.asarray(mixture.components.scale)
    eps = np.finfo(scale.dtype).eps
    if mixture.family.scale_axis is None:
        scale = scale[None]
    else:
        scale = scale[np.asarray(mixture.log_weights) > -np.inf]
    if not np.isfinite(scale).all():
        return True
    scale = scale.astype(np.float64)
    values = np.linalg.svd(scale, compute_uv=False) if scale.ndim == 3 else np.atleast_2d(scale.T).T
    least, most = values.min(1) ** 2, values.max(1) ** 2
    return bool((least <= np.maximum(2 * regularization, eps * most)).any())


def name_of(family: ExponentialFamily | str) -> str:
    """The name of a family in a table."""
    return family if isinstance(family, str) else type(family).__name__


def check_families(families: Any) -> list[ExponentialFamily | str]:
    """Refuse families that are unknown, equal or none."""
    if isinstance(families, str | ExponentialFamily):
        raise TypeError(f"families: expected a sequence of families, got {families!r}; use family")
    known: list[ExponentialFamily] = []
    for family in families:
        known.append(inputs.as_family(family))
        if known.index(known[-1]) < len(known) - 1:
            same = name_of(families[known.index(known[-1])])
            raise ValueError(f"families: expected different ones, got {name_of(family)} and {same}")
    if not known:
        raise ValueError("families: expected at least one, got none")
    return list(families)


def candidates(
    key: Key[Array, ""],
    x: Any,
    sizes: Sequence[int],
    families: Sequence[ExponentialFamily | str],
    sample_weight: ArrayLike | None,
    options: dict[str, Any],
) -> list[Candidate]:
    """The fits of all families and sizes, family by family; the largest sizes are fitted first."""
    streams = sources.as_source(x) is not None
    streams = streams or any(options.get(name) is not None for name in OF_STREAMS)
    order = sorted(sizes, reverse=True)
    if streams:
        same: Any = {**options, "sample_weight": sample_weight, "throw": False}
        fits = [{k: fit(key, x, k, family, **same) for k in order} for family in families]
        table = [
            {k: (one, criteria(one.mixture, x, sample_weight)) for k, one in own.items()}
            for own in fits
        ]
    else:
        table = in_memory(key, x, order, families, sample_weight, options)
    return [
        judged(name_of(family), k, *own[k], options)
        for family, own in zip(families, table, strict=True)
        for k in sizes
    ]


def in_memory(
    key: Key[Array, ""],
    x: ArrayLike,
    sizes: Sequence[int],
    families: Sequence[ExponentialFamily | str],
    sample_weight: ArrayLike | None,
    options: dict[str, Any],
) -> list[dict[int, tuple[MixtureFit, Criteria]]]:
    """`fit` and `criteria` of each family and size, by one program for each family.

    The programs compile in threads, while the families before them are fitted.
    """
    options = {name: value for name, value in options.items() if name not in OF_STREAMS}
    max_steps = checks.integer(options.pop("max_steps"), "max_steps", 0)
    on_progress = options.pop("on_progress", None)
    shared = Shared(max(sizes))

    def prepared(family: ExponentialFamily | str, k: int) -> Prepared:
        request = Request(x, k, family, sample_weight=sample_weight, **options)
        return prepare(key, request, shared)

    def one(problem: Prepared) -> tuple[MixtureFit, Criteria]:
        state, trace, conclusion = loop.run(problem.problem, max_steps, on_progress)
        made = conclude(state, trace, conclusion, problem)
        if problem.problem.data.fill is not None:  # rows without any value have weight 0 there
            return made, criteria(made.mixture, x, sample_weight)
        total = np.shape(x)[0] if sample_weight is None else float(np.sum(sample_weight))
        return made, from_evaluation(conclusion.evaluation, made.mixture.num_parameters, total)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if len(families) > 1 and np.size(x) <= LARGE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the fits warn
                for family in families:
                    loop.compile_in(pool, prepared(family, sizes[0]).problem)
        return [{k: one(prepared(family, k)) for k in sizes} for family in families]


def judged(
    family: str, num_components: int, made: MixtureFit, found: Criteria, options: dict[str, Any]
) -> Candidate:
    """A candidate, with whether it is singular."""
    regularization = float(options.get("regularization", REGULARIZATION))
    singular = made.info.outcome >= Outcome.DEGENERATE or is_singular(made.mixture, regularization)
    return Candidate(family, num_components, made, found, singular)


def report(found: list[Candidate]) -> None:
    """Warn once about fits at the step limit, and once about components without points."""
    left = [one for one in found if one.fit.info.outcome == Outcome.MAX_STEPS]
    left = [one for one in left if one.fit.info.num_steps > 0]
    if left:
        steps = max(one.fit.info.num_steps for one in left)
        warn(
            f"EM did not converge in {steps} steps: {_named(left, found)}; raise max_steps or "
            "tolerance",
            ConvergenceWarning,
        )
    empty = [one for one in found if one.fit.info.empty_components]
    if empty:
        warn(
            f"EM left components without points: {_named(empty, found)}; lower num_components or "
            "use more restarts",
        )


def _named(some: list[Candidate], found: list[Candidate]) -> str:
    names = ", ".join(one.name for one in some[:5])
    return f"{len(some)} of {len(found)} fits ({names}{', ...' if len(some) > 5 else ''})"
