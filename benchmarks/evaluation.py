"""log p(x) of a test set by importance sampling: its speed beside the matrix products, its memory.

`evidence.evaluate` of N binary images of 784 pixels with a 50-200-200-784 tanh decoder, k draws of
z for each, its standard errors and k-hat included. The floor is the decoder's three matrix products
on as many rows. The full test set of MNIST is `--points 10000 --samples 5000`.
"""

import argparse
from typing import Any

import jax

from benchmarks import harness
from benchmarks.decoder import ours, problem, product, with_speed

HEADER = ("N", "k", "seconds", "GFLOP/s", "of product", "compile s", "peak MB", "above idle")


def evaluate(case: dict[str, Any]) -> dict[str, Any]:
    """evidence.evaluate, and the memory of the process before it."""
    from lvm_jax import evidence

    theta, phi, x = jax.block_until_ready(problem(case))
    model, guide = ours()
    idle = harness.peak_megabytes()

    def run() -> None:
        key = jax.random.key(1)
        jax.block_until_ready(evidence.evaluate(key, model, guide, theta, phi, x, case["samples"]))

    found = harness.timed(run, case["repeats"])
    return {**with_speed(case, found), "above_idle_mb": found["peak_mb"] - idle}


JOBS = {"lvm_jax": evaluate, "product": product}


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    return JOBS[case["contestant"]](case)


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--points", type=int, default=1_000, help="data points N")
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 500, 5_000], help="k")
    options = harness.read_options(parser, child)
    results, rows = [], []
    for samples in options.samples:
        case = {
            "points": options.points, "samples": samples, "seed": options.seed, "repeats": 1,
            "timeout": 2_400.0,
        }  # fmt: skip
        found = harness.take_turns("benchmarks.evaluation", case, JOBS, options.rounds)
        results.append({"case": case, "found": found})
        rows.append(line(case, found))
        print(rows[-1], flush=True)
    print(f"\nevidence.evaluate, medians of {options.rounds} rounds\n")
    print(harness.markdown(HEADER, rows))
    print(f"\nwritten: {harness.save('evaluation', options.out, options.seed, results)}")


def line(case: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[str]:
    """One row of the table."""
    own, floor = found["lvm_jax"], found["product"]
    start = [f"{case['points']:,}", f"{case['samples']:,}"]
    failed = own.get("failed") or floor.get("failed")
    if failed:
        return [*start, failed, *["–"] * (len(HEADER) - 3)]
    return [
        *start,
        f"{own['seconds']:.2f}",
        f"{own['gigaflops']:.0f}",
        f"{floor['seconds'] / own['seconds']:.2f}",
        f"{own['compile_seconds']:.1f}",
        f"{own['peak_mb']:.0f}",
        f"{own['above_idle_mb']:.0f}",
    ]


if __name__ == "__main__":
    main()
