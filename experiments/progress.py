"""Progress on the terminal: a live bar if somebody watches, else plain lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET = 60.0  # seconds without a line, after which a note is one


class Progress:
    """Stages of a run; `done` moves on by one, `note` says how the present one goes."""

    def __init__(self, show: Callable[[int, str], None]) -> None:
        self._show = show

    def done(self, message: str) -> None:
        """Say what was just finished."""
        self._show(1, message)

    def note(self, message: str) -> None:
        """Say what is going on; plain lines show it once a minute."""
        self._show(0, message)


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """Follow `total` stages on standard error."""
    if sys.stderr.isatty():
        yield from _live(title, total)
    else:
        yield from _lines(title, total)


def _live(title: str, total: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[title]}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
    )
    more = (TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, *more, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total, title=title)
        yield Progress(lambda step, text: bar.update(task, advance=step, description=text))


def _lines(title: str, total: int) -> Iterator[Progress]:
    start, count, last = time.perf_counter(), 0, 0.0

    def show(step: int, text: str) -> None:
        nonlocal count, last
        count += step
        seconds = time.perf_counter() - start
        if step or seconds - last >= QUIET:
            last = seconds
            print(f"{title} [{count}/{total}, {seconds:.0f} s] {text}", file=sys.stderr, flush=True)

    yield Progress(show)
