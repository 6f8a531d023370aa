"""The checkpoints of one run: the newest good one, saves in the background, and their errors."""

import errno
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lvm_jax import parallel
from lvm_jax._core.warn import warn
from lvm_jax.training import checkpoint
from lvm_jax.training.checkpoint import WRITING, Arrays, CheckpointError

PREFIX, DAMAGED = "step-", "damaged-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was skipped."""


class Store:
    """The last `keep` checkpoints of one run, in `folder`.

    Of several processes, whose parameters are equal, the first one writes and all read.
    """

    def __init__(self, folder: Path, keep: int, mesh: Mesh | None = None) -> None:
        self.folder, self._keep, self._mesh = folder, keep, mesh
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def paths(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return sorted(self.folder.glob(PREFIX + "*"))

    def latest(self) -> tuple[Path, Arrays, dict[str, Any]] | None:
        """As `newest`, with the same result or an error in every process."""
        found, problem = None, None
        if parallel.writes(self._mesh):
            try:
                found = self.newest()
            except CheckpointError as error:
                problem = error
        own = -1 if found is None else int(found[0].name.removeprefix(PREFIX))
        step = int(parallel.from_every_process(self._mesh, -2 if problem else own)[0])
        if step == -2:
            raise problem or CheckpointError(f"no good checkpoint is left in {self.folder}")
        if found is None and step >= 0:
            path = self.folder / f"{PREFIX}{step:09d}"
            if not path.exists():
                raise CheckpointError(
                    f"{path}: expected the checkpoint that process 0 found, got no such folder; "
                    "checkpoints of several processes need a directory that all of them see"
                )
            found = path, *checkpoint.read(path)
        return found

    def newest(self) -> tuple[Path, Arrays, dict[str, Any]] | None:
        """The newest good checkpoint of the folder, or None if there are no checkpoints.

        Damaged checkpoints are renamed, with a warning that names the problem. Raises
        CheckpointError if all checkpoints are damaged.
        """
        for path in self.folder.glob(WRITING + "*"):  # of a run that was killed while it saved
            shutil.rmtree(path, ignore_errors=True)
        found = self.paths()
        for path in reversed(found):
            problem = checkpoint.verify(path)
            if problem is None:
                return path, *checkpoint.read(path)
            warn(
                f"checkpoint {path} is damaged ({problem}); it is renamed to "
                f"{DAMAGED}{path.name}, and the one before it is used",
                CheckpointWarning,
            )
            path.rename(_free_name(path.with_name(DAMAGED + path.name)))
        if found or any(self.folder.glob(DAMAGED + "*")):
            raise CheckpointError(
                f"no good checkpoint is left in {self.folder}; remove the folder to start again"
            )
        return None

    def save(self, step: int, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Queue the checkpoint of a step, which is written after the one before it.

        After a failed save nothing is written: `check` raises its error.
        """
        pending = self._pending
        if parallel.writes(self._mesh) and (pending is None or pending.exception() is None):
            self._pending = self._worker.submit(self._write, step, arrays, facts)

    def check(self) -> None:
        """Raise CheckpointError, in every process, if the last save has failed.

        Every process must call it equally often. It does not wait for the disk.
        """
        done = self._pending is not None and self._pending.done()
        problem = self._pending.exception() if self._pending is not None and done else None
        if parallel.from_every_process(self._mesh, problem is not None).any():
            raise problem or CheckpointError(
                "process 0 could not write a checkpoint; its error says which, and why"
            )

    def wait(self) -> None:
        """Wait until the last save is on the disk, then `check`."""
        if self._pending is not None:
            self._pending.exception()
        self.check()

    def close(self) -> None:
        """End the writing thread after its current save."""
        self._worker.shutdown()

    def last_good(self) -> str:
        """The newest checkpoint as words for a message."""
        found = self.paths()
        return f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was written"

    def _write(self, step: int, arrays: Arrays, facts: dict[str, Any]) -> None:
        path = self.folder / f"{PREFIX}{step:09d}"
        if not path.exists():  # the same step has the same state
            try:
                checkpoint.write(path, arrays, facts)
            except CheckpointError as error:
                cure = "Free some space, then run" if error.errno in FULL else "Run"
                raise CheckpointError(
                    error.errno,
                    f"the checkpoint of step {step} could not be written ({error.strerror}); "
                    f"{self.last_good()}. {cure} the same command to resume",
                    str(path),
                ) from error
        for old in self.paths()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free
