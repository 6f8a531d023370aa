"""log p(x) of a VAE's images by importance sampling, as a share of the decoder's matrix products.

`evidence.evaluate` of a 784-200-200-50 Bernoulli VAE of the library, with k draws of z for each
image, gives estimate, standard error, effective sample size and k-hat of every image. The images
are random bits. The floor is the three matrix products of the decoder on as many rows, 1,000 at a
time. Memory is the peak of the whole process, and its excess over the process before the
evaluation, which must not grow with k, and grows with the images by their own size only.
"""

import argparse
from typing import Any

from benchmarks import harness

NAMES = ("lvm_jax", "product")
HEADER = (
    "images", "k", "contestant", "seconds", "us/draw", "GFLOP/s", "of product", "nats", "peak MB",
    "above idle",
)  # fmt: skip


def evaluate(case: dict[str, Any]) -> dict[str, Any]:
    """evidence.evaluate of all images in one call."""
    import jax

    from benchmarks.decoder import with_speed
    from benchmarks.training_contestants import GUIDE, MODEL, random_bits, start
    from lvm_jax import evidence

    x, (theta, phi) = random_bits(case), jax.block_until_ready(start(case))
    idle, found = harness.peak_megabytes(), None

    def run() -> None:
        nonlocal found
        key = jax.random.key(case["seed"] + 1)
        found = jax.block_until_ready(
            evidence.evaluate(
                key, MODEL(theta), GUIDE(phi), x, case["samples"], chunk_size=case["chunk"]
            )
        )

    measured = with_speed(case, harness.timed(run, 1))
    mean = float(evidence.summarize(found).log_evidence)
    return {**measured, "log_evidence": mean, "above_idle_mb": measured["peak_mb"] - idle}


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    if case["contestant"] == "lvm_jax":
        return evaluate(case)
    from benchmarks.decoder import product

    return product(case)


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--points", type=int, default=1_000, help="images")
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 500, 5_000], help="k")
    parser.add_argument("--chunk-size", type=int, default=1_000, help="rows at a time")
    options = harness.read_options(parser, child)
    results, rows = [], []
    for samples in options.samples:
        case = {
            "points": options.points,
            "images": options.points,
            "samples": samples,
            "chunk": options.chunk_size,
            "repeats": 1,
            "seed": options.seed,
            "timeout": 3_600.0,
        }
        found = harness.take_turns("benchmarks.evaluation", case, NAMES, options.rounds)
        results.append({"case": case, "found": found})
        rows += [line(case, name, found) for name in NAMES]
        print(*rows[-len(NAMES) :], sep="\n", flush=True)
    print(f"\nlog p(x) by importance sampling, chunks of {options.chunk_size:,} rows\n")
    print(harness.markdown(HEADER, rows))
    print(f"\nwritten: {harness.save('evaluation', options.out, options.seed, results)}")


def line(case: dict[str, Any], name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """One contestant's row."""
    own, floor = found[name], found["product"].get("seconds")
    start = [f"{case['points']:,}", f"{case['samples']:,}", name]
    if "failed" in own:
        return [*start, own["failed"], *["–"] * 6]
    seconds = own["seconds"]
    return [
        *start,
        f"{seconds:.2f}",
        f"{1e6 * seconds / case['points'] / case['samples']:.2f}",
        f"{own['gigaflops']:.0f}",
        "–" if floor is None else f"{floor / seconds:.2f}",
        f"{own['log_evidence']:.3f}" if "log_evidence" in own else "–",
        f"{own['peak_mb']:.0f}",
        f"{own['above_idle_mb']:.0f}" if "above_idle_mb" in own else "–",
    ]


if __name__ == "__main__":
    main()
