"""The problem of a fit from its arguments, and its result from the end of the loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.outcome import Outcome
from lvm_jax.em import incomplete, inputs, loop, padding, priors, starts
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.mixture import Mixture, read, rows_per_chunk
from lvm_jax.em.result import Info, MixtureFit
from lvm_jax.em.state import Conclusion, Problem, State
from lvm_jax.typing import Array, ArrayLike, Key


class Request(NamedTuple):
    """The arguments of `fit` that define the problem, before validation."""

    x: Any
    num_components: int
    family: ExponentialFamily | str = "full"
    start: Any = "kmeans"
    num_restarts: int = 1
    regularization: float = 1e-6
    prior: priors.ConjugatePrior | None = None
    sample_weight: ArrayLike | None = None
    tolerance: float = 1e-3
    acceleration: str | None = None


class Prepared(NamedTuple):
    """The loop's input, with the origin and the number of components before padding."""

    problem: Problem
    origin: np.ndarray
    num_components: int
    places: np.ndarray | None = None  # [N], of the rows of x in the problem's data; None: their own


class Shared:
    """What the fits of a search share: the largest K, and centres by K and by padded K."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self.centres: dict[tuple[int, int], Any] = {}

    def centres_of(self, place: tuple[int, int], compute: Callable[[], Any]) -> Any:
        """The centres of a place, computed once."""
        if place not in self.centres:
            self.centres[place] = compute()
        return self.centres[place]


def check(request: Request) -> ExponentialFamily:
    """The family of a request, whose scalar arguments are valid."""
    checks.integer(request.num_components, "num_components", 1)
    checks.integer(request.num_restarts, "num_restarts", 1)
    checks.number(request.regularization, "regularization")
    family = inputs.as_family(request.family)
    inputs.check_start(request.start, family)
    inputs.check_acceleration(request.acceleration, family)
    return family


def prepare(key: Key[Array, ""], request: Request, shared: Shared | None = None) -> Prepared:
    """Validate on the host, pad, and compute the initial centres."""
    checks.key(key)
    shared = Shared() if shared is None else shared
    x, _, _, start, _, regularization, prior, sample_weight, tolerance, acceleration = request
    num_components, num_restarts = request.num_components, request.num_restarts
    family = check(request)
    x, missing = inputs.check_data(x, num_components, family, sample_weight, regularization)
    weight = None if sample_weight is None else checks.weights(sample_weight, x.shape[0])
    arrange = incomplete.arrange_fit if missing else incomplete.Rows
    family, x, weight, places, fill = arrange(family, x, weight)
    origin = inputs.centre(x, weight, family, fill)
    total = float(x.shape[0]) if weight is None else float(weight.sum())
    data = read(x, weight, origin, fill)
    controls = inputs.check_controls(
        family, regularization, prior, num_components, origin, tolerance, total
    )
    if isinstance(start, Mixture):
        given, shift = inputs.check_initial(start, family.original, num_components, origin)
        num_restarts = given.log_weights.shape[0]
    size = num_components
    if prior is None:  # a prior may have one parameter per component, which padding would change
        size = padding.num_components(family, data, num_components, num_restarts, shared.most)
    chunk = rows_per_chunk(family, num_restarts * size, data)
    centres: Any = np.zeros((num_restarts, size, x.shape[1]), origin.dtype)
    if isinstance(start, Mixture):
        given = padding.each(padding.pad, family, given, size)
        parameters = loop.translated(family, given, shift)
    else:
        parameters = padding.blank(family, num_restarts, size, x.shape[1], origin.dtype)
        if start != "random":
            sizes = (start, size, num_restarts, chunk)
            compute = partial(starts.centres, key, data, controls.num_live, *sizes)
            centres = shared.centres_of((num_components, size), compute)
    step = np.int32(0 if isinstance(start, Mixture) else -1)
    uniform = isinstance(start, str) and start == "random"
    problem = Problem(
        family, uniform, chunk, acceleration is not None,
        key, centres, parameters, data, controls, step,
    )  # fmt: skip
    return Prepared(problem, origin, num_components, places)


def conclude(
    state: State, trace: np.ndarray, conclusion: Conclusion, prepared: Prepared
) -> MixtureFit:
    """The best restart as a `MixtureFit`, without padding."""
    problem, origin, num_components, _ = prepared
    family, outcome = problem.family.original, np.asarray(state.outcome)
    best = int(conclusion.best)
    parameters = padding.cut(problem.family, conclusion.parameters, num_components)
    settings = problem.controls.settings
    prior = settings.prior is not None or settings.concentration is not None
    num_steps = np.asarray(state.num_steps)
    empty = np.flatnonzero(np.isneginf(parameters.log_weights))
    total = float(problem.controls.total_weight)
    info = Info(
        outcome=Outcome(int(outcome[best])),
        num_steps=int(num_steps[best]),
        log_likelihood=float(conclusion.evaluation.log_likelihood) / total,
        map_objective=float(conclusion.objective) if prior else None,
        trace=trace[best, : num_steps[best]],
        best_restart=best,
        restart_objectives=np.asarray(state.objective, np.float64),
        restart_outcomes=outcome,
        restart_num_steps=num_steps,
        empty_components=tuple(int(k) for k in empty),
        exact_steps=int(state.exact_steps),
        boundary=family.boundary(parameters.components, settings),
    )
    log_weights, components = jax.device_put(parameters)
    return MixtureFit(Mixture(log_weights, components, jax.device_put(origin), family), info)
