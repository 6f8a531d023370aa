"""The folder format of checkpoints and models: arrays by Orbax, JSON values, and checksums.

Orbax alone does not detect a truncated or changed file, and does not flush to the disk. A folder

    step-000001200/  arrays/ (Orbax)  facts.json  manifest.json (size and SHA-256 of every file)

is written under another name, flushed, and renamed: it exists with its manifest, or not at all.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

MANIFEST, FACTS, ARRAYS = "manifest.json", "facts.json", "arrays"
WRITING, REPLACED = ".writing-", ".replaced-"

Arrays = dict[str, np.ndarray]
Shapes = dict[str, jax.ShapeDtypeStruct]


class CheckpointError(OSError):
    """A checkpoint could not be written, or none could be read."""


def write(path: Path, arrays: Arrays, facts: dict[str, Any]) -> None:
    """Write the folder `path` atomically.

    An earlier folder of this name is replaced; a kill between the two renames leaves it under
    another name, which `kept` returns.

    Raises CheckpointError for an error of the operating system (with its number). Any other error,
    such as one of Orbax, is raised unchanged.
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
    except Exception as error:  # Orbax wraps errors of the disk in many types
        shutil.rmtree(temporary, ignore_errors=True)
        restore(path)
        number = _error_number(error)
        if number is None:
            raise
        raise CheckpointError(number, os.strerror(number), str(path)) from error


def kept(path: Path) -> Path:
    """The folder `path`, or its earlier version after a kill during its replacement."""
    aside = path.with_name(REPLACED + path.name)
    return aside if aside.exists() and not path.exists() else path


def restore(path: Path) -> None:
    """Rename the earlier version back to `path` after a kill; for a writer, not for a reader."""
    if kept(path) != path:
        kept(path).rename(path)
    shutil.rmtree(path.with_name(REPLACED + path.name), ignore_errors=True)


def read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and facts of a folder without problems by `verify`."""
    facts, empty = _read_facts(path)
    return load_arrays(path / ARRAYS) | empty, facts


def read_shapes(path: Path) -> tuple[Shapes, dict[str, Any]]:
    """Shapes and types of the arrays, and the facts; allocates no array."""
    facts, empty = _read_facts(path)
    shapes = load_shapes(path / ARRAYS)
    return shapes | {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in empty.items()}, facts


def _read_facts(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The facts, and the arrays of size 0, which have no file; refuses another size."""
    facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    for name, (_, shape) in facts["empty_arrays"].items():
        if 0 not in shape:
            raise CheckpointError(
                f"{path / FACTS}: expected a shape with a 0 for the empty array {name}, got {shape}"
            )
    return facts, {k: np.empty(shape, kind) for k, (kind, shape) in facts["empty_arrays"].items()}


def verify(path: Path) -> str | None:
    """The first problem of a folder that `write` made, or None.

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
    """Orbax's checkpointer for this process; its default waits for all of jax.distributed."""
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
    """The relative paths of all files below a folder, without its manifest."""
    paths = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(set(paths) - {MANIFEST})


def digest(file: Path) -> list[Any]:
    """[size in bytes, SHA-256] of a file."""
    with file.open("rb") as stream:
        mark = hashlib.file_digest(stream, "sha256").hexdigest()
    return [file.stat().st_size, mark]


def _error_number(error: Exception) -> int | None:
    """The operating system's error number, or None for an error of another kind."""
    found = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore, used by Orbax
    return int(found[1]) if found is not None else getattr(error, "errno", None)


def _flush(entry: Path) -> None:
    handle = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
