"""A run of an experiment: its folder, its progress, and its finished stages, to resume from.

A folder belongs to one experiment and one configuration. The process that writes there has a lock,
which the operating system releases at the end of the process.
"""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lvm_jax.report.directory import (
    CONFIG,
    METRICS,
    SUMMARY,
    WRITING,
    Directory,
    clear_errors,
    plain,
)
from lvm_jax.report.options import Options
from lvm_jax.report.progress import Progress, progress
from lvm_jax.report.stages import as_bytes, contents, digest, from_file, on_host, sources

P = ParamSpec("P")
R = TypeVar("R")
LOCK, STAGES = ".lock", ".stages"
CURE = "choose another --out, or replace the run with --overwrite"


class Run(Directory):
    """The folder of a run, with its progress and its finished stages."""

    def __init__(
        self, path: Path, progress: Progress, code: str, values: str, is_finished: bool = False
    ) -> None:
        super().__init__(path)
        self.progress = progress
        self.is_finished = is_finished  # by an earlier process; this one only writes the page
        self._named: set[str] = set()
        self._code, self._values = code, values  # a stage depends on source files and options

    def begin(self, total: int) -> None:
        """Announce the number of stages."""
        self.progress.announced = total

    def note(self, message: str, fraction: float = 0.0) -> None:
        """Describe the current stage and its finished fraction."""
        self.progress.note(message, fraction)

    def done(self, message: str) -> None:
        """End a stage."""
        self.progress.done(message)

    def stage(self, name: str, compute: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """compute(*args, **kwargs), or its stored result if an earlier process has computed it.

        The result is a tree of arrays, numbers, texts and data classes; arrays become NumPy's.
        Raises TypeError for other types, such as a function; ValueError for a damaged file and for
        a repeated name.
        """
        if name in self._named:
            raise ValueError(f"name: expected a name that no other stage has, got {name!r} again")
        slug = re.sub(r"[^A-Za-z0-9.=-]+", "_", name)
        file = f"{STAGES}/{self._code}/{slug}-{digest(name.encode(), self._values.encode())}.pkl"
        kept = (self.path / file).exists()
        if kept:
            result = from_file(self.path / file)
        else:
            self.note(name)
            result = on_host(compute(*args, **kwargs))
            self.write(file, as_bytes(name, result))
        self._named.add(name)
        self.progress.done(name, kept)
        return result

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl, as `Directory.log`, unless the run is finished."""
        if not self.is_finished:
            super().log(**metrics)

    def resume(self, values: Mapping[str, Any]) -> None:
        """Prepare the folder for this configuration, with the stages of an earlier run.

        The stages are removed if the options differ. Stages and metrics are removed, with a
        warning, if source files or data have changed.
        """
        stages = self.path / STAGES
        with clear_errors(self.path):
            (self.path / SUMMARY).unlink(missing_ok=True)  # before config.json changes
            for inner in ("", "figures/", f"{STAGES}/*/"):
                for half in self.path.glob(f"{inner}{WRITING}*"):
                    half.unlink()
            if read_config(self.path) != values and stages.exists():
                shutil.rmtree(stages)
            elif stages.exists() and not (stages / self._code).exists():
                sys.stderr.write(f"source files or data have changed: {self.path} starts again\n")
                shutil.rmtree(stages)
                (self.path / METRICS).unlink(missing_ok=True)
        self.write_json(CONFIG, values)
        with clear_errors(stages):
            (stages / self._code).mkdir(parents=True, exist_ok=True)
        self.keep_metrics()

    def draw_again(self) -> None:
        """Prepare to draw a finished run again; FileExistsError if its stages are unusable."""
        if not (self.path / STAGES / self._code).exists():
            raise FileExistsError(
                f"out: {self.path} has a finished run of these options, but source files or data "
                f"have changed since, or {STAGES} is gone; {CURE}"
            )
        sys.stderr.write(f"{self.path} is finished: its page is drawn from the stored stages\n")


@contextmanager
def opened(
    name: str,
    config: Options,
    out: Path | None = None,
    overwrite: bool = False,
    source: Path | None = None,
    data: Any = None,
) -> Iterator[Run]:
    """The run of an experiment in the folder `out`, by default runs/<name>-<time>.

    An unfinished run of the same configuration is resumed; so is a finished run if only its
    `extendable` options differ, or if its `growing` options are smaller. A finished run of the same
    configuration reads its stages, and its page is drawn again. `overwrite` replaces another run of
    the same experiment. Other folders are never changed. Stages are recomputed if the Python files
    in `source` or the arrays in `data` change. Raises FileExistsError if `out` has other content,
    or if another process writes there.
    """
    path = new_folder(name) if out is None else out
    values = _values(name, config)
    _check_owner(path, name)
    with clear_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if overwrite:
            with clear_errors(path):
                _clear(path)
        to_do = check_same(path, values, config)
        code = digest(*sources(source), *contents(data))
        with progress(name) as shown:
            run = Run(path, shown, code, json.dumps(values), is_finished=not to_do)
            if to_do:
                run.resume(values)
            else:
                run.draw_again()
            try:
                yield run
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"resume it with --out {path}") from None


def _values(name: str, config: Options) -> dict[str, Any]:
    """The content of config.json."""
    import jax

    x64 = bool(jax.config.read("jax_enable_x64"))
    return {"experiment": name, "x64": x64, **plain(config)}


def new_folder(name: str, number: int = 1) -> Path:
    """Create runs/<name>-<time>, with a number if that folder exists."""
    ending = f"-{number}" if number > 1 else ""
    path = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}{ending}"
    with clear_errors(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            return new_folder(name, number + 1)
    return path


def _entries(path: Path) -> list[Path]:
    """The entries of a folder, without the lock and temporary files."""
    if not path.is_dir():
        return []
    return [one for one in path.iterdir() if not one.name.startswith((WRITING, LOCK))]


def read_config(path: Path) -> dict[str, Any] | None:
    """The config.json of a run, or None."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and {"experiment", "seed"} <= config.keys() else None


def _check_owner(path: Path, name: str) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"out: expected a folder, got the file {path}; choose another --out")
    earlier = read_config(path)
    if earlier is None and _entries(path):
        raise FileExistsError(
            f"out: expected an empty folder or a run, got {path}, which has no {CONFIG} of a run; "
            "choose another --out"
        )
    if earlier is not None and earlier["experiment"] != name:
        raise FileExistsError(
            f"out: {path} has a run of {earlier['experiment']}, this one is of {name}; choose "
            "another --out"
        )


