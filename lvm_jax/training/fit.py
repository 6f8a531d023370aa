"""Train a model and a guide: the entry point."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from lvm_jax import parallel
from lvm_jax._core import checks
from lvm_jax._core.pairs import Pair, as_pair
from lvm_jax._core.recognition import recognized
from lvm_jax.gradients.base import Estimator, Surrogate, find_estimate
from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model
from lvm_jax.training.batches import DEVICE_BYTES, BatchSource, DeviceBatches, HostBatches
from lvm_jax.training.checkpoint import Store
from lvm_jax.training.fingerprint import fingerprint, together
from lvm_jax.training.given import check_data, check_program
from lvm_jax.training.log import TrainingLog
from lvm_jax.training.objective import Objective, check_objective
from lvm_jax.training.options import (
    Checkpoints,
    Placement,
    Validation,
    as_checkpoints,
    as_validation,
)
from lvm_jax.training.progress import Journal, Progress, interruptible
from lvm_jax.training.result import Fit, report, result
from lvm_jax.training.rows import validation_rows
from lvm_jax.training.session import FIRST, RunPlan, Session
from lvm_jax.training.step import Keys, Program, Transform, initialize
from lvm_jax.typing import Array, Key, Params

HOST = "an estimator of lvm_jax.gradients with jax.grad and an optimiser of Optax"


def fit(
    key: Key[Array, ""],
    model: Model | Pair,
    guide: Guide | Params,
    x: Any,  # ArrayLike, or a data frame
    *,
    estimate: Surrogate | Estimator | str | None = None,
    objective: Objective | None = None,
    num_samples: int,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_epochs: int,
    transform: Transform | None = None,
    ema: float | None = None,
    worst_bound: float = -np.inf,
    validation: Validation | Any = None,  # the options, or the data alone
    checkpoints: Checkpoints | str | Path | None = None,
    placement: Placement = Placement(),  # noqa: B008
    on_progress: Callable[[Progress], None] | None = None,
    throw: bool = True,
) -> Fit:
    """Climb a bound on sum_n log p(x_n; theta) in theta and phi by stochastic gradients.

        fit(key, model, guide, x, ...)    new parameters, of each its own
        fit(key, pair, params, x, ...)    pair(params) = (p, q), from the given parameters

    A pair is a pure function; p and q may share parameters. `Separate(model, guide)` is the pair of
    a model and a guide.

    Each step takes the next `batch_size` rows of the epoch's permutation, from fold_in(key, epoch);
    the last N mod batch_size rows of the permutation are dropped, other rows in every epoch. The
    gradient is the mean of `jax.grad(estimate)` over the rows, negated for the optimiser. The
    steps run in one compiled loop, on rows that lie on the device or are fed from the host: both
    give the same numbers.

    A call compiles one program for the steps and one for the validation, and another call uses
    them again: with another key, schedule length, directory, N (rows are padded to few sizes;
    no number depends on it) and with functions that are equal. Functions are equal if their code,
    and the values that they close over, are: `optax.adam(1e-3)` made twice, or a model from the
    same factory with the same arguments. Not recognised are objects that Python itself does not
    compare by value (`optax.MultiSteps`, instances of your own classes), functions that `jax.jit`
    or `lru_cache` has wrapped, and arrays of more than 1 MiB in a closure: keep such an object and
    pass the same one to each call.

    With `checkpoints` the run can be killed at any moment: the same call goes on from its newest
    checkpoint and ends with the same bits. What it needs lies in directory/checkpoints, what a
    person reads in directory/metrics.jsonl (a line for each epoch), and events for TensorBoard in
    directory/tensorboard if tensorboardX or PyTorch is installed. Ctrl-C saves first.

    Args:
        key: a typed PRNG key.
        model: p(x, z; theta), or a pair.
        guide: q(z | x; phi), amortised or shared; of a pair the parameters to start from, any
            pytree, or None for new ones of a pair that has a model and a guide (`vae.build`).
        x: data, [N, ...]; on several processes, this process's rows alone, as many on each.
            float64 is kept if x64 is on; otherwise float32.
        estimate: a gradient estimator, such as `gradients.sticking_the_landing()`, or its name or
            row in `gradients.ESTIMATORS`.
        objective: instead of it, a modified objective (`annealed`, `free_bits`); the true bound is
            reported beside it.
        num_samples: draws of z for each data point and step.
        optimizer: any of Optax; a schedule, clipping and other transformations go into it. Its
            params are `Parameters(theta, phi)`. Value, gradient and function of the minibatch's
            loss go to those that ask (a plateau). `schedule_free` answers with its averages.
        batch_size: rows a step, over all processes and devices.
        num_epochs: passes over the data. A finished run can be called again with more.
        transform: (key, x) -> x, a fresh version of one data point whenever it is used, such as a
            dynamic binarisation. Validation uses it with noise that is always the same.
        ema: decay in (0, 1) of a moving average of the parameters.
        worst_bound: a bound below it counts as diverged, as one that is not finite does.
        validation: held-out data, [M, ...], or `Validation(x, every, patience)`.
        checkpoints: the directory of the run, or `Checkpoints(directory, save_every, ...)`.
        placement: `Placement(mesh, on_device, steps_per_call)`. Of several processes the first
            one writes the checkpoints and all read them, from a directory that they share; Ctrl-C
            in one of them stops all.
        on_progress: called with a `Progress` after every compiled call.
        throw: raise when the run diverged or was interrupted. With False the outcome is only a
            value in the result.

    Returns:
        A `Fit`.

    Raises:
        ValueError, TypeError: for bad input, before anything compiles (data off the model's
            support among it), and a directory whose run had other settings.
        FloatingPointError: where a bound, the validation's too, or a parameter stops being finite;
            it names the step, the parameters, and the last good checkpoint.
        CheckpointError (an OSError): if a checkpoint cannot be written, or none can be read.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.

    Source: Kingma and Welling 2014, algorithm 1; Burda et al. 2016, section 3.
    """
    validation, checkpoints = as_validation(validation), as_checkpoints(checkpoints)
    held = None if validation is None else validation.x
    checks.host("training.fit", HOST, key, x, held, guide)
    checks.key(key)
    pair, start = as_pair(model, guide)
    mesh = placement.mesh
    program = Program(
        pair, find_estimate(estimate), check_objective(objective), num_samples, optimizer,
        *(batch_size, transform, ema, mesh),
    )  # fmt: skip
    check_program(program)
    program = recognized(program)
    x = check_data(program, start, x, "x", parallel.rows_per_process(mesh, batch_size))
    if held is not None:
        held = check_data(program, start, held, "validation")
    key_values = Keys(*jax.random.split(key, len(Keys._fields)))
    num_epochs = checks.integer(num_epochs, "num_epochs", 0)
    batches = make_batches(program, key_values, x, placement.on_device, worst_bound, num_epochs)
    plan = RunPlan(
        num_steps=num_epochs * batches.steps_per_epoch,
        validate_every=1 if validation is None else validation.every,
        patience=None if validation is None else validation.patience,
        save_every=np.inf if checkpoints is None else checkpoints.save_every,
        steps_per_call=placement.steps_per_call,
        on_progress=on_progress,
    )
    spread = parallel.num_processes(mesh) > 1
    state = parallel.replicate(mesh, initialize(program, key_values, start))
    facts: dict[str, Any] = {}
    if checkpoints is not None:
        options = {"config": checkpoints.config, "patience": plan.patience}
        options["validate_every"] = plan.validate_every
        marks = fingerprint(program, key, state, x, held, options)
        if spread:  # each has rows of its own
            marks["x"] = together(mesh, marks["x"])
        facts = {"fingerprint": json.loads(json.dumps(marks))}
    rows = None if held is None else validation_rows(held, batch_size, mesh)
    session = Session(
        program, key_values, batches, plan, state, TrainingLog(batches.steps_per_epoch), rows,
        open_store(checkpoints, mesh), None, facts,
        length=plan.steps_per_call if spread else min(FIRST, plan.steps_per_call),
    )  # fmt: skip
    return conclude(session, None if checkpoints is None else checkpoints.directory, throw)


def conclude(session: Session, directory: str | Path | None, throw: bool) -> Fit:
    """Run a session from its newest checkpoint to its end, and turn the end into a result."""
    try:
        session.resume()
        if directory is not None and parallel.writes(session.program.mesh):
            session.journal = Journal(Path(directory), session.step)
        with interruptible(session.store is not None) as interrupt:
            outcome, failure = session.run(interrupt)
            if session.store is not None:
                session.store.wait()
    finally:
        session.close()
    if throw:
        report(session, outcome, failure, directory)
    return result(session, outcome, failure)


def make_batches(
    program: Program,
    keys: Keys,
    x: Any,
    on_device: bool | None,
    worst_bound: float,
    num_epochs: int,
) -> BatchSource:
    """The rows on the device, or from the host where they are many, mapped or spread."""
    spread = parallel.num_processes(program.mesh) > 1
    if on_device is None:
        leaves = jax.tree.leaves(x)
        mapped = any(isinstance(leaf, np.memmap) for leaf in leaves)
        on_device = not (spread or mapped or sum(leaf.nbytes for leaf in leaves) > DEVICE_BYTES)
    if on_device and spread:
        raise ValueError(
            "placement.on_device: expected False or None with several processes, got True"
        )
    if on_device:
        return DeviceBatches(program, keys, x, worst_bound)
    # A memory map stays one.
    rows = jax.tree.map(lambda leaf: leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf), x)
    return HostBatches(program, keys, rows, worst_bound, num_epochs)


def open_store(checkpoints: Checkpoints | None, mesh: Mesh | None) -> Store | None:
    """The checkpoints of a directory; None without one."""
    if checkpoints is None:
        return None
    return Store(Path(checkpoints.directory) / "checkpoints", checkpoints.keep, mesh)
