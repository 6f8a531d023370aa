"""EM on data that stream: one pass over the source for each step, and M-steps in float64.

The first pass measures the data and draws a sample of rows, from which the starts are computed.
Each further pass adds the statistics of all restarts, chunk by chunk.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lvm_jax._core import checks
from lvm_jax._core.outcome import Outcome
from lvm_jax.em import checkpoint, chunks, incomplete, inputs, loop
from lvm_jax.em.compiling import over_data
from lvm_jax.em.devices import OnMesh
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.passes import Rows, Streams, m_step, narrow, safe, wide
from lvm_jax.em.recording import Place, Recorder, resumed, started
from lvm_jax.em.sources import ArraySource, as_source
from lvm_jax.em.state import Conclusion, Controls, State
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.em.survey import Sample, Survey
from lvm_jax.typing import Array, Key

if TYPE_CHECKING:
    from lvm_jax.em.preparation import Request


class Task(NamedTuple):
    """The data and the settings of a fit."""

    rows: Rows
    family: ExponentialFamily
    dtype: Any  # of the E-step
    controls: Controls  # in float64


class Options(NamedTuple):
    """The arguments of `fit` that define its course, not its problem."""

    max_steps: int
    on_progress: Callable[[dict[str, Any]], None] | None = None
    checkpoint: str | Path | None = None
    mesh: Mesh | None = None
    previous_objective: float = -np.inf


class Ran(NamedTuple):
    """The result of `run`: that of `loop.run`, and the settings and the origin of the data."""

    state: State
    trace: np.ndarray
    conclusion: Conclusion
    controls: Controls
    origin: np.ndarray


def run(
    key: Key[Array, ""],
    request: "Request",
    family: ExponentialFamily,
    begin: Callable[[np.ndarray, np.ndarray | None], Mixture],
    options: Options,
) -> Ran:
    """Fit R mixtures; begin(rows, weights) makes the initial mixtures of a sample."""
    data = data_of(request, options.mesh)
    path = None if options.checkpoint is None else Path(options.checkpoint)
    settings, found = settings_of(key, request, family, data), None
    content = data.read_checkpoint(path)
    if path is not None and content:
        found = checkpoint.parse(content, path)
        checkpoint.check(path, found[1]["settings"], settings)
    seen = data.measure(key, family, None if found is None else seen_before(found[0]))
    if found is None:
        checks.distinct_rows(seen.sample.live, request.num_components, "x")
    origin, controls = settle(request, family, data.dtype, seen)
    if seen.missing:
        family = incomplete.with_missing(family)
    task = Task(data.rows(family, origin, seen), family, origin.dtype, controls)
    number, start, accelerated = request.num_components, request.start, bool(request.acceleration)
    sizes = num_starts(request), number, data.dim
    if found is None:
        initial = start if isinstance(start, Mixture) else sampled(begin, seen.sample)
        objective = options.previous_objective
        place = started(initial, family, number, origin, accelerated, objective)
        place = place._replace(state=data.agreed(place.state))
    else:
        place = resumed(*found, family, sizes, accelerated)
    kept = ({name: np.asarray(getattr(seen, name)) for name in KEPT}, {"settings": settings})
    path = path if data.writes else None
    recorder = Recorder(path, *kept, options.on_progress, seen.num_rows, options.max_steps)
    place = run_steps(task, place, options.max_steps, recorder)
    return Ran(*conclude(task, place), controls, origin)


def data_of(request: "Request", mesh: Mesh | None) -> Streams | OnMesh:
    """The data of a request: a source, or the rows of this process on a mesh."""
    if mesh is not None:
        return OnMesh(request.x, request.sample_weight, mesh)
    source = as_source(request.x)
    if source is None:
        source = ArraySource(checks.points_or_nan(request.x, "x")[0])
    return Streams(source, chunks.place_of_weights(request.sample_weight))


KEPT = ("num_rows", "total_weight", "mean", "low", "high", "marks", "missing")  # of a survey


def seen_before(arrays: dict[str, np.ndarray]) -> Survey:
    """The survey of a checkpoint, without its sample."""
    empty = np.zeros(0)
    sample = Sample(empty, empty, empty, None)
    number, total, *rest = (arrays[name] for name in KEPT)
    mean, low, high, marks, missing = rest
    return Survey(int(number), float(total), mean, low, high, marks, bool(missing), sample)


def settings_of(
    key: Key[Array, ""], request: "Request", family: ExponentialFamily, data: Streams | OnMesh
) -> dict[str, Any]:
    """What a checkpoint has to share with the fit that it resumes; max_steps may differ."""
    names = (
        "num_components", "num_restarts", "start", "regularization", "prior", "tolerance",
        "acceleration",
    )  # fmt: skip

    return {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "family": repr(family),
        **{name: checkpoint.describe(getattr(request, name)) for name in names},
        "columns": data.dim,
        "dtype": str(jax.dtypes.canonicalize_dtype(data.dtype)),
        **data.layout,
    }


def num_starts(request: "Request") -> int:
    """R: the restarts, or the number of initial mixtures."""
    if not isinstance(request.start, Mixture):
        return request.num_restarts
    return 1 if request.start.log_weights.ndim == 1 else request.start.log_weights.shape[0]


def settle(
    request: "Request", family: ExponentialFamily, dtype: Any, seen: Survey
) -> tuple[np.ndarray, Controls]:
    """The origin and the settings; refuses or warns about constant columns."""
    inputs.check_range(family, np.stack([seen.low, seen.high]), request.regularization)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    origin = np.asarray(family.centre(seen.mean), dtype)
    controls = inputs.check_controls(
        family, request.regularization, request.prior, request.num_components,
        origin.astype(np.float64), request.tolerance, seen.total_weight,
    )  # fmt: skip
    return origin, controls


def sampled(begin: Callable[..., Mixture], sample: Sample) -> Mixture:
    """The initial mixtures of a sample, without warnings about the sample."""
    lost = np.flatnonzero(np.isnan(sample.live).all(0)).tolist()
    if lost:
        raise ValueError(
            f"x: expected an observed value in every column of the {len(sample.live):,} rows drawn "
            f"for the starts, got none in columns {lost}; give `start` a mixture, or drop them"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return begin(sample.x, sample.weight)


def run_steps(task: Task, place: Place, max_steps: int, recorder: Recorder) -> Place:
    """Steps until no restart is running or `max_steps`."""
    recorder.begin(place)
    while (place.state.outcome == Outcome.RUNNING).any() and place.state.step < max_steps:
        place = one_step(task, place, recorder.after_chunk)
        recorder.after_step(place)
    return place


def one_step(task: Task, place: Place, after_chunk: Callable[[Place], None]) -> Place:
    """One pass and its M-step; a second pass if the fast path was not precise enough.

    As in `loop.step`, the fast path has to be safe for the mixtures before and after the step.
    """
    rows, family, dtype, controls = task
    state = place.state
    running = state.outcome == Outcome.RUNNING
    parameters = narrow(state.parameters, dtype)

    def is_safe(parameters: MixtureParameters) -> bool:
        return bool((np.asarray(safe(family, parameters)) | ~running).all())

    exact = place.exact or not is_safe(parameters)
    place = place._replace(exact=exact)
    summary, log_likelihood = rows.sums(
        parameters, exact, place.total, place.first,
        lambda total, first: after_chunk(place._replace(total=total, first=first)),
    )  # fmt: skip
    with wide():
        decided = _decide(family, summary, log_likelihood, state, controls, np.bool_(exact))
        new, state, value = jax.tree.map(np.asarray, decided)
    if not exact and not is_safe(narrow(new, dtype)):
        again = Place(place.state, place.trace, exact=True)
        return one_step(task, again, after_chunk)
    return Place(state, np.concatenate([place.trace, value[:, None]], 1))


def conclude(task: Task, place: Place) -> tuple[State, np.ndarray, Conclusion]:
    """The result of `loop.run`, with an evaluation of the best restart."""
    rows, family, dtype, controls = task
    state = jax.tree.map(np.asarray, loop.measured(place.state))
    failed = state.outcome >= Outcome.DEGENERATE
    best = int(np.argmax(np.where(failed & ~failed.all(), -np.inf, state.objective)))
    chosen = jax.tree.map(lambda leaf: leaf[best], state.parameters)
    evaluation = rows.evaluate(narrow(chosen, dtype))
    value: Any = evaluation.log_likelihood / controls.total_weight
    if controls.settings[1:] != (None, None):  # a prior
        with wide():
            value = _objective(family, chosen, np.float64(evaluation.log_likelihood), controls)
    outcome = np.where(state.outcome == Outcome.RUNNING, np.int32(Outcome.MAX_STEPS), state.outcome)
    end = Conclusion(best, narrow(chosen, dtype), evaluation, np.asarray(value), None)  # type: ignore[arg-type]
    return state._replace(outcome=outcome), place.trace, end


@over_data(0)
def _decide(
    family: ExponentialFamily, summary: Any, log_likelihood: Array, state: State,
    controls: Controls, exact: Array,
) -> tuple[MixtureParameters, State, Array]:  # fmt: skip
    """The new parameters, the state after the step, and the objective before it."""
    new = m_step(family, summary, state.parameters, controls.settings)
    value = jax.vmap(lambda p, v: loop.objective(family, p, v, controls))(
        state.parameters, log_likelihood
    )
    return (new, *loop.accept(family, controls, state, new, value, exact))


@over_data(0)
def _objective(
    family: ExponentialFamily, parameters: MixtureParameters, log_likelihood: Array,
    controls: Controls,
) -> Array:  # fmt: skip
    return loop.objective(family, parameters, log_likelihood, controls)
