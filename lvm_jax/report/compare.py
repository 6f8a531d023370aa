"""Compare runs of one experiment: options, curves, headline numbers, and differences with errors.

    python -m experiments compare RUN RUN [RUN ...] [--out FOLDER]

The first run is the reference. The command prints the tables and writes comparison.html and .json.
"""

import argparse
import string
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lvm_jax.estimate import Estimate
from lvm_jax.report import curves, differences
from lvm_jax.report.differences import Difference
from lvm_jax.report.directory import Directory
from lvm_jax.report.headlines import OverSeeds, headlines, over_seeds, seeds_table
from lvm_jax.report.page import MISSING, Page, Table, digits, number
from lvm_jax.report.run import new_folder, read_config
from lvm_jax.report.stored import Stored, read

TEMPLATE = Path(__file__).with_name("compare.md")
HTML, JSON = "comparison.html", "comparison.json"
ROWS = 25  # maximum rows of a table on the terminal
LISTED = 300  # maximum numbers in the page; comparison.json has all


class Row(NamedTuple):
    """A number of each run, and its differences to the first run."""

    name: str
    values: list[Estimate]
    differences: list[Difference]  # of all runs but the first


class Comparison(NamedTuple):
    """The result of `compare`."""

    runs: list[Stored]
    labels: list[str]
    settings: list[tuple[str, list[Any]]]
    over_seeds: list[OverSeeds]  # headline numbers of runs that differ only in the seed
    points: list[Row]  # means of points.npz
    numbers: list[Row]  # of results.json, those that differ
    num_equal: int  # numbers of results.json that are equal in all runs


def main(arguments: Sequence[str]) -> int:
    """Run the command `compare` and return the exit code."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, help="folder of the page; by default runs/compare-TIME")
    given = parser.parse_args(arguments)
    publish(compare([read(path) for path in given.runs]), given.out)
    return 0


def compare(runs: Sequence[Stored]) -> Comparison:
    """Compare all runs with the first.

    Raises ValueError for fewer than two runs, a repeated run, or runs of different experiments.
    """
    runs = list(runs)
    if len(runs) < 2:
        raise ValueError(f"compare: expected at least two runs, got {len(runs)}")
    again = [path for path, n in Counter(run.path.resolve() for run in runs).items() if n > 1]
    if again:
        raise ValueError(f"compare: expected different runs, got {again[0]} twice")
    for run in runs[1:]:
        if run.experiment != runs[0].experiment:
            raise ValueError(
                f"compare: expected runs of one experiment, got {runs[0].experiment} "
                f"({runs[0].path}) and {run.experiment} ({run.path})"
            )
    names, num_equal = differences.shared_numbers(runs)
    return Comparison(
        runs,
        _labels(runs),
        differences.settings(runs),
        over_seeds(runs),
        [_of_points(runs, name) for name in differences.shared_points(runs)],
        [_of_numbers(runs, name) for name in names],
        num_equal,
    )


def publish(found: Comparison, out: Path | None) -> Path:
    """Write comparison.html and comparison.json in a folder, print the tables, return the page.

    Raises FileExistsError if `out` is a run or a file.
    """
    if out is not None and (read_config(out) is not None or out.is_file()):
        raise FileExistsError(
            f"out: expected a folder for a comparison, got {out}, a run or a file; choose another"
        )
    folder = Directory(new_folder("compare") if out is None else out)
    tables = all_tables(found)
    png, hidden = curves.draw(curves.curves([run.metrics for run in found.runs]), found.labels)
    page = Page().render(
        TEMPLATE.read_text(encoding="utf-8"),
        found=found,
        tables=tables,
        png=png,
        hidden=hidden,
        most=curves.PANELS,
    )
    folder.write_json(JSON, {"runs": [str(run.path) for run in found.runs], **_plain(found)})
    written = folder.write(HTML, page)
    for title, table in tables.items():
        sys.stdout.write(f"\n{title}\n\n{as_text(table)}\n")
    sys.stdout.write(f"\ncomparison: {written}\n")
    return written


def all_tables(found: Comparison) -> dict[str, Table]:
    """The non-empty tables by title."""
    labels, first = found.labels, found.labels[0]
    places = [str(run.path) for run in found.runs]
    started = [run.provenance.get("started", MISSING) for run in found.runs]
    pair = [f"{labels[1]} − {first}"] if len(labels) == 2 else []  # only two runs fit the width
    tables = {
        "Runs": Table(
            ("run", "folder", "started"),
            list(zip(labels, places, started, strict=True)),
            is_text=True,
        ),
        "Settings that differ": Table(
            ("setting", *labels),
            [(name, *map(str, row)) for name, row in found.settings],
        ),
        "Headline": Table(
            ("number", *labels),
            [(one.name, *one.cells) for one in headlines(found.runs)],
        ),
        "Over seeds": seeds_table(found.over_seeds),
        "Means over points": Table(
            ("mean of", "run", "mean", f"minus that of {first}", "in errors", "the error is"),
            [cells for row in found.points for cells in _lines(row, labels)],
        ),
        "Numbers that differ": Table(
            ("number", *labels, *pair), [_cells(row, len(pair)) for row in found.numbers[:LISTED]]
        ),
    }
    return {title: table for title, table in tables.items() if table.rows}


def as_text(table: Table, limit: int = ROWS) -> str:
    """A table as text with aligned columns."""
    rows = [tuple(map(str, row)) for row in (table.header, *table.rows[:limit])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    more = len(table.rows) - limit
    return "\n".join([*lines, f"... and {more} more in the page"] if more > 0 else lines)


def _labels(runs: Sequence[Stored]) -> list[str]:
    """The names of the folders if short and distinct, otherwise letters, then numbers."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) == len(names) and max(map(len, names)) <= 12:
        return names
    return [string.ascii_uppercase[n] if n < 26 else str(n + 1) for n in range(len(runs))]


def _of_points(runs: Sequence[Stored], name: str) -> Row:
    values = [differences.mean(run.points[name]) for run in runs]
    return Row(name, values, [differences.of_points(runs[0], run, name) for run in runs[1:]])


def _of_numbers(runs: Sequence[Stored], name: str) -> Row:
    values = [differences.of_run(run, name) for run in runs]
    return Row(name, values, [differences.of_numbers(runs[0], run, name) for run in runs[1:]])


def _cells(row: Row, num_differences: int) -> tuple[str, ...]:
    return (
        row.name,
        *(digits(*mean) for mean in row.values),
        *(digits(*one.change, "+") for one in row.differences[:num_differences]),
    )


def _lines(row: Row, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """One line per run: name, run, mean, difference, difference in errors, kind of error."""
    means = [digits(*mean) for mean in row.values]
    rest = [("", "", "")] + [
        (digits(*one.change, "+"), number(one.in_errors, "+.1f"), one.kind)
        for one in row.differences
    ]
    return [
        (row.name, *cells) for cells in zip(labels, means, *zip(*rest, strict=True), strict=True)
    ]


def _plain(found: Comparison) -> dict[str, Any]:
    """The content of comparison.json."""
    tables = {"points": found.points, "numbers": found.numbers}
    rows = {
        kind: {row.name: {"values": row.values, "differences": row.differences} for row in rows}
        for kind, rows in tables.items()
    }
    return {"settings": dict(found.settings), "over_seeds": found.over_seeds, **rows}
