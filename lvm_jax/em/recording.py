"""The place of a streamed fit, its checkpoints and its progress."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core.outcome import Outcome
from lvm_jax.em import checkpoint, inputs, loop, padding, squarem
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.passes import chunk_sums, wide
from lvm_jax.em.state import State
from lvm_jax.em.statistics import Data, MixtureParameters

SAVE_SECONDS, PROGRESS_SECONDS = 60.0, 1.0  # within a pass


class Place(NamedTuple):
    """The position of a fit: all that a checkpoint keeps."""

    state: State  # in float64
    trace: np.ndarray  # [R, steps]
    exact: bool = False  # whether this pass uses the exact path
    total: Any = None  # the sums of the rows before `first` in this pass
    first: int = 0


class Recorder:
    """Checkpoints and progress."""

    def __init__(
        self,
        path: Path | None,
        arrays: dict[str, np.ndarray],
        facts: dict[str, Any],
        on_progress: Callable[[dict[str, Any]], None] | None,
        num_rows: int,
        max_steps: int,
    ) -> None:
        self.path, self.arrays, self.facts = path, arrays, facts
        self.on_progress, self.num_rows, self.max_steps = on_progress, num_rows, max_steps
        self.saved = self.told = self.began = time.perf_counter()
        self.rows_before: int | None = None  # rows read before this process

    def after_chunk(self, place: Place) -> None:
        """Save and report within a pass, if enough time has passed."""
        now = time.perf_counter()
        if place.first < self.num_rows and now - self.saved > SAVE_SECONDS:
            self.save(place)
        if place.first < self.num_rows and now - self.told > PROGRESS_SECONDS:
            self.report(place)

    def after_step(self, place: Place) -> None:
        """Save and report a step."""
        self.save(place)
        self.report(place)

    def begin(self, place: Place) -> None:
        """The time and the position at which this process begins."""
        self.began = time.perf_counter()
        self.rows_before = int(place.state.step) * self.num_rows + place.first

    def save(self, place: Place) -> None:
        """Replace the checkpoint."""
        self.saved = time.perf_counter()
        if self.path is None:
            return
        leaves = {
            f"{name}_{index}": np.asarray(leaf)
            for name, tree in (("state", place.state), ("total", place.total))
            for index, leaf in enumerate(jax.tree.leaves(tree))
        }
        facts = {**self.facts, "exact": place.exact, "first": place.first}
        checkpoint.save(self.path, {**self.arrays, **leaves, "trace": place.trace}, facts)

    def report(self, place: Place) -> None:
        """Call on_progress."""
        self.told = time.perf_counter()
        if self.on_progress is None:
            return
        done = int(place.state.step) * self.num_rows + place.first
        speed = (done - (self.rows_before or 0)) / max(self.told - self.began, 1e-9)
        left = (self.max_steps + 1) * self.num_rows - done  # one pass is the evaluation
        self.on_progress({
            "step": int(place.state.step),
            "objective": float(np.max(place.state.objective)),
            "running": int((place.state.outcome == Outcome.RUNNING).sum()),
            "rows": place.first,
            "rows_per_second": speed,
            "seconds_left": left / speed if speed > 0 else float("inf"),
        })  # fmt: skip


def started(
    initial: Mixture, family: ExponentialFamily, num_components: int, origin: np.ndarray,
    accelerated: bool, previous_objective: float = -np.inf,
) -> Place:  # fmt: skip
    """The place before the first step, from the initial mixtures."""
    wide_origin = origin.astype(np.float64)
    given, shift = inputs.check_initial(initial, family.original, num_components, wide_origin)
    number = given.log_weights.shape[0]
    with wide():
        parameters = jax.tree.map(np.asarray, loop.translated(family, given, shift))
    state = blank_state(parameters, number, accelerated, previous_objective)
    return Place(state, np.zeros((number, 0)))


def blank_state(
    parameters: MixtureParameters,
    number: int,
    accelerated: bool,
    previous_objective: float = -np.inf,
) -> State:
    """The state of R restarts before the first step."""
    zeros = np.zeros(number, np.int32)
    objective = np.full(number, previous_objective)
    cycle = squarem.start(parameters) if accelerated else None
    running = np.full(number, Outcome.RUNNING, np.int32)  # as after a step: one program
    return State(parameters, objective, running, zeros, np.int32(0), np.int32(0), cycle)


def resumed(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], family: ExponentialFamily,
    sizes: tuple[int, int, int], accelerated: bool,
) -> Place:  # fmt: skip
    """The place of a checkpoint; `sizes` are R, K and D."""
    blank = padding.blank(family, *sizes, np.float64)
    state = jax.tree.structure(blank_state(blank, sizes[0], accelerated))
    place = Place(
        _read(arrays, "state", state), arrays["trace"], facts["exact"], None, facts["first"]
    )
    if not place.first:
        return place
    with wide():
        row = np.zeros((1, sizes[2]))
        leaves: Any = (row, None, row[0])
        sums = jax.eval_shape(
            lambda p, data: chunk_sums.function(family, 1, facts["exact"], p, data),
            blank,
            Data(*leaves),
        )
    return place._replace(total=_read(arrays, "total", jax.tree.structure(sums)))


def _read(arrays: dict[str, np.ndarray], name: str, structure: Any) -> Any:
    leaves = [arrays[f"{name}_{index}"] for index in range(structure.num_leaves)]
    return jax.tree.unflatten(structure, leaves)
