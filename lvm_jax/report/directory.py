"""The folder of one run: atomic files, metrics, arrays, provenance.

A file is written under a temporary name and then renamed, so that no reader gets a partial file.
"""

import contextlib
import dataclasses
import errno
import importlib.metadata
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

CONFIG, RESULTS, METRICS = "config.json", "results.json", "metrics.jsonl"
SUMMARY, POINTS, PAGE = "summary.json", "points.npz", "report.html"
WRITING = ".writing-"  # prefix of temporary names
LIBRARIES = ("lvm_jax", "jax", "jaxlib", "numpy", "scipy", "scikit-learn", "matplotlib")


class Directory:
    """The folder `path` of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = datetime.now(UTC)
        self._clock = time.perf_counter()
        self._logged: Counter[str] = Counter()  # lines of earlier processes, without seconds

    @property
    def wall_time(self) -> float:
        """Seconds since this process opened the directory."""
        return time.perf_counter() - self._clock

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file atomically; OSError with a cure if that fails."""
        target = self.path / name
        data = content.encode("utf-8") if isinstance(content, str) else content
        with clear_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=WRITING)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        return target

    def write_json(self, name: str, values: Any) -> Path:
        """Write values as JSON: NaN and infinity become null, arrays lists, dataclasses objects."""
        text = json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False)
        return self.write(name, text + "\n")

    def write_arrays(self, name: str, arrays: Mapping[str, Any]) -> Path:
        """Write arrays as a NumPy .npz file."""
        buffer = io.BytesIO()
        plain_arrays: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items()}
        np.savez_compressed(buffer, **plain_arrays)
        return self.write(name, buffer.getvalue())

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl; its first number is the abscissa, such as a step.

        A line that an earlier process of the same run has written is skipped.
        """
        target = self.path / METRICS
        values = plain(metrics)
        same = json.dumps(values, allow_nan=False)
        if self._logged[same]:
            self._logged[same] -= 1
            return
        line = json.dumps({"seconds": round(self.wall_time, 3), **values}, allow_nan=False)
        with clear_errors(target), target.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()

    def keep_metrics(self) -> None:
        """Read the metrics of earlier processes; remove an incomplete last line."""
        target = self.path / METRICS
        if not target.exists():
            return
        lines = target.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if whole != lines:
            self.write(METRICS, "".join(whole))
        for line in whole:
            values = {name: value for name, value in json.loads(line).items() if name != "seconds"}
            self._logged[json.dumps(values)] += 1

    def provenance(self, seed: int) -> dict[str, Any]:
        """Command, seed, commit, device and versions; seconds of this process."""
        import jax

        from lvm_jax import precision

        device = jax.devices()[0]
        return {
            "command": command_line(),
            "seed": seed,
            "started": self.started.isoformat(timespec="seconds"),
            "wall_time_s": round(self.wall_time, 2),
            "git": git_state(Path(__file__).resolve().parent),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": f"{device.platform}: {device.device_kind}, {len(jax.devices())} in all",
            "matmul_precision": precision.chosen() or "float32, the default of lvm_jax",
            "libraries": {name: _version(name) for name in LIBRARIES},
        }


def command_line() -> str:
    """The shell command that started this process."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return f"python -m {program.parent.name} {shlex.join(sys.argv[1:])}"
    return f"lvm_jax.report.execute(...), called from {program.name or 'Python'}"


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit and whether the tree has changes, or None outside a git checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value: Any) -> Any:
    """The value in JSON's types; numbers that are not finite become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return str(value) if isinstance(value, Path) else value


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def clear_errors(target: Path) -> Iterator[None]:
    """Add the path and a cure to an OSError of writing `target`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = (
            "free some space and run the command again to resume"
            if full
            else "choose another folder with --out"
        )
        raise type(error)(
            error.errno, f"cannot write ({error.strerror}); {cure}", str(target)
        ) from error
