"""What starting costs: importing lvm_jax beside jax and flax, and the command line's --help.

Every figure is the wall time of a whole process, interpreter included; they take turns.
"""

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks import harness

ROOMS = (
    "annealing, bounds, data, decomposition, diagnostics, em, evidence, flows, gradients, guides, "
    "likelihoods, models, networks, parallel, priors, training, weights"
)
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "import jax, flax.nnx": ("-c", "import jax, flax.nnx"),
    "import jax, flax.nnx, optax, distrax": ("-c", "import jax, flax.nnx, optax, distrax"),
    "import lvm_jax": ("-c", "import lvm_jax"),
    "from lvm_jax import (every room)": ("-c", f"from lvm_jax import {ROOMS}"),
    "python -m experiments --help": ("-m", "experiments", "--help"),
    "python -m experiments gmm_em --help": ("-m", "experiments", "gmm_em", "--help"),
    "python -m experiments vae --help": ("-m", "experiments", "vae", "--help"),
}


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    options = harness.read_options(parser, lambda case: {}, rounds=5)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    # The first turn also fills the disk's cache and writes byte code.
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    floor = median["import jax, flax.nnx"]
    rows = [[name, f"{seconds:.2f}", f"{seconds / floor:.2f}"] for name, seconds in median.items()]
    print(harness.markdown(("process", "seconds", "of jax and flax"), rows))
    results: dict[str, Any] = {"seconds": median, "rounds": times, "jax_imported": imported()}
    for name, value in results["jax_imported"].items():
        print(f"{name}: {'imports jax' if value else 'does not import jax'}")
    print(f"\nwritten: {harness.save('startup', options.out, options.seed, results)}")


def imported() -> dict[str, bool]:
    """Does each --help import jax?"""
    found = {}
    for name, arguments in COMMANDS.items():
        if arguments[-1] == "--help":
            command = [sys.executable, "-X", "importtime", *arguments]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            found[name] = any(line.split("|")[-1].strip() == "jax" for line in said.splitlines())
    return found


if __name__ == "__main__":
    main()
