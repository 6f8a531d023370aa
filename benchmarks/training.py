"""A training step of a VAE against a scan by hand, NumPyro's SVI, flax's example and the floor.

784-200-200-50 tanh networks with Bernoulli pixels, k draws of z for each image, Adam, batches of
dynamically binarised images in the order of an epoch's permutation. lvm_jax's `training.fit` and a
plain `lax.scan` loop alternate in ONE process, draw the same random numbers, and must have the same
bound after 20 steps. Both are timed as whole trainings after compilation, from rows on the host to
a result on the host. The time of a step is that of further epochs, without the fixed cost of a
training, which the other contestants do not include. NumPyro's Trace_ELBO and RenyiELBO with k
particles run in a scan over the batches on the device; flax's example makes a call for every batch
from the host, and has k = 1 only. The floor is the matrix products of a step, forward and backward.
"""

import argparse
import os
from typing import Any

from benchmarks import harness

CASES = ((1, 100), (5, 100), (50, 100), (1, 20))  # k, batch; the last is that of Burda et al.
OTHERS = ("numpyro_elbo", "numpyro_renyi", "flax", "product")
LONG = 100  # steps of the other loops for large k; an epoch for small k
HEADER = (
    "k", "batch", "contestant", "ms/step", "images/s", "GFLOP/s", "of product", "speed-up",
    "first epoch s", "bound", "peak MB",
)  # fmt: skip


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    from benchmarks.training_contestants import JOBS
    from benchmarks.training_floor import flops

    return {**JOBS[case["contestant"]](case), "flops": flops(case)}


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--images", type=int, default=60_000, help="rows of the data")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of one training")
    parser.add_argument("--samples", type=int, nargs="+", help="only these k")
    options = harness.read_options(parser, child)
    source = "MNIST" if os.environ.get("LVM_JAX_DATA") else "random bits"
    results, rows = [], []
    for samples, batch in CASES:
        if options.samples and samples not in options.samples:
            continue
        case = make_case(options, samples, batch)
        names = ["lvm_jax", *(name for name in OTHERS if name != "flax" or samples == 1)]
        found = harness.take_turns("benchmarks.training", case, names, options.rounds)
        results.append({"case": {**case, "source": source}, "found": found})
        rows += table(case, found)
        print(*rows[-1 - len(names) :], sep="\n", flush=True)
    print(f"\none training step, {options.images:,} rows of {source}\n")
    print(harness.markdown(HEADER, rows))
    for result in results:
        case, ours = result["case"], result["found"]["lvm_jax"]
        if "failed" not in ours:
            print(
                f"k = {case['samples']}, batch {case['batch']}: time of fit over that of the scan, "
                f"{ours['ratio']:.3f} for a step and {ours['epoch_ratio']:.3f} for one epoch"
            )
    print(f"\nwritten: {harness.save('training', options.out, options.seed, results)}")


def make_case(options: Any, samples: int, batch: int) -> dict[str, Any]:
    """The case of every contestant for one k and batch size."""
    length, few = options.images // batch, samples > 5
    return {
        "images": options.images,
        "epochs": options.epochs,
        "samples": samples,
        "batch": batch,
        "steps": min(length, LONG) if few else length,
        "repeats": 1 if few else 3,
        "seed": options.seed,
        "timeout": 900.0,
    }


def table(case: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The rows of one case: fit and the scan in the same process, then the others."""
    ours = found["lvm_jax"]
    shown = dict(found)
    if "failed" not in ours:
        scan = {name: ours[f"scan_{name}"] for name in ("seconds", "epoch_seconds", "bound")}
        shown = {"lvm_jax": ours, "scan by hand": {**ours, **scan}, **found}
    return [line(case, name, own, found) for name, own in shown.items()]


def line(
    case: dict[str, Any], name: str, own: dict[str, Any], found: dict[str, dict[str, Any]]
) -> list[str]:
    """One contestant's row; the speed-up is that of lvm_jax over this row."""
    start = [str(case["samples"]), str(case["batch"]), name]
    if "failed" in own:
        return [*start, own["failed"], *["–"] * (len(HEADER) - 4)]
    seconds = own["seconds"]
    ours, floor = (found[other].get("seconds") for other in ("lvm_jax", "product"))
    return [
        *start,
        f"{1e3 * seconds:.2f}",
        f"{case['batch'] / seconds:,.0f}",
        f"{own['flops'] / seconds / 1e9:.0f}",
        "–" if floor is None else f"{floor / seconds:.2f}",
        "–" if ours is None else f"{seconds / ours:.2f}x",
        f"{own['epoch_seconds']:.2f}" if "epoch_seconds" in own else "–",
        f"{own['bound']:.2f}" if "bound" in own else "–",
        f"{own['peak_mb']:.0f}",
    ]


if __name__ == "__main__":
    main()
