"""Functions of every benchmark: one process per measurement, medians, tables, JSON with provenance.

Each measurement has its own process, for its peak memory, and so that threads and caches of one
library do not affect another. The contestants of a case alternate in rounds, so that slow minutes
of the machine affect all of them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lvm_jax.report import Directory, plain

Child = Callable[[dict[str, Any]], dict[str, Any]]  # a case -> its numbers, in its own process

CHILD_TIMEOUT = 120.0  # seconds, where a case names no `timeout`
WIDEST = 60  # characters of a cell of a table


def peak_megabytes() -> float:
    """Peak resident memory of this process so far [MB].

    `ru_maxrss` of a new process begins at that of its parent, which Linux's VmHWM does not.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def seconds(function: Callable[[], Any], repeats: int) -> list[float]:
    """Wall-clock seconds of each of `repeats` calls; the caller has warmed up."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return times


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds after a first call that compiles; peak memory of the process."""
    first = seconds(run, 1)[0]
    median = statistics.median(seconds(run, repeats))
    return {"seconds": median, "compile_seconds": first - median, "peak_mb": peak_megabytes()}


def read_options(parser: argparse.ArgumentParser, child: Child, rounds: int = 3) -> Any:
    """The options of a benchmark with the common ones; a child process measures and exits."""
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of each contestant")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        sys.exit()
    return options


def measure(module: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run `python -m module --child CASE` and read the JSON object on its last line."""
    command = [sys.executable, "-m", module, "--child", json.dumps(case)]
    limit = case.get("timeout", CHILD_TIMEOUT)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {limit:.0f} s"}
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        reason = "out of memory" if done.returncode == -9 else reason
        print(f"{case.get('contestant', module)}: {reason}", file=sys.stderr, flush=True)
        return {"failed": reason}
    return json.loads(done.stdout.strip().splitlines()[-1])


def take_turns(
    module: str, case: dict[str, Any], contestants: Iterable[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Each contestant's numbers in a case: the median over rounds, and every round's value."""
    names = list(contestants)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names:
            if index and "failed" in found[name][-1]:
                continue
            found[name].append(measure(module, {**case, "contestant": name}))
    return {name: summary(rows) for name, rows in found.items()}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the numbers of several rounds."""
    if "failed" in rows[-1]:
        return rows[-1]
    medians = {
        name: statistics.median(row[name] for row in rows)
        for name, value in rows[0].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {**medians, "rounds": list(rows)}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; cells beyond `WIDEST` characters are cut."""
    cells = [[_cut(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(header))]
    lines = [
        "| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cut(cell: str) -> str:
    return cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…"


def save(name: str, out: Path, seed: int, results: Any) -> Path:
    """Write results/NAME.json with its provenance; returns the path."""
    out.mkdir(parents=True, exist_ok=True)
    run = Directory(out)
    provenance = {
        **run.provenance(seed),
        "command": " ".join([f"python -m benchmarks.{name}", *sys.argv[1:]]),
    }
    return run.write_json(f"{name}.json", {"results": plain(results), "provenance": provenance})
