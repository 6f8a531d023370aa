"""Runs in processes whose number of devices is forced, for test_parallel.py; prints JSON.

python parallel_worker.py devices            eight devices, one process
python parallel_worker.py process I PORT DIR process I of two, each with two devices and half the rows
python parallel_worker.py lost I PORT DIR    one of two that fit, of which the second is killed in step 3
"""

import errno
import json
import os
import shutil
import signal
import sys

import jax
import numpy as np
import quick

from lvm_jax import em, parallel, training
from lvm_jax.training import Checkpoints, Placement, checkpoint

OPTIONS = {"batch_size": 8, "num_epochs": 2, "num_samples": 3}
STEPS = {"max_steps": 5, "tolerance": 0.0, "throw": False}
OF_TWO = [0, 2, 4]  # cases of `mixtures` that two processes fit
NOT_OF_TWO = [1, 3]


def mixtures(x, *devices, places=range(5)):
    """A fit of each path on each mesh: fast (one all-reduce), exact (tight clusters), and both with
    missing entries, which only some of the rows of two processes have."""
    counts = np.floor(np.abs(3 * x))
    tight = (np.sign(x[:, :1]) * 1000 + 0.002 * x).astype(np.float32)
    holes = np.where(x[:, :1] > 3, np.float32([[0, np.nan]]), 0) + x
    cases = [(x, 3, "full"), (counts, 2, em.Poisson()), (tight, 2, "diag")]
    cases += [(holes, 2, "diag"), (holes, 2, "full")]
    settings = {**STEPS, "regularization": 0.0}
    return [
        [
            mixture(em.fit(jax.random.key(0), *cases[place], mesh=mesh, **settings))
            for place in places
        ]
        for mesh in devices
    ]


def mixture(fit):
    leaves = [np.asarray(leaf).tolist() for leaf in (fit.mixture.means, fit.mixture.weights)]
    return [leaves, fit.info.trace.tolist(), fit.info.log_likelihood, fit.info.exact_steps]


def numbers(found):
    leaves = jax.tree.leaves(found.params)
    return {
        "parameters": np.concatenate([np.asarray(leaf).ravel() for leaf in leaves]).tolist(),
        "bound": found.history.bound.tolist(),
        "validation_bound": found.history.validation_bound.tolist(),
    }


def options_of_devices():
    from training_cases import OPTIMIZER, data

    average = training.with_ema(OPTIMIZER, 0.9)
    return OPTIONS | {"validation": data(21, seed=2), "optimizer": average}


def devices():
    from training_cases import fit

    options = options_of_devices()
    eight, two = parallel.data_mesh(), parallel.data_mesh(jax.devices()[:2])
    found = {
        "eight": numbers(fit(**options, placement=Placement(eight))),
        "two, fed": numbers(fit(**options, placement=Placement(two, on_device=False))),
    }
    # Four devices in two processes have the other cases.
    found["eight, mixtures"] = mixtures(rows_of_a_mixture(), eight)[0]
    found["two, mixtures"] = mixtures(rows_of_a_mixture(), two, places=NOT_OF_TWO)[0]
    rows = parallel.rows_to_global(eight, np.arange(32.0).reshape(16, 2))
    batch = jax.jit(lambda x: parallel.constrain(eight, 1 * x))(np.zeros((16, 2)))
    copy = parallel.replicate(eight, {"w": np.ones(3)})["w"]
    found["shards"] = [
        [list(shard.data.shape) for shard in array.addressable_shards]
        for array in (rows, batch, copy)
    ]
    return found


def rows_of_a_mixture():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(101, 2)) + 3 * rng.integers(2, size=(101, 1))).astype(np.float32)


def refused(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except ValueError as error:
        return str(error)


def mixtures_of_two(index, mesh, folder):
    """Fits in two processes, one of which is interrupted in both and resumed."""
    x, whole = rows_of_a_mixture(), parallel.data_mesh()
    own, path = (x[:40], x[40:])[index], f"{folder}/mixture.npz"
    found = {"mesh": mixtures(own, mesh, places=OF_TWO)[0]}
    options, seen = {**STEPS, "mesh": mesh}, []

    def note(progress):
        seen.append(progress["step"])

    def stop(progress):
        if progress["step"] == 3:
            raise KeyboardInterrupt

    def fit(rows=own, **more):
        return em.fit(jax.random.key(0), rows, 3, **{**options, **more})

    try:
        fit(checkpoint=path, on_progress=stop)
    except KeyboardInterrupt:
        again = fit(checkpoint=path, on_progress=note)
        found |= {"resumed": mixture(again), "whole": mixture(fit()), "seen": seen}
    bad = own if index == 0 else np.full_like(own, np.inf)
    path = f"{folder}/lost.npz"  # of processes of which one was killed
    shutil.copy(path, f"{folder}/{index}.npz")
    fewer = fit(x, mesh=whole, checkpoint=f"{folder}/{index}.npz", on_progress=note)
    found["on fewer devices"] = mixture(fewer)
    found["after a loss"] = mixture(fit(checkpoint=path, on_progress=note))
    found["refused"] = [
        refused(fit, bad), refused(fit, own[:, : 2 - index]), refused(fit, own + 1, checkpoint=path)
    ]  # fmt: skip
    return found


def lost(index, port, folder):
    """A fit of which process 1 is killed in the pass of step 3."""
    mesh = joined(index, port, heartbeat_timeout_seconds=20)  # the other one ends so much later
    x = rows_of_a_mixture()

    def die(progress):
        if index == 1 and progress["step"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    em.fit(
        jax.random.key(0), (x[:40], x[40:])[index], 3, mesh=mesh, on_progress=die,
        checkpoint=f"{folder}/lost.npz", **STEPS,
    )  # fmt: skip


def joined(index, port, **options):
    """The mesh of the devices of both processes."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, index, **options)
    return parallel.data_mesh(jax.devices())


def full_disk(path, *_):
    raise checkpoint.CheckpointError(errno.ENOSPC, "No space left on device", str(path))


def process(index, port, folder):
    mesh = joined(index, port)
    from training_cases import data, fit  # these make arrays, which only now may be made

    assert (mesh.size, parallel.num_processes(mesh)) == (4, 2)
    own = data(40)[index::2]
    options = {**OPTIONS, "placement": Placement(mesh), "validation": data(21, seed=2)}
    found = numbers(fit(own, **options))

    def interrupt(progress):
        if index == 1 and progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    options["placement"] = Placement(mesh, steps_per_call=2)
    stopped = fit(own, **options, checkpoints=folder, on_progress=interrupt, throw=False)
    found["stopped"] = [stopped.outcome.name, stopped.step]
    found["resumed"] = numbers(fit(own, **options, checkpoints=folder))
    try:
        fit(own + index, **options, checkpoints=folder)
    except ValueError as error:
        found["refused"] = str(error)
    if index == 0:
        checkpoint.write = full_disk
    try:
        fit(own, **options, checkpoints=Checkpoints(folder + "-full", save_every=0))
    except checkpoint.CheckpointError as error:
        found["full"] = str(error)
    found["steps"] = 2 * (len(own) // 4)
    found["mixtures"] = mixtures_of_two(index, mesh, folder)
    return found


if __name__ == "__main__":
    quick.install()
    way, *rest = sys.argv[1:]
    ways = {"devices": devices, "process": process, "lost": lost}
    found = ways[way](*map(int, rest[:2]), *rest[2:])
    print(json.dumps(found))  # noqa: T201
