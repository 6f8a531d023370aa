"""Progress of a run (callback, metrics.jsonl, TensorBoard), and the handler of Ctrl-C."""

import importlib
import importlib.util
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

METRICS = "metrics.jsonl"


class Progress(NamedTuple):
    """The progress of a run. Bounds are nats per data point."""

    step: int  # steps made
    num_steps: int
    epoch: int  # epochs finished
    bound: float  # the true bound, averaged over the steps since the last call
    objective: float  # the maximised function: the bound unless `estimate` is an objective
    validation_bound: float | None  # the last one
    samples_per_second: float  # rows per second since the run began, without compilation
    seconds_left: float  # NaN before the speed is measured


class Meter:
    """Rows per second, without the first call, which compiles."""

    def __init__(self) -> None:
        self._rows = 0
        self._since: float | None = None

    def add(self, rows: int) -> None:
        """Count the rows of the last call."""
        if self._since is None:
            self._since = time.perf_counter()
        else:
            self._rows += rows

    def speed(self) -> float:
        """Rows per second; NaN before the second call."""
        if self._since is None or not self._rows:
            return math.nan
        return self._rows / (time.perf_counter() - self._since)


class Journal:
    """metrics.jsonl with one line an epoch, and TensorBoard events if a writer is installed."""

    def __init__(self, directory: Path, step: int) -> None:
        """Open the journal of a run that has made `step` steps, and delete later lines."""
        self._path = directory / METRICS
        with clear_errors(self._path):
            directory.mkdir(parents=True, exist_ok=True)
            rewind(self._path, step)
        self._events = events(directory / "tensorboard", step)

    def write(self, line: dict[str, Any]) -> None:
        """Append one epoch, whose numbers include `step`. A number that is not finite is null."""
        plain = {k: None if v is None or not math.isfinite(v) else v for k, v in line.items()}
        with clear_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
        if self._events is not None:
            for name, value in plain.items():
                if name not in ("step", "epoch") and value is not None:
                    self._events.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()


def rewind(path: Path, step: int) -> None:
    """Delete the lines of a metrics file after `step`: a resumed run writes them again.

    A line that a kill has truncated is deleted too.
    """
    if not path.exists():
        return
    kept, text = [], path.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line + "\n")
    if "".join(kept) != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Add the path and a cure to the message of an OSError."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write ({error.strerror}); free some space", str(path)
        ) from error


def events(folder: Path, step: int) -> Any:
    """A TensorBoard writer by tensorboardX or PyTorch, or None where neither is installed.

    Events after `step` are deleted: a resumed run writes them again.
    """
    for name in ("tensorboardX", "torch.utils.tensorboard"):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # PyTorch is installed without TensorBoard
            continue
        return module.SummaryWriter(str(folder), purge_step=step + 1)
    return None


@contextmanager
def interruptible(active: bool) -> Iterator[threading.Event]:
    """An event that the first SIGINT sets, for the loop to save and stop; the second raises."""
    flag = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may set a handler
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
