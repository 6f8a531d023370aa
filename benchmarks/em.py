"""Time of an EM iteration against scikit-learn, gmmx and the matrix products of the same shapes.

From one start, without a tolerance, every contestant makes the same iterations. The floor is the
two necessary products, T(X) eta^T and R^T T(X), on given features. Memory is the peak of the whole
process with interpreter and libraries, and its excess over the data, and over the data and an idle
process that has imported the same libraries.
"""

import argparse
from typing import Any

from benchmarks import harness
from benchmarks.em_contestants import JOBS, compilations, product, restarts

SHAPES = ((200_000, 16, 16), (200_000, 32, 32), (50_000, 64, 64), (1_000_000, 8, 8))
TYPES = ("full", "tied", "diag", "spherical")


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    if case["dtype"] == "float64" and case["contestant"] != "sklearn":
        import jax

        jax.config.update("jax_enable_x64", True)
    special = {"restarts": restarts, "compilations": compilations}
    return special.get(case["kind"], JOBS.get(case["contestant"], product))(case)


def step_cases(quick: bool, seed: int) -> list[dict[str, Any]]:
    """Every shape in both precisions with full covariances; other types for one shape."""
    shapes = [(20_000, 8, 8), (20_000, 16, 16)] if quick else SHAPES
    cells = [(shape, "full") for shape in shapes]
    cells += [(shapes[1], covariance) for covariance in TYPES[1:]]
    return [
        {"kind": "step", "shape": shape, "covariance": covariance, "dtype": dtype,
         "seed": seed, "repeats": 5, "check": shape[0] <= 20_000}
        for shape, covariance in cells for dtype in ("float32", "float64")
    ]  # fmt: skip


def contestants(case: dict[str, Any]) -> list[str]:
    """The contestants of a case: gmmx has float32 only, and no tied or spherical type."""
    names = ["lvm_jax", "sklearn"]
    if case["covariance"] in ("full", "diag") and case["dtype"] == "float32":
        names.append("gmmx")
    return [*names, "product"] if case["covariance"] == "full" else names


def cell(value: float | None, digits: int = 2, suffix: str = "") -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}{suffix}"


def row(case: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[str]:
    """One line of the table of steps."""
    ours = found["lvm_jax"]
    n, dim, k = case["shape"]

    def ratio(name: str) -> str:
        other = found.get(name)
        if other is None:
            return "–"
        return "fails" if "failed" in other else f"{other['seconds'] / ours['seconds']:.1f}x"

    floor = found.get("product", {}).get("seconds")
    return [
        f"{n:,}, {dim}, {k}", case["dtype"], case["covariance"], f"{1e3 * ours['seconds']:.1f}",
        ratio("sklearn"), ratio("gmmx"), cell(floor and floor / ours["seconds"]),
        cell(ours["compile_seconds"], 1), cell(ours["data_mb"], 0), cell(ours["peak_mb"], 0),
        cell(ours["above_data_mb"], 0), cell(found["sklearn"].get("above_data_mb"), 0),
        cell(found.get("gmmx", {}).get("above_data_mb"), 0),
    ]  # fmt: skip


HEADER = (
    "N, D, K", "dtype", "covariance", "ms/step", "vs sklearn", "vs gmmx", "of product",
    "compile s", "data MB", "peak MB", "above data", "sklearn's", "gmmx's",
)  # fmt: skip


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes, as a test")
    options = harness.read_options(parser, child)
    results, rows = [], []
    for case in step_cases(options.quick, options.seed):
        found = harness.take_turns("benchmarks.em", case, contestants(case), options.rounds)
        results.append({"case": case, "found": found})
        rows.append(row(case, found))
        print(harness.markdown(HEADER, [rows[-1]]).splitlines()[2], flush=True)
    print("\nEM steps (x: times as fast as; of product: share of the bare products' speed)\n")
    print(harness.markdown(HEADER, rows))
    results += other_tables(options)
    path = harness.save("em", options.out, options.seed, results)
    print(f"\nwritten: {path}")


def other_tables(options: Any) -> list[dict[str, Any]]:
    """Tables of whole fits with restarts, and of the number of compilations."""
    base = {"covariance": "full", "dtype": "float32", "seed": options.seed, "repeats": 1}
    num = 4 if options.quick else 32
    case = {**base, "kind": "restarts", "shape": (20_000, 8, 8), "restarts": num}
    found = harness.take_turns("benchmarks.em", case, ("lvm_jax", "sklearn"), options.rounds)
    ours, theirs = found["lvm_jax"], found["sklearn"]
    print(f"\nfit with n_init={num} on (20,000, 8, 8), float32, k-means starts included\n")
    digits = {"seconds": 2, "first_seconds": 2, "objective": 5, "peak_mb": 0}
    lines = [
        [name, *(f"{own[key]:.{number}f}" for key, number in digits.items())]
        for name, own in found.items()
    ]
    print(harness.markdown(("", "seconds", "first fit", "nats per point", "peak MB"), lines))
    print(f"\n{theirs['seconds'] / ours['seconds']:.1f}x as fast as scikit-learn")
    base |= {"kind": "compilations", "shape": (2_000, 4, 3), "contestant": "lvm_jax"}
    count = harness.measure("benchmarks.em", base)
    print(
        f"{count['fits']} fits over tolerances, regularizations and seeds: "
        f"{count['programs']} programs compiled"
    )
    return [{"case": case, "found": found}, {"case": "compilations", "found": count}]


if __name__ == "__main__":
    main()
