"""One folder per run: its configuration, results with their provenance, metrics, figures, report.

Files are written under a temporary name and then renamed, so a reader never meets half of one, and
a run that is stopped leaves what it had finished.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

WRITING = ".writing-"  # the temporary name of a file begins so
LIBRARIES = ("lvm_jax", "jax", "jaxlib", "numpy", "scipy", "scikit-learn", "matplotlib")


class RunDirectory:
    """The folder of one run; `path` is where it lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = datetime.now(UTC)
        self._clock = time.perf_counter()

    @property
    def wall_time(self) -> float:
        """Seconds since the run directory was created."""
        return time.perf_counter() - self._clock

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file whole or not at all; OSError saying what to do if the disk refuses."""
        target = self.path / name
        data = content.encode("utf-8") if isinstance(content, str) else content
        with _clear_errors(target):
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

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl, on disk before this returns."""
        target = self.path / "metrics.jsonl"
        line = json.dumps(plain({"seconds": round(self.wall_time, 3), **metrics}), allow_nan=False)
        with _clear_errors(target), target.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()

    def provenance(self, seed: int) -> dict[str, Any]:
        """What it takes to run this again, and where and when it ran."""
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


def create(name: str, out: Path | None, overwrite: bool) -> RunDirectory:
    """Make the folder `out`, or runs/<name>-<time>; FileExistsError if it holds anything.

    With `overwrite` an earlier run is cleared away; a folder that is not a run is never touched.
    What a kill left of a first file counts as nothing.
    """
    path = out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"out: expected a folder, got the file {path}; choose another --out")
    if path.is_dir() and any(not entry.name.startswith(WRITING) for entry in path.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"out: {path} is not empty; choose another --out, or replace it with --overwrite"
            )
        if not _is_run(path):
            raise FileExistsError(
                f"out: {path} is not empty and not an earlier run (it has no config.json of one), "
                "so --overwrite will not clear it; choose another --out"
            )
        with _clear_errors(path):
            _clear(path)
    with _clear_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return RunDirectory(path)


def command_line() -> str:
    """The command that started this, as one could type it again."""
    if Path(sys.argv[0]).parts[-2:] == ("experiments", "__main__.py"):
        return f"python -m experiments {shlex.join(sys.argv[1:])}"
    return f"main(Config(...)) called from {Path(sys.argv[0]).name or 'Python'}"


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether the tree was changed since, or None outside a git checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value: Any) -> Any:
    """The value in the types JSON has; what is not finite becomes None."""
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


def _is_run(path: Path) -> bool:
    # Other programs write a config.json too: only ours says where the run lies.
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"seed", "out", "overwrite"} <= config.keys()


def _clear(path: Path) -> None:
    # The folder itself stays: it may be a link, a mount or where one is. config.json goes last, so
    # that what an interrupted clearing leaves is still a run.
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "config.json"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


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
def _clear_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot write ({error.strerror}). Free some space or choose another folder with --out",
            str(target),
        ) from error
