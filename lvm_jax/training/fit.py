"""Train a model and a guide: the entry point."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lvm_jax import parallel
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax._core.pairs import Pair
from lvm_jax.gradients.base import Estimator, Surrogate
from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model
from lvm_jax.training.batches import DEVICE_BYTES, BatchSource, DeviceBatches, HostBatches
from lvm_jax.training.fingerprint import fingerprint, together
from lvm_jax.training.given import check_data, prepare
from lvm_jax.training.log import TrainingLog
from lvm_jax.training.objective import Objective
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
from lvm_jax.training.store import Store
from lvm_jax.typing import Array, Key, Params

HOST = "an estimator of lvm_jax.gradients with jax.grad and an optimiser of Optax"


def fit(
    key: Key[Array, ""],
    model: Model | Pair,
    guide: Guide | Params,
    x: Any,  # ArrayLike, or a data frame
    *,
    estimate: Surrogate | Estimator | Objective | str,
    num_samples: int,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_epochs: int,
    transform: Transform | None = None,
    validation: Validation | Any = None,  # the options, or the data alone
    checkpoints: Checkpoints | str | Path | None = None,
    placement: Placement = Placement(),  # noqa: B008
    on_progress: Callable[[Progress], None] | None = None,
    throw: bool = True,
) -> Fit:
    """Maximise a bound on sum_n log p(x_n; theta) in theta and phi by stochastic gradients.

        fit(key, model, guide, x, ...)    new parameters of the model and of the guide
        fit(key, pair, params, x, ...)    pair(params) = (p, q), from the given parameters

    A pair is a pure function; p and q may share parameters. `Separate(model, guide)` is the pair of
    a model and a guide.

    Each step takes the next `batch_size` rows of the epoch's permutation, from fold_in(key, epoch).
    An epoch drops the last N mod batch_size rows of its permutation. The gradient is the mean of
    `jax.grad(estimate)` over the rows, negated for the optimiser. The steps run in one compiled
    loop. Rows on the device and rows from the host give the same numbers.

    A call compiles one program for the steps and one for the validation. Later calls reuse them
    with another key, schedule length, directory or N (rows are padded to few sizes, which changes
    no result) and with equal functions. Functions are equal if their code and the values that they
    close over are equal: `optax.adam(1e-3)` made twice, or a model from the same factory with the
    same arguments. Compared by identity are objects that Python does not compare by value
    (`optax.MultiSteps`, instances of your own classes), functions wrapped by `jax.jit` or
    `lru_cache`, and arrays of more than 1 MiB in a closure: pass the same object to each call.

    A run with `checkpoints` can be killed at any moment: the same call resumes from the newest
    checkpoint and ends with the same bits. The directory holds checkpoints/, metrics.jsonl (a line
    for each epoch), and tensorboard/ if tensorboardX or PyTorch is installed. Ctrl-C saves first.

    Args:
        key: a typed PRNG key.
        model: p(x, z; theta), or a pair.
        guide: q(z | x; phi), amortised or shared. For a pair, its initial parameters (any pytree),
            or None for new ones of a pair that has a model and a guide (`vae.build`).
        x: data, [N, ...]. Each of several processes passes its own rows, an equal number on each.
            float64 is kept if x64 is on. All other leaves become float32, also integers:
            a model converts a label back, x["label"].astype(int).
        estimate: a gradient estimator, such as `gradients.sticking_the_landing()`, or its name or
            row in `gradients.ESTIMATORS`; or a modified objective (`kl_warmup`, `free_bits`), whose
            true bound is reported too.
        num_samples: draws of z for each data point and step.
        optimizer: an Optax optimiser, with its schedule, clipping and other transformations. Its
            params are `Parameters(theta, phi)`. It receives value, gradient and function of the
            minibatch's loss. The result of `with_ema` and `schedule_free` is the average.
        batch_size: rows a step, over all processes and devices.
        num_epochs: passes over the data. A finished run can be called again with more.
        transform: (key, x) -> x, a new random version of one data point at each use, such as a
            dynamic binarisation. Every validation uses the same noise.
        validation: held-out data, [M, ...], or `Validation(x, every, patience)`.
        checkpoints: the directory of the run, or `Checkpoints(directory, save_every, ...)`.
        placement: `Placement(mesh, on_device, steps_per_call)`. The first of several processes
            writes the checkpoints and all read them, from a shared directory; Ctrl-C in one of
            them stops all.
        on_progress: called with a `Progress` after every compiled call.
        throw: raise if the run diverges or is interrupted; False returns the outcome only.

    Returns:
        A `Fit`.

    Raises:
        ValueError, TypeError: for invalid arguments and data outside the model's support, before
            compilation, and for a directory whose run had other settings.
        FloatingPointError: if a bound, the validation bound or a parameter is not finite; it names
            the step, the parameters, and the last good checkpoint.
        CheckpointError (an OSError): if a checkpoint cannot be written, or none can be read.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.

    Source: Kingma and Welling 2014, algorithm 1; Burda et al. 2016, section 3.
    """
    validation, checkpoints = as_validation(validation), as_checkpoints(checkpoints)
    held = None if validation is None else validation.x
    checks.host("training.fit", HOST, key, x, held, guide)
    checks.key(key)
    mesh = placement.mesh
    program, start, x = prepare(
        model, guide, x, estimate, num_samples, optimizer, batch_size, transform, mesh
    )
    if held is not None:
        held = check_data(program, start, held, "validation")
    key_values = Keys(*split(key, len(Keys._fields)))
    num_epochs = checks.integer(num_epochs, "num_epochs", 0)
    batches = make_batches(program, key_values, x, placement.on_device, num_epochs)
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
    store: Store | None = None
    if checkpoints is not None:
        store = Store(Path(checkpoints.directory) / "checkpoints", checkpoints.keep, mesh)
        options = {"config": checkpoints.config, "patience": plan.patience}
        options["validate_every"] = plan.validate_every
        marks = fingerprint(program, key, state, x, held, options)
        if spread:  # each process has its own rows
            marks["x"] = together(mesh, marks["x"])
        facts = {"fingerprint": json.loads(json.dumps(marks))}
    rows = None if held is None else validation_rows(held, batch_size, mesh)
    session = Session(
        program, key_values, batches, plan, state, TrainingLog(batches.steps_per_epoch), rows,
        store, None, facts,
        length=plan.steps_per_call if spread else min(FIRST, plan.steps_per_call),
    )  # fmt: skip
    return conclude(session, None if checkpoints is None else checkpoints.directory, throw)


def conclude(session: Session, directory: str | Path | None, throw: bool) -> Fit:
    """Run a session from its newest checkpoint to its end, and return the result."""
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
    num_epochs: int,
) -> BatchSource:
    """The data source: the device, or the host for large data, memory maps or many processes."""
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
        return DeviceBatches(program, keys, x)
    # np.asarray would turn a memory map into an array.
    rows = jax.tree.map(lambda leaf: leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf), x)
    return HostBatches(program, keys, rows, num_epochs)
