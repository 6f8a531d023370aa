"""List the runs below a folder: experiment, date, state and headline numbers.

python -m experiments runs [FOLDER]
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lvm_jax.report.directory import CONFIG, SUMMARY
from lvm_jax.report.run import in_use, read_config
from lvm_jax.report.stored import below, read


class Listed(NamedTuple):
    """A line of the list, and the headline below it."""

    path: Path
    experiment: str
    date: str
    state: str  # finished, differs: ..., running, unfinished, or broken: ...
    headline: list[str]


def main(arguments: Sequence[str]) -> int:
    """Run the command `runs` and return the exit code."""
    parser = argparse.ArgumentParser(prog="runs", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        raise ValueError(f"folder: expected a folder of runs, there is no {folder}")
    rows = [listed(path) for path in below(folder)]
    if not rows:
        sys.stdout.write(f"no runs below {folder}\n")
    width = max((len(str(row.path)) for row in rows), default=0)
    for row in rows:
        sys.stdout.write(
            f"{row.path!s:{width}}  {row.date}  {row.experiment:20}  {row.state}\n"
            + "".join(f"    {line}\n" for line in row.headline)
        )
    return 0


def listed(path: Path) -> Listed:
    """The line of one run."""
    config = read_config(path) or {}
    changed = datetime.fromtimestamp((path / CONFIG).stat().st_mtime, UTC)
    date = changed.isoformat(" ", "minutes")[:16]
    name = str(config.get("experiment"))
    if not (path / SUMMARY).exists():
        return Listed(path, name, date, "running" if in_use(path) else "unfinished", [])
    try:
        run = read(path)
    except ValueError as error:
        return Listed(path, name, date, f"broken: {error}", [])
    wrong = [check["name"] for check in run.checks if not check["holds"]]
    state = f"differs: {', '.join(wrong)}" if wrong else "finished"
    return Listed(path, name, date, state, [f"{what}: {n}" for what, n in run.headline.items()])
