"""Checkpoints: arrays by Orbax, committed whole, each file under a checksum.

Orbax renames a finished save into place, but it does not notice afterwards that a file was cut or
changed, nor does it flush to the disk. Here a checkpoint is a folder

    step-000001200/  arrays/ (Orbax)  facts.json  manifest.json (size and SHA-256 of every file)

written under another name, flushed, and renamed: it is there with its manifest, or not at all.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lvm_jax import parallel

MANIFEST, FACTS, ARRAYS = "manifest.json", "facts.json", "arrays"
PREFIX, WRITING, REPLACED, DAMAGED = "step-", ".writing-", ".replaced-", "damaged-"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Arrays = dict[str, np.ndarray]
Shapes = dict[str, jax.ShapeDtypeStruct]


class CheckpointError(OSError):
    """A checkpoint could not be written, or none could be read."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


class Store:
    """The checkpoints of one run in `folder`, of which the last `keep` stay.

    Of several processes, whose parameters are copies, the first one writes and all read.
    """

    def __init__(self, folder: Path, keep: int, mesh: Mesh | None = None) -> None:
        self.folder, self._keep, self._mesh = folder, keep, mesh
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def paths(self) -> list[Path]:
        """The checkpoints that were finished, oldest first."""
        return sorted(self.folder.glob(PREFIX + "*"))

    def latest(self) -> tuple[Path, Arrays, dict[str, Any]] | None:
        """The newest good checkpoint, or None if there never was one; the same in every process.

        Raises as `newest`.
        """
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
            found = path, *read(path)
        return found

    def newest(self) -> tuple[Path, Arrays, dict[str, Any]] | None:
        """The newest good checkpoint of the folder, or None if there never was one.

        Damaged ones are set aside under another name, with a warning that says what is wrong.
        Raises CheckpointError if there are checkpoints and all of them are damaged.
        """
        for path in self.folder.glob(WRITING + "*"):  # of a run that was killed while it saved
            shutil.rmtree(path, ignore_errors=True)
        found = self.paths()
        for path in reversed(found):
            problem = verify(path)
            if problem is None:
                return path, *read(path)
            warnings.warn(
                f"checkpoint {path} is damaged ({problem}); it is set aside as "
                f"{DAMAGED}{path.name}, and the one before it is looked at",
                CheckpointWarning,
                stacklevel=2,
            )
            path.rename(_free_name(path.with_name(DAMAGED + path.name)))
        if found or any(self.folder.glob(DAMAGED + "*")):
            raise CheckpointError(
                f"no good checkpoint is left in {self.folder}; remove the folder to begin anew"
            )
        return None

    def save(self, step: int, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Begin to write the checkpoint of a step, after the one before it is on the disk.

        Nothing is written after a save that failed: `check` raises its error.
        """
        pending = self._pending
        if parallel.writes(self._mesh) and (pending is None or pending.exception() is None):
            self._pending = self._worker.submit(self._write, step, arrays, facts)

    def check(self) -> None:
        """Raise CheckpointError, in every process, if the last save has failed.

        Every process has to call it as often as the others do. It waits for no disk.
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
        """End the thread that writes, after what it has begun."""
        self._worker.shutdown()

    def last_good(self) -> str:
        """Words that name the newest checkpoint, for messages."""
        found = self.paths()
        return f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was written"

    def _write(self, step: int, arrays: Arrays, facts: dict[str, Any]) -> None:
        path = self.folder / f"{PREFIX}{step:09d}"
        if not path.exists():  # the same step has the same state
            try:
                write(path, arrays, facts)
            except CheckpointError as error:
                cure = "Free some space, then run" if error.errno in FULL else "Run"
                raise CheckpointError(
                    error.errno,
                    f"the checkpoint of step {step} could not be written ({error.strerror}); "
                    f"{self.last_good()}. {cure} the same command to go on",
                    str(path),
                ) from error
        for old in self.paths()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def write(path: Path, arrays: Arrays, facts: dict[str, Any]) -> None:
    """Write the folder `path` whole, or leave nothing.

    An earlier folder of this name is replaced; a kill between the two renames leaves it aside,
    where `kept` finds it.

    Raises CheckpointError for an error of the disk (one with an error number). Any other error,
    such as a version of Orbax that cannot write, is raised unchanged.
    """
    temporary, aside = path.with_name(WRITING + path.name), path.with_name(REPLACED + path.name)
    restore(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        empty = {name: [str(v.dtype), v.shape] for name, v in arrays.items() if not v.size}
        save_arrays(temporary / ARRAYS, {k: v for k, v in arrays.items() if v.size})
        text = json.dumps({"empty_arrays": empty, **facts}, indent=1)  # Orbax refuses them
        (temporary / FACTS).write_text(text, encoding="utf-8")
        manifest = {name: digest(temporary / name) for name in files(temporary)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for entry in (temporary, *temporary.rglob("*")):
            _flush(entry)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        _flush(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except Exception as error:  # Orbax wraps what the disk says in errors of many types
        shutil.rmtree(temporary, ignore_errors=True)
        restore(path)
        number = _error_number(error)
        if number is None:
            raise
        raise CheckpointError(number, os.strerror(number), str(path)) from error


def kept(path: Path) -> Path:
    """Where the folder `path` lies: aside, if a kill came while it was being replaced."""
    aside = path.with_name(REPLACED + path.name)
    return aside if aside.exists() and not path.exists() else path


def restore(path: Path) -> None:
    """Put back the folder `path` if it lies aside, for a writer; a reader moves nothing."""
    if kept(path) != path:
        kept(path).rename(path)
    shutil.rmtree(path.with_name(REPLACED + path.name), ignore_errors=True)


def read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and facts of a folder that `verify` finds good."""
    facts, empty = _read_facts(path)
    return load_arrays(path / ARRAYS) | empty, facts


def read_shapes(path: Path) -> tuple[Shapes, dict[str, Any]]:
    """Shapes and types of the arrays, and the facts; reads no array, so allocates none."""
    facts, empty = _read_facts(path)
    shapes = load_shapes(path / ARRAYS)
    return shapes | {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in empty.items()}, facts


def _read_facts(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The facts and the arrays without elements, which have no file: any other size is refused."""
    facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    for name, (_, shape) in facts["empty_arrays"].items():
        if 0 not in shape:
            raise CheckpointError(
                f"{path / FACTS}: expected a shape with a 0 for the empty array {name}, got {shape}"
            )
    return facts, {k: np.empty(shape, kind) for k, (kind, shape) in facts["empty_arrays"].items()}


def verify(path: Path) -> str | None:
    """What is wrong with a folder that `write` made, or None.

    The manifest lists every file of the folder and no other path, each with its size and checksum.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        wanted = {str(name): [int(size), str(mark)] for name, (size, mark) in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, AttributeError, TypeError):
        return f"{MANIFEST} cannot be read"
    if not wanted:
        return f"{MANIFEST} lists no files"
    found = files(path)
    for name, (size, mark) in wanted.items():
        if name.startswith("/") or ".." in name.split("/"):
            return f"{MANIFEST} lists {name}, which is not inside the folder"
        if name not in found:
            return f"{name} is missing"
        got = digest(path / name)
        if got[0] != size:
            return f"{name} has {got[0]} bytes instead of {size}"
        if got[1] != mark:
            return f"{name} was changed: its checksum is wrong"
    unlisted = sorted(set(found) - wanted.keys())
    return f"{unlisted[0]} is not listed in {MANIFEST}" if unlisted else None


def checkpointer() -> Any:
    """Orbax's, for this process alone: by default it waits for all that jax.distributed joins."""
    import orbax.checkpoint as ocp  # slow to import, and only runs with a directory need it

    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(own, {own}, f"process-{own}")
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write a dictionary of NumPy arrays as an Orbax checkpoint."""
    with checkpointer() as writer:
        writer.save(path.absolute(), arrays)


def load_arrays(path: Path) -> Arrays:
    """The arrays that `save_arrays` wrote."""
    with checkpointer() as reader:
        return dict(reader.restore(path.absolute()))


def load_shapes(path: Path) -> Shapes:
    """Shape and type of each array that `save_arrays` wrote, from Orbax's metadata."""
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(path.absolute()).tree
    handler.close()
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in tree.items()}


def files(folder: Path) -> list[str]:
    """The relative path of every file below a folder but its manifest."""
    paths = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(set(paths) - {MANIFEST})


def digest(file: Path) -> list[Any]:
    """[size in bytes, SHA-256] of a file."""
    with file.open("rb") as stream:
        mark = hashlib.file_digest(stream, "sha256").hexdigest()
    return [file.stat().st_size, mark]


def _error_number(error: Exception) -> int | None:
    """The operating system's error number, or None for an error of another kind."""
    told = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore, behind Orbax
    return int(told[1]) if told is not None else getattr(error, "errno", None)


def _flush(entry: Path) -> None:
    handle = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free
