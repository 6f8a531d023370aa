"""Real processes, killed at many moments: the same command ends with the bits of a run left alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_training_checkpoint import OPTIONS, assert_is
from training_cases import fit
from training_worker import NUM_EPOCHS

from lvm_jax.training import Checkpoints, checkpoint

WORKER = Path(__file__).with_name("training_worker.py")
PATIENCE = 60  # seconds that a process may take to come to the awaited moment


def start(directory, *ways):
    # The first process compiles for all of them.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(directory.with_name("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = os.environ | cache | {"PYTHONPATH": str(WORKER.parents[1])}
    command = [sys.executable, str(WORKER), str(directory), *ways]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.001)


def end(process):
    """Exit code and output."""
    _, message = process.communicate(timeout=PATIENCE)
    return process.returncode, message


def steps(directory):
    return [int(path.name[5:]) for path in sorted((directory / "checkpoints").glob("step-*"))]


def writing(directory):
    return any((directory / "checkpoints").glob(".writing-*/arrays*"))


def test_killed_at_many_moments(tmp_path):
    directory = tmp_path / "run"

    def send(number, condition):
        process = start(directory)
        wait_for(condition, process)
        process.send_signal(number)
        return end(process)

    # While Orbax writes, some saves into the run.
    code, _ = send(signal.SIGKILL, lambda: len(steps(directory)) == 3 and writing(directory))
    assert code == -signal.SIGKILL
    reached = [max(steps(directory))]
    # On a disk that takes no more than a few bytes of a file; then just before a commit, ...
    code, message = end(start(directory, "small_files", "renaming"))
    assert code == -signal.SIGKILL
    assert re.search(
        r"CheckpointError: \[Errno 27\] the checkpoint of step \d+ could not be written "
        rf"\(File too large\); the last good checkpoint is .*step-0+{reached[0]}\. Free",
        message,
    )
    reached.append(max(steps(directory)))
    # ... and just after it.
    assert end(start(directory, "renamed"))[0] == -signal.SIGKILL
    reached.append(max(steps(directory)))
    # Politely.
    begun = reached[-1]
    code, message = send(signal.SIGINT, lambda: max(steps(directory)) > begun)
    assert code == 130
    stopped = int(re.search(r"stopped at step (\d+) and saved in", message)[1])
    assert max(steps(directory)) == stopped
    reached.append(stopped)
    assert reached == sorted(set(reached))
    assert all(
        checkpoint.verify(path) is None for path in (directory / "checkpoints").glob("step-*")
    )
    # To the end in this process, where no step is left to make after it.
    options = OPTIONS | {"num_epochs": NUM_EPOCHS}
    fit(**options, checkpoints=Checkpoints(directory, save_every=0.0))
    assert max(steps(directory)) > stopped
    found = fit(
        **options,
        checkpoints=directory,
        on_progress=lambda progress: pytest.fail("a step was made"),
    )
    assert_is(found, fit(**options))
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == found.history.step.tolist()
    assert [line["bound"] for line in lines] == found.history.bound.tolist()
