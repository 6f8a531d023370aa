"""Time of an import, and of the command line's help.

Each measurement is the time of a new interpreter; for an import, that of an empty interpreter is
subtracted. The first round is discarded, so that files are in the disk cache. A second table shows
whether the help imports jax.
"""

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks import harness

IMPORTS = (
    "jax, flax",
    "jax, flax.nnx, optax, distrax",
    "lvm_jax",
    "lvm_jax.em",
    "lvm_jax.networks",
    "lvm_jax.gradients",
    "lvm_jax.evidence",
    "lvm_jax.training",
    "jax, sklearn.mixture",
    "lvm_jax.sklearn",
)
HELPS = ("experiments --help", "experiments gmm_em --help")


def wait(command: list[str]) -> tuple[float, str]:
    """Seconds of a command in a new process, and its stderr; CalledProcessError if it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stderr


def imports_jax(command: list[str]) -> bool:
    """Whether the command imports jax, by the interpreter's import times."""
    report = wait(["-X", "importtime", *command])[1]
    return any(line.rpartition("|")[2].strip() == "jax" for line in report.splitlines())


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Refuse a child process of this module, whose imports would count."""
    raise ValueError(f"child: expected none, got {case}")


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    options = harness.read_options(parser, child, rounds=7)
    commands = {"": ["-c", ""]}
    commands |= {f"import {names}": ["-c", f"import {names}"] for names in IMPORTS}
    commands |= {f"python -m {words}": ["-m", *words.split()] for words in HELPS}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(options.rounds + 1):
        for name, command in commands.items():
            seconds, _ = wait(command)
            if index:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    jax = {name: imports_jax(command) for name, command in commands.items()}
    print_tables(medians, jax)
    results = {"seconds": times, "imports_jax": jax}
    print(f"\nwritten: {harness.save('startup', options.out, options.seed, results)}")


def print_tables(medians: dict[str, float], jax: dict[str, bool]) -> None:
    """Print the tables of imports and of help."""
    empty = medians[""]
    both = medians[f"import {IMPORTS[0]}"] - empty
    rows = []
    for names in IMPORTS:
        seconds = medians[f"import {names}"] - empty
        rows.append([f"import {names}", f"{seconds:.2f}", f"{seconds / both:.2f}x"])
    print(harness.markdown(("", "seconds", "of jax and flax"), rows))
    helps = [f"python -m {words}" for words in HELPS]
    rows = [[name, f"{medians[name]:.2f}", "yes" if jax[name] else "no"] for name in helps]
    print("\n" + harness.markdown(("", "seconds", "imports jax"), rows))
    print(f"\nan empty interpreter: {empty:.3f} s")


if __name__ == "__main__":
    main()
