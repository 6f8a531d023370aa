"""Progress on standard error: a live bar on a terminal, otherwise plain lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lvm_jax._core import extras

QUIET = 60.0  # seconds between two plain lines about the same stage


class Progress:
    """The stages of a run: `done` ends a stage, `note` describes the current one.

    If a run has more stages than announced, the total grows; with fewer it ends below the total.
    """

    def __init__(self, show: Callable[["Progress", bool, str], None]) -> None:
        self.announced = 0  # number of stages; 0 if unknown
        self.count = 0  # finished stages
        self.kept = 0  # finished stages that an earlier process computed
        self.fraction = 0.0  # of the current stage
        self._start = time.perf_counter()
        self._show = show

    def done(self, message: str, kept: bool = False) -> None:
        """End a stage; `kept` if its result comes from the disk."""
        self.count, self.kept, self.fraction = self.count + 1, self.kept + kept, 0.0
        self._show(self, True, message)

    def note(self, message: str, fraction: float = 0.0) -> None:
        """Describe the current stage and its finished fraction; plain lines once a minute."""
        self.fraction = min(max(fraction, 0.0), 1.0)
        self._show(self, False, message)

    @property
    def total(self) -> int:
        """The number of stages, at least those that have begun; 0 if none were announced."""
        begun = self.count + (self.fraction > 0)
        return max(self.announced, begun) if self.announced else 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> str:
        """The remaining time as text, if all stages take equally long; empty if unknown."""
        own = self.total - self.kept  # stages that this process computes
        share = (self.count - self.kept + self.fraction) / own if own > 0 else 0.0
        if not 0 < share < 1 or self.count >= self.announced:
            return ""
        return f"about {format_seconds(self.seconds * (1 - share) / share)} left"


def format_seconds(seconds: float) -> str:
    """A time in a suitable unit: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show the stages of a run on standard error."""
    if sys.stderr.isatty():
        yield from _live(title)
    else:
        yield _lines(title)


def _live(title: str) -> Iterator[Progress]:
    with extras.needed("experiments"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

    words = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("left", "text")]
    columns = (TextColumn(title, markup=False), BarColumn(24), MofNCompleteColumn())
    with Bar(
        *columns, TimeElapsedColumn(), *words, console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=None, left="", text="starting")

        def show(now: Progress, ended: bool, text: str) -> None:
            share = now.count + now.fraction
            bar.update(task, completed=share, total=now.total or None, left=now.left, text=text)

        yield Progress(show)


def _lines(title: str) -> Progress:
    last = 0.0

    def show(now: Progress, ended: bool, text: str) -> None:
        nonlocal last
        if ended or now.seconds - last >= QUIET:
            last = now.seconds
            head = f"{now.count}/{now.total or '?'}, {now.seconds:.0f} s"
            left = f", {now.left}" if now.left else ""
            sys.stderr.write(f"{title} [{head}{left}] {text}\n")

    return Progress(show)
