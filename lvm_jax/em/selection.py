"""Selection of the number of components and the family by AIC, BIC or ICL."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lvm_jax._core import checks
from lvm_jax._core.outcome import Outcome
from lvm_jax.em import search
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.fit import INSIDE
from lvm_jax.em.information import Criteria
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.result import Info, MixtureFit, report
from lvm_jax.em.search import Candidate
from lvm_jax.typing import Array, ArrayLike, Key

CRITERIA = ("aic", "bic", "icl")

DEFAULTS = {"num_restarts": 5, "tolerance": 1e-6, "max_steps": 1_000}  # of the fits


class Selection(NamedTuple):
    """The fits of a search, and the one with the lowest criterion.

    `fits` and `criteria` are those of the best family, and `table` has the fits of all families.
    """

    num_components: int  # of the best
    mixture: Mixture
    info: Info
    fits: dict[int, MixtureFit]  # by number of components
    criteria: dict[int, Criteria]
    family: str  # of the best
    table: tuple[Candidate, ...]  # family by family

    def values(self, criterion: str = "bic") -> dict[str, dict[int, float]]:
        """A criterion by family and number of components; NaN for a singular fit."""
        checks.choice(criterion, "criterion", CRITERIA)
        found: dict[str, dict[int, float]] = {one.family: {} for one in self.table}
        for one in self.table:
            value = math.nan if one.is_singular else getattr(one.criteria, criterion)
            found[one.family][one.num_components] = value
        return found


def select(
    key: Key[Array, ""],
    x: Any,
    num_components: Sequence[int],
    family: ExponentialFamily | str = "full",
    *,
    families: Sequence[ExponentialFamily | str] | None = None,
    criterion: str = "bic",
    sample_weight: ArrayLike | None = None,
    throw: bool = True,
    **options: Any,
) -> Selection:
    """Fit each number of components, in each family, and select the lowest aic, bic or icl.

    `families` are compared where they are given, such as `tuple(em.COVARIANCE_FAMILIES)`; otherwise
    `family` is the only one. All fits use the same key, and those of one number of components the
    same k-means centres. `options` are those of `fit`, by default with 5 restarts, a tolerance of
    1e-6 and at most 1,000 steps, each a pass over data that stream; with fewer the criteria reflect
    the optimisation, not the models. The programs of several families compile in threads; the fits
    are in this one.

    A fit is singular if it failed, or if a component's variance in some direction is mostly
    `regularization`, so that the likelihood depends on it. The best fit is not singular and has a
    finite criterion, unless there is none. With `throw` it is an error if all fits failed, and a
    warning names those that did not converge.

    Raises ValueError or TypeError for an unknown criterion, for empty or repeated numbers of
    components or families, and the errors of `fit`.
    """
    checks.host("em.select", INSIDE, key, x, sample_weight)
    checks.key(key)
    checks.choice(criterion, "criterion", CRITERIA)
    sizes = [checks.integer(size, "num_components", 1) for size in num_components]
    if not sizes or len(set(sizes)) < len(sizes):
        raise ValueError(f"num_components: expected different numbers >= 1, got {num_components}")
    known = search.check_families((family,) if families is None else families)
    table = search.candidates(key, x, sizes, known, sample_weight, DEFAULTS | options)
    best = best_of(table, criterion)
    if throw:
        if best.fit.info.outcome >= Outcome.DEGENERATE:
            report(best.fit)
        search.report(table)
    own = [one for one in table if one.family == best.family]
    return Selection(
        best.num_components,
        *best.fit,
        {one.num_components: one.fit for one in own},
        {one.num_components: one.criteria for one in own},
        best.family,
        tuple(table),
    )


def best_of(table: Sequence[Candidate], criterion: str) -> Candidate:
    """The lowest criterion of the fits that are not singular; of all if there are none."""

    def score(one: Candidate) -> float:
        value = getattr(one.criteria, criterion)
        return value if math.isfinite(value) else math.inf

    sound = [one for one in table if not one.is_singular and math.isfinite(score(one))]
    return min(sound or table, key=score)
