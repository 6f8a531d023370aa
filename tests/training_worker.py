"""A small run in a process of its own, which test_training_kill.py ends in many ways.

    python training_worker.py DIRECTORY [renaming|renamed|small_files]...

renaming and renamed: SIGKILL at the fourth save of this process, just before and just after the rename
that commits it. small_files: the run is tried once where no file may grow beyond 1,500 bytes, as on a
full disk; its error goes to stderr, and the run continues when files may grow again.
"""

import os
import pathlib
import resource
import signal
import sys

from test_training_checkpoint import OPTIONS
from training_cases import fit

from lvm_jax import training

NUM_EPOCHS = 15


def kill_at_a_rename(after):
    rename, count = pathlib.Path.rename, 0

    def counted(self, target):
        nonlocal count
        count += 1
        if count == 4 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = rename(self, target)
        if count == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    pathlib.Path.rename = counted


def run(directory):
    options = OPTIONS | {"num_epochs": NUM_EPOCHS}
    fit(
        **options,
        checkpoints=training.Checkpoints(directory, save_every=0.0),
        placement=training.Placement(steps_per_call=3),
    )


def run_on_a_full_disk(directory):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        run(directory)
    except training.CheckpointError as error:
        sys.stderr.write(f"CheckpointError: {error}\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def main(directory, *ways):
    if "small_files" in ways:
        run_on_a_full_disk(directory)
    for way in ("renaming", "renamed"):
        if way in ways:
            kill_at_a_rename(after=way == "renamed")
    try:
        run(directory)
    except KeyboardInterrupt as error:
        sys.stderr.write(str(error))
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
