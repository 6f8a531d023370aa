"""Reader of finished runs: configuration, numbers, points and metrics."""

import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.report.directory import CONFIG, METRICS, POINTS, RESULTS, SUMMARY
from lvm_jax.report.run import read_config

CURE = "replace the run with --overwrite"


class Stored(NamedTuple):
    """A finished run."""

    path: Path
    config: dict[str, Any]
    numbers: dict[str, float]  # of results.json, by dotted name
    headline: dict[str, str]  # name -> number, as in the report
    checks: list[dict[str, Any]]  # "name" and "holds" of each
    points: dict[str, np.ndarray]  # of points.npz, [N] each
    metrics: list[dict[str, Any]]
    provenance: dict[str, Any]

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return str(self.config["experiment"])


def read(path: Path) -> Stored:
    """Read the finished run in a folder; ValueError if there is none."""
    if not path.is_dir():
        raise ValueError(f"{path}: expected the folder of a run, there is none")
    config = read_config(path)
    if config is None:
        raise ValueError(f"{path}: expected the folder of a run, it has no {CONFIG} of one")
    if not (path / SUMMARY).exists():
        raise ValueError(f"{path}: expected a finished run; run its command again to resume it")
    results, provenance = read_results(path)
    headline, checks = _summary(path)
    return Stored(
        path,
        config,
        numbers_of(results),
        headline,
        checks,
        _points(path),
        _metrics(path),
        provenance,
    )


def read_results(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of results.json and their provenance; ValueError for an invalid file."""
    results = _object(path / RESULTS)
    provenance = results.pop("provenance", None)
    if not isinstance(provenance, dict):
        raise ValueError(f"{path / RESULTS}: expected a provenance, got {provenance!r}; {CURE}")
    return results, provenance


def numbers_of(values: Any, name: str = "") -> dict[str, float]:
    """The finite numbers of nested objects and lists: {"curves.b.slope": 0.5, "losses[3]": 2.0}."""
    if isinstance(values, bool) or values is None or isinstance(values, str):
        return {}
    if isinstance(values, int | float):
        return {name: float(values)} if math.isfinite(values) else {}
    if isinstance(values, Mapping):
        inner = {f"{name}.{key}" if name else key: value for key, value in values.items()}
    else:
        inner = {f"{name}[{place}]": value for place, value in enumerate(values)}
    return {
        key: number
        for one, value in inner.items()
        for key, number in numbers_of(value, one).items()
    }


def below(folder: Path, depth: int = 3) -> Iterator[Path]:
    """The folders of all runs, finished or not, in a folder and its subfolders."""
    if read_config(folder) is not None:
        yield folder
    elif depth > 0 and os.access(folder, os.R_OK | os.X_OK):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from below(path, depth - 1)


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError for other content."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object ({error}); {CURE}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _summary(path: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Headline and checks of summary.json."""
    found = _object(path / SUMMARY)
    try:
        headline = {str(name): str(value) for value, name in found["headline"]}
        checks = [{key: one[key] for key in ("name", "holds")} for one in found["checks"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path / SUMMARY}: expected headline and checks of this version; {CURE}"
        ) from error
    return headline, checks


def _metrics(path: Path) -> list[dict[str, Any]]:
    file = path / METRICS
    if not file.exists():
        return []
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{file}: expected a JSON object in each line ({error})") from error
    for line in lines:
        if not isinstance(line, dict):
            raise ValueError(f"{file}: expected a JSON object in each line, got {line!r}")
    return lines


def _points(path: Path) -> dict[str, np.ndarray]:
    file = path / POINTS
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: expected the arrays of a run ({error}); {CURE}") from error
    if len({array.shape for array in found.values()}) > 1:
        raise ValueError(f"{file}: expected arrays of one length, got other shapes")
    return found
