"""Diagnosis of a diverged run: the step, and the parameters or gradients that are not finite.

A diverged call is repeated from its start, with the same bits, to find the first bad step.
"""

from typing import NamedTuple

import jax
import numpy as np

from lvm_jax._core.inputs import name_of
from lvm_jax.compiling import bounded_jit
from lvm_jax.training.batches import BatchSource
from lvm_jax.training.step import Keys, Program, Run, State, descend
from lvm_jax.typing import Array, Params

MOST_NAMES = 4  # leaves named in a message


class Failure(NamedTuple):
    """The first bad step, and the state before it."""

    step: int  # the bad step, counted from 0
    bound: float
    leaves: tuple[str, ...]  # e.g. "gradient of theta.decoder"
    state: State  # before that step: its parameters are finite
    largest: str = ""  # the largest gradient, where all are finite
    validation_bound: float | None = None  # where it is not finite, after the step

    def __str__(self) -> str:
        named = ", ".join(self.leaves[:MOST_NAMES])
        more = len(self.leaves) - MOST_NAMES
        named += f" and {more} more" if more > 0 else ""
        what = f"not finite: {named}" if named else f"all gradients are finite, {self.largest}"
        if self.validation_bound is not None:
            what = f"validation bound {self.validation_bound:g}"
        return f"training diverged at step {self.step}: bound {self.bound:g}, {what}"


def diagnose(program: Program, keys: Keys, batches: BatchSource, start: State, run: Run) -> Failure:
    """The first bad step of an unhealthy run that began at `start`."""
    first, last = int(start.step), int(run.state.step) - 1  # one of these steps is bad
    good = start
    while first < last:  # bisection
        middle = (first + last) // 2
        probe = batches.advance(start, middle + 1)
        if bool(probe.healthy):
            first, good = middle + 1, probe.state
        else:
            last = middle
    bound = float(np.asarray(run.trace.bound)[first - int(start.step)])
    gradient, after = _look(program, keys, good, batches.batch(first))
    leaves = broken("gradient of ", gradient) or broken("", after)
    return Failure(first, bound, leaves, good, "" if leaves else largest(gradient))


def largest(gradient: Params) -> str:
    """The leaf of the gradient with the largest norm, and the norm."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    norms = [float(np.linalg.norm(np.asarray(leaf).ravel())) for _, leaf in leaves]
    norm, path = max(zip(norms, [name_of(path) for path, _ in leaves], strict=True))
    return f"the largest that of {path} (norm {norm:.2g})"


def broken(prefix: str, parameters: Params) -> tuple[str, ...]:
    """The names of the leaves that are not finite, such as theta.decoder[0]."""
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    return tuple(
        prefix + name_of(path) for path, leaf in leaves if not np.isfinite(np.asarray(leaf)).all()
    )


@bounded_jit(0)
def _look(program: Program, keys: Keys, state: State, batch: Array) -> tuple[Params, Params]:
    """The gradient of a step, and the optimiser's updates."""
    return descend(program, keys.noise, state, batch)[:2]
