"""The files of a run's finished stages: storage, dependencies and validation."""

import dataclasses
import hashlib
import io
import pickle
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

DRAWING = {"figures.py", "plotting"}  # files and folders that stages do not depend on
NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
CHECKSUM = hashlib.sha256().digest_size
BUILTINS = {"complex", "frozenset", "range", "set", "slice"}


def as_bytes(name: str, result: Any) -> bytes:
    """The result of a stage as bytes for `from_file`, preceded by a checksum.

    Raises TypeError if the result cannot be stored.
    """
    try:
        content = pickle.dumps(result)
        _Unpickler(io.BytesIO(content)).load()
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise TypeError(f"stage {name!r}: expected arrays and data classes ({error})") from error
    return hashlib.sha256(content).digest() + content


def on_host(tree: Any) -> Any:
    """The tree with NumPy arrays; unlike `jax.device_get` it keeps the order of dictionaries."""
    if isinstance(tree, dict):
        return {name: on_host(value) for name, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(on_host, tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map(on_host, tree))
    import jax

    return jax.device_get(tree)


def from_file(file: Path) -> Any:
    """The result of a stage; ValueError for a damaged file or other library versions."""
    stored = file.read_bytes()
    checksum, content = stored[:CHECKSUM], stored[CHECKSUM:]
    if hashlib.sha256(content).digest() != checksum:
        raise ValueError(f"{file}: expected a finished stage, got a damaged one; delete the file")
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except (pickle.PickleError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected a finished stage ({error}); delete the file") from error


def sources(experiment: Path | None) -> Iterator[bytes]:
    """The Python files of the library and of an experiment, without `report` and DRAWING."""
    for folder in (Path(__file__).parents[1], experiment):
        for file in sorted(folder.rglob("*.py")) if folder else ():
            if file.parent != Path(__file__).parent and not {file.name, file.parent.name} & DRAWING:
                yield file.read_bytes()


def contents(tree: Any) -> Iterator[bytes]:
    """The bytes of the arrays in a tree of tuples, lists, dictionaries and data classes."""
    if isinstance(tree, np.ndarray) and tree.dtype != object:
        yield np.ascontiguousarray(tree).tobytes()
    elif isinstance(tree, dict):
        yield from contents(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from contents(part)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        yield from contents([getattr(tree, field.name) for field in dataclasses.fields(tree)])


def digest(*parts: bytes) -> str:
    """A hash of the parts, as text."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


class _Unpickler(pickle.Unpickler):
    """An unpickler of arrays and data classes; it raises an error for functions."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in NUMPY:
            return super().find_class(module, name)
        if module == "builtins" and name in BUILTINS:
            return super().find_class(module, name)
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and (
            issubclass(found, Enum)
            or hasattr(found, "_fields")
            or hasattr(found, "__dataclass_fields__")
        ):
            return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}")
