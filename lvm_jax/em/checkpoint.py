"""The checkpoint of a streamed fit: one .npz file, replaced as a whole."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

FACTS = "facts"  # the name of the JSON text among the arrays


def save(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; a kill leaves the one before it."""
    temporary = path.with_name(f".{path.name}.writing")
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{**arrays, FACTS: text})
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path | None) -> bytes:
    """The content of a checkpoint; empty if there is none."""
    return b"" if path is None or not path.exists() else path.read_bytes()


def parse(content: bytes, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and facts of the content of a checkpoint.

    Raises ValueError for a damaged file: zip archives have a checksum of each array.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        facts = json.loads(arrays.pop(FACTS).tobytes())
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"checkpoint: {path} is damaged or not a checkpoint ({error}); remove it to start again"
        ) from error
    return arrays, facts


def describe(value: Any) -> Any:
    """A setting as JSON: arrays by type, shape and checksum, other values by their text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves):
        arrays = [np.asarray(leaf) for leaf in leaves]
        mark = zlib.crc32(b"".join(array.tobytes() for array in arrays))
        shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
        return f"{type(value).__name__}({shapes}; {mark:08x})"
    return repr(value)


def check(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other settings, naming them."""
    other = [f"{name}: {then.get(name)} then, {now[name]} now" for name in now
             if then.get(name) != now[name]]  # fmt: skip
    if other:
        raise ValueError(
            f"checkpoint: {path} is of a fit with other settings ({'; '.join(other)}); name "
            "another file, or remove this one"
        )
