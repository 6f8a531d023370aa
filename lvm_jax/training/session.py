"""One training run: its state, its log, and the loop over compiled calls."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import jax
import numpy as np

from lvm_jax import parallel
from lvm_jax._core.outcome import Outcome
from lvm_jax.training.averaging import eval_params
from lvm_jax.training.batches import BatchSource
from lvm_jax.training.diagnosis import Failure, diagnose
from lvm_jax.training.fingerprint import differences
from lvm_jax.training.log import TrainingLog, from_arrays, to_arrays
from lvm_jax.training.options import SEGMENT
from lvm_jax.training.progress import Journal, Meter, Progress
from lvm_jax.training.rows import HeldOut
from lvm_jax.training.step import Keys, Program, State, validate
from lvm_jax.training.store import Store
from lvm_jax.typing import Params

SHORT, LONG = 1.0, 4.0  # seconds that a compiled call should take: signals and saves wait for it
FIRST = 16  # steps of the first call, before their speed is measured


@dataclass
class RunPlan:
    """The length of a run, and the intervals of validation, checkpoints and reports."""

    num_steps: int
    validate_every: int  # epochs
    patience: int | None  # validations
    save_every: float  # seconds
    steps_per_call: int
    on_progress: Callable[[Progress], None] | None


@dataclass
class Session:
    """A run in progress."""

    program: Program
    keys: Keys
    batches: BatchSource
    plan: RunPlan
    state: State
    log: TrainingLog
    validation: HeldOut | None
    store: Store | None
    journal: Journal | None
    facts: dict[str, Any]  # stored in every checkpoint: the fingerprint of the run
    length: int  # steps of the next call
    before: float = 0.0  # seconds of the run before it was resumed
    began: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.perf_counter)
    is_first: bool = True  # the first call compiles, so its time is not used
    meter: Meter = field(default_factory=Meter)
    saved_log: Any = None  # the log to save, where it differs from `log`

    @property
    def step(self) -> int:
        """Steps made."""
        return int(self.state.step)

    @property
    def seconds(self) -> float:
        """Seconds of training, over all parts of a resumed run."""
        return self.before + time.perf_counter() - self.began

    def run(self, interrupt: Event) -> tuple[Outcome, Failure | None]:
        """Run until the last step, early stopping, an interrupt or a failure."""
        while (outcome := self.verdict(interrupt)) == Outcome.RUNNING:
            failure = self.call()
            if failure is not None:
                return Outcome.DIVERGED, failure
            if time.perf_counter() - self.saved >= self.plan.save_every:
                self.save()
        self.save()
        return outcome, None

    def verdict(self, interrupt: Event) -> Outcome:
        """The outcome if the run stops here, RUNNING otherwise."""
        if self.plan.patience is not None and self.log.stale >= self.plan.patience:
            return Outcome.CONVERGED
        if self.step >= self.plan.num_steps:
            return Outcome.MAX_STEPS
        requested = interrupt.is_set()
        if self.store is not None:  # all processes must stop together
            requested = parallel.from_every_process(self.program.mesh, requested).any()
        return Outcome.INTERRUPTED if requested else Outcome.RUNNING

    def call(self) -> Failure | None:
        """Make one compiled call, then update the log, the validation and the reports."""
        if self.store is not None:
            self.store.check()
        start, first, clock = self.state, self.step, time.perf_counter()
        run = jax.block_until_ready(self.batches.advance(start, self.stop(first)))
        if not bool(run.healthy):
            broken = diagnose(self.program, self.keys, self.batches, start, run)
            self.state = broken.state
            return broken
        self.state = run.state
        made = self.step - first
        self.adapt(made, time.perf_counter() - clock)
        self.meter.add(made * self.program.batch_size)
        trace = jax.tree.map(lambda rows: np.asarray(rows, np.float64)[:made], run.trace)
        ended = self.log.add(first, trace, self.seconds)
        failure: Failure | None = None
        if ended and self.validation is not None and self.is_due(self.step):
            failure = self.validate()
        self.write_epochs(ended)
        if self.plan.on_progress is not None:
            self.plan.on_progress(self.report(trace.bound.mean(), trace.objective.mean()))
        return failure

    def stop(self, step: int) -> int:
        """The last step of the call that begins at `step`."""
        ends = [self.plan.num_steps, self.batches.furthest(step), step + self.length]
        if self.validation is not None:
            every = self.batches.steps_per_epoch * self.plan.validate_every
            ends.append((step // every + 1) * every)
        return min(ends)

    def is_regular(self, step: int) -> bool:
        """Whether a validation follows this step, however long the run is."""
        return step % (self.batches.steps_per_epoch * self.plan.validate_every) == 0

    def is_due(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return self.is_regular(step) or step == self.plan.num_steps

    def adapt(self, made: int, seconds: float) -> None:
        """Adapt the length of the calls, so that each takes about a second.

        A call computes its epoch's permutation again, so short calls are slow. The length changes
        no result. It is constant with several processes, whose clocks differ.
        """
        if parallel.num_processes(self.program.mesh) > 1:
            return
        compiled, self.is_first = self.is_first, False
        if compiled:
            return
        if seconds < SHORT:
            longer = max(2 * self.length, int(made * SHORT / seconds))
            self.length = min(longer, self.plan.steps_per_call, SEGMENT)
        elif seconds > LONG:
            self.length = max(self.length // 2, 1)

    def evaluated(self) -> Params:
        """The parameters to evaluate: the averages where there are any."""
        return eval_params(self.state.parameters, self.state.optimizer)

    def validate(self) -> Failure | None:
        """Measure the validation bound and keep the best parameters; a Failure if it is not finite.

        A validation at the end of a run, between two regular ones, is not saved: a longer run does
        not make it.
        """
        if not self.is_regular(self.step):
            self.saved_log = self.log.save()
        parameters = self.evaluated()
        bound = float(
            validate(self.program, self.keys, parameters, self.validation, self.state.step)
        )
        self.log.validate(self.step, bound, parameters)
        if np.isfinite(bound):
            return None
        row = self.log.rows[-1]
        return Failure(self.step - 1, row[1], (), self.state, validation_bound=bound)

    def write_epochs(self, ended: int) -> None:
        """Write one line for each of the last `ended` epochs."""
        if self.journal is None or not ended:
            return
        history, speed = self.log.history(), self.meter.speed()
        for row in range(len(history.step) - ended, len(history.step)):
            line = {name: column[row].item() for name, column in history._asdict().items()}
            if self.validation is None:
                del line["validation_bound"]
            self.journal.write({"epoch": row + 1, **line, "samples_per_second": speed})

    def report(self, bound: float, objective: float) -> Progress:
        """The progress of the run."""
        values = [row[3] for row in self.log.rows if row[3] == row[3]]
        speed = self.meter.speed()
        return Progress(
            step=self.step,
            num_steps=self.plan.num_steps,
            epoch=len(self.log.rows),
            bound=float(bound),
            objective=float(objective),
            validation_bound=values[-1] if values else None,
            samples_per_second=speed,
            seconds_left=(self.plan.num_steps - self.step) * self.program.batch_size / speed,
        )

    def save(self) -> None:
        """Begin to write a checkpoint; do nothing without a directory."""
        if self.store is None:
            return
        arrays, account = self.saved_log or self.log.save()
        arrays |= to_arrays("state", self.state)
        facts = {**self.facts, **account, "step": self.step, "epoch": len(self.log.rows)}
        self.store.save(self.step, arrays, {**facts, "seconds": self.seconds})
        self.saved = time.perf_counter()

    def resume(self) -> None:
        """Load the newest good checkpoint, if there is one.

        Raises ValueError naming the settings that differ if it belongs to another run.
        """
        found = self.store.latest() if self.store is not None else None
        if found is None:
            return
        path, arrays, facts = found
        changed = differences(facts["fingerprint"], self.facts["fingerprint"])
        if changed:
            raise ValueError(
                f"checkpoints: {path} is of a run with other settings ({'; '.join(changed)}); "
                "choose another directory, or use those settings"
            )
        state = from_arrays("state", self.state, arrays)
        self.state = parallel.replicate(self.program.mesh, state)
        self.log.load(arrays, facts, self.state.parameters)
        self.before = facts["seconds"]
        at_the_end = self.step == self.plan.num_steps and not self.is_regular(self.step)
        if at_the_end and self.validation is not None and self.step:
            self.validate()

    def close(self) -> None:
        """Stop the threads that read and write, and close the journal."""
        self.batches.close()
        if self.journal is not None:
            self.journal.close()
        if self.store is not None:
            self.store.close()
