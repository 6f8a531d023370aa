"""A grid of runs, each in its own process, and their comparison.

    python -m experiments NAME --sweep learning_rate=1e-3,3e-3 seed=0,1,2 --out FOLDER [options]

Every run has a subfolder of FOLDER. The same command, also with more values, resumes the sweep:
finished runs are skipped, an unfinished run is resumed.
"""

import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lvm_jax._core.nearest import suggestion
from lvm_jax.report.compare import compare, publish
from lvm_jax.report.directory import Directory, plain
from lvm_jax.report.options import Options, hints
from lvm_jax.report.parsing import Runner, as_arguments, parse, value_of
from lvm_jax.report.run import check_same, new_folder
from lvm_jax.report.stored import read

SWEEP = "sweep.json"  # marks the folder of a sweep


class Cell(NamedTuple):
    """A run of the grid."""

    path: Path
    arguments: list[str]
    config: Options
    values: dict[str, Any]  # of its config.json
    to_do: bool


def sweep(package: str, name: str, arguments: Sequence[str]) -> int:
    """Run a grid; return 1 if a run failed or has an unexpected number.

    The options of all runs are validated before the first run starts.
    """
    config = import_module(f"{package}.{name}.config").Config
    axes, rest = split(arguments)
    for word in rest:
        if word.startswith("--") and word[2:].partition("=")[0].replace("-", "_") in axes:
            raise ValueError(f"sweep: expected {word} once, got it inside and outside --sweep")
    base, runner = parse(config, f"python -m {package} {name}", "", rest)
    if runner.overwrite:
        raise ValueError("overwrite: expected no --overwrite with --sweep; choose another --out")
    grid = combinations(config, axes)
    for point in grid:
        replace(base, **point).check()
    out = new_folder(f"{name}-sweep") if runner.out is None else runner.out
    own = without_out(rest)
    cells = [cell(name, base, runner, out, point, own) for point in grid]
    _claim(out, name)
    for place, one in enumerate(cells, 1):
        sys.stderr.write(f"[{place}/{len(cells)}] {one.path.name}\n")
        if one.to_do:
            run_one(package, name, one, out)
    return _finish(cells, out)


def split(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The axes of --sweep, name -> texts, and the other arguments."""
    start = arguments.index("--sweep") + 1
    words = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments[start:]))
    axes: dict[str, list[str]] = {}
    for word in words:
        option, equals, texts = word.partition("=")
        if not equals or not texts:
            raise ValueError(f"sweep: expected option=value,value, got {word!r}")
        name = option.replace("-", "_")
        if name in axes:
            raise ValueError(
                f"sweep: expected {option} once, as {option}=value,value, got it twice"
            )
        axes[name] = list(dict.fromkeys(texts.split(",")))
    if not axes:
        raise ValueError("sweep: expected option=value,value after --sweep, got nothing")
    return axes, [*arguments[: start - 1], *arguments[start + len(words) :]]


def combinations(config: type[Options], axes: dict[str, list[str]]) -> list[dict[str, Any]]:
    """All combinations of the values; ValueError for an unknown option."""
    known = hints(config)
    for option in axes:
        if option not in known:
            hint = suggestion(option, known)
            raise ValueError(f"sweep: expected one of {', '.join(known)}, got {option!r}{hint}")
    values = []
    for option, texts in axes.items():
        try:
            values.append([value_of(known[option], text) for text in texts])
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from error
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def without_out(arguments: Sequence[str]) -> list[str]:
    """The arguments without --out."""
    kept = [word for word in arguments if not word.startswith("--out=")]
    if "--out" in kept:
        place = kept.index("--out")
        del kept[place : place + 2]
    return kept


def cell(
    name: str, base: Options, runner: Runner, out: Path, point: dict[str, Any], rest: list[str]
) -> Cell:
    """The run of one combination; FileExistsError if its folder has another run."""
    words = ",".join(f"{option}={_word(value)}" for option, value in point.items())
    path = out / re.sub(r"[^A-Za-z0-9.,=_-]+", "_", words)[:200]
    config = replace(base, **point)
    values = {"experiment": name, "x64": runner.x64, **plain(config)}
    options = [word for item in point.items() for word in as_arguments(*item)]
    to_do = check_same(path, values, config)
    return Cell(path, [*rest, *options, "--out", str(path)], config, values, to_do)


def _word(value: Any) -> str:
    return "_".join(map(str, value or (None,))) if isinstance(value, tuple) else str(value)


def _claim(out: Path, name: str) -> None:
    """Mark the folder as a sweep of this experiment; FileExistsError if it has other content."""
    mark = out / SWEEP
    if out.exists() and not mark.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out: expected a new folder or a sweep, got {out}")
    if mark.exists() and f'"{name}"' not in mark.read_text(encoding="utf-8"):
        raise FileExistsError(f"out: {out} has a sweep of another experiment; choose another --out")
    Directory(out).write_json(SWEEP, {"experiment": name})


def run_one(package: str, name: str, one: Cell, out: Path) -> None:
    """Run one combination in a separate process."""
    command = [sys.executable, "-m", package, name, *one.arguments]
    try:
        subprocess.run(command, check=False)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"resume the sweep with --out {out}") from None


def _finish(cells: Sequence[Cell], out: Path) -> int:
    """Compare the finished runs; return 1 if a run failed or has an unexpected number."""
    missing = [one.path for one in cells if check_same(one.path, one.values, one.config)]
    for path in missing:
        sys.stderr.write(f"failed: {path}\n")
    runs = [read(one.path) for one in cells if one.path not in missing]
    if len(runs) > 1:
        publish(compare(runs), out)
    wrong = [run.path for run in runs if not all(check["holds"] for check in run.checks)]
    for path in wrong:
        sys.stderr.write(f"a number is not in its expected range: {path}\n")
    return int(bool(missing or wrong))