def check_same(path: Path, values: Mapping[str, Any], config: Options) -> bool:
    """Whether a folder has no finished run with these values.

    Raises FileExistsError if the folder has a run with other values.
    """
    earlier = read_config(path)
    if earlier is None:
        return True
    changed = [key for key in values if earlier.get(key) != values[key]]
    grown = [key for key in config.growing if earlier.get(key, values[key]) < values[key]]
    others = [key for key in changed if key not in (*config.extendable, *grown)]
    if others:
        key = others[0]
        raise FileExistsError(
            f"out: {path} has a run with {key} = {earlier.get(key)!r}, this one has "
            f"{values[key]!r}; {CURE}"
        )
    return bool(changed) or not (path / SUMMARY).exists()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with clear_errors(path / LOCK):
        file = (path / LOCK).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise FileExistsError(
                f"out: {path} is in use by {file.read().strip() or 'another process'}; wait for "
                "its end, or choose another --out"
            ) from error
        with clear_errors(path / LOCK):
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def in_use(path: Path) -> bool:
    """Whether a process has the lock of a run's folder."""
    import fcntl

    if not (path / LOCK).exists():
        return False
    with (path / LOCK).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _clear(path: Path) -> None:
    # The folder may be a link or a mount: remove only its content. Remove config.json last, so that
    # the folder is still a run after an interruption.
    for entry in sorted(_entries(path), key=lambda entry: entry.name == CONFIG):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
