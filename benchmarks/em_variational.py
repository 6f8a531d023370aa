"""Time of variational Gaussian mixtures against scikit-learn: a step, and a whole fit.

A step is a fit with many iterations minus one with a single iteration, from k-means starts and
without a tolerance. A whole fit has the default tolerance and at most 100 iterations; the k-means
starts of the two libraries differ, and so do the iterations.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np

from benchmarks import harness

STEPS = {"lvm_jax": 100, "sklearn": 10}
SHAPES = ((272, 2, 6), (20_000, 8, 20))  # (N, D, K); 272 rows are Old Faithful


def rows(case: dict[str, Any]) -> np.ndarray:
    """Old Faithful, or overlapping clusters."""
    n, dim, k = case["shape"]
    if n == 272:
        from lvm_jax.data import old_faithful

        return np.asarray(old_faithful().x, np.float64)
    rng = np.random.default_rng(case["seed"])
    centres = rng.normal(scale=2.0, size=(k, dim))
    return centres[rng.integers(k, size=n)] + rng.normal(size=(n, dim))


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    warnings.simplefilter("ignore")
    if case["contestant"] == "sklearn":
        from sklearn.mixture import BayesianGaussianMixture as Contestant
    else:
        from lvm_jax.sklearn import BayesianGaussianMixture as Contestant  # type: ignore[assignment]
    x, many = rows(case), STEPS[case["contestant"]]
    common = {"n_components": case["shape"][2], "covariance_type": case["covariance"]}

    def run(steps: int, tol: float) -> Any:
        return Contestant(**common, max_iter=steps, tol=tol, random_state=0).fit(x)

    def took(steps: int) -> float:
        return min(harness.seconds(lambda: run(steps, 0.0), 2))

    began = time.perf_counter()
    run(1, 0.0)
    first = time.perf_counter() - began
    step = (took(1 + many) - took(1)) / many
    began = time.perf_counter()
    steps = run(100, 1e-3).n_iter_
    return {"seconds": step, "fit": time.perf_counter() - began, "first": first, "steps": steps}


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.em_variational", description=__doc__
    )
    options = harness.read_options(parser, child)
    header = (
        "N, D, K", "covariance", "ms/step", "sklearn", "ratio", "fit s", "sklearn", "steps",
        "sklearn",
    )  # fmt: skip
    results, lines = [], []
    for shape in SHAPES:
        for covariance in ("full", "diag"):
            case = {"shape": shape, "covariance": covariance, "seed": options.seed, "timeout": 600}
            found = harness.take_turns(
                "benchmarks.em_variational", case, ("lvm_jax", "sklearn"), options.rounds
            )
            results.append({"case": case, "found": found})
            ours, theirs = found["lvm_jax"], found["sklearn"]
            lines.append([
                "{:,}, {}, {}".format(*shape), covariance, f"{1e3 * ours['seconds']:.2f}",
                f"{1e3 * theirs['seconds']:.2f}", f"{theirs['seconds'] / ours['seconds']:.1f}x",
                f"{ours['fit']:.3f}", f"{theirs['fit']:.3f}", f"{ours['steps']:.0f}",
                f"{theirs['steps']:.0f}",
            ])  # fmt: skip
            print(harness.markdown(header, lines).splitlines()[-1], flush=True)
    print(harness.markdown(header, lines))
    print(f"\nwritten: {harness.save('em_variational', options.out, options.seed, results)}")


if __name__ == "__main__":
    main()
