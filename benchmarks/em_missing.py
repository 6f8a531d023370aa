"""EM with missing entries: time of a step, and held-out likelihood against imputation.

From one start every contestant fits 8 full or diagonal components in 16 correlated dimensions, with
10% or 30% of the entries missing at random. The score is the log-likelihood of complete rows that
are not in the fit. The imputers of scikit-learn fill the entries before its mixture is fitted.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np

from benchmarks import harness

STEPS = 8
SHAPE = (20_000, 16, 8)
PATTERNS = ("none", "5 patterns", "at random")
CONTESTANTS = ("lvm_jax", "mean imputation", "iterative imputation")


def problem(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows with missing entries, complete rows, and the true means and covariances."""
    n, dim, k = case["shape"]
    rng = np.random.default_rng(case["seed"])
    means = rng.normal(scale=2.0, size=(k, dim))
    factors = np.linalg.qr(rng.normal(size=(k, dim, dim)))[0] * np.geomspace(0.3, 2, dim)
    z = rng.integers(k, size=2 * n)
    noise = rng.normal(size=(2 * n, dim))
    x = (means[z] + np.einsum("nij,nj->ni", factors[z], noise)).astype(np.float32)
    covariances = factors @ np.swapaxes(factors, 1, 2)
    holes = rng.random((n, dim)) < case["share"]
    if case["patterns"] == "5 patterns":
        holes = holes[rng.integers(5, size=n)]
    if case["patterns"] == "none":
        holes = np.zeros_like(holes)
    return np.where(holes, np.float32(np.nan), x[:n]), x[n:], means, covariances


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    warnings.simplefilter("ignore")
    return step(case) if case["kind"] == "step" else held_out(case)


def step(case: dict[str, Any]) -> dict[str, Any]:
    """The time of a step of the compiled loop."""
    import jax

    from lvm_jax import em
    from lvm_jax.em import loop
    from lvm_jax.em.preparation import Request, prepare

    x, _, means, _ = problem(case)
    k, dim = means.shape
    shapes = {"full": (k, 1, 1), "tied": (1, 1), "diag": (k, dim), "spherical": (k,)}
    scale = np.ones(shapes[case["covariance"]])
    if case["covariance"] in ("full", "tied"):
        scale = scale * np.eye(dim)
    start = em.gaussian_mixture(np.full(k, 1 / k), means, scale, case["covariance"])
    request = Request(x, k, case["covariance"], start, tolerance=0.0)
    task, *_ = prepare(jax.random.key(0), request)
    found = harness.timed(lambda: loop.run(task, STEPS), 3)
    return {**found, "seconds": found["seconds"] / STEPS}


def held_out(case: dict[str, Any]) -> dict[str, Any]:
    """Nats per complete row that the fit has not seen, and the seconds of imputer and fit."""
    x, test, means, covariances = problem(case)
    k = len(means)
    options: dict[str, Any] = {
        "weights_init": np.full(k, 1 / k), "means_init": means,
        "precisions_init": np.linalg.inv(covariances), "max_iter": 200,
    }  # fmt: skip
    began = time.perf_counter()
    if case["contestant"] == "lvm_jax":
        from lvm_jax.sklearn import GaussianMixture
    else:
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer, SimpleImputer
        from sklearn.mixture import GaussianMixture

        iterative = case["contestant"] == "iterative imputation"
        imputer = IterativeImputer(random_state=0) if iterative else SimpleImputer()
        x = imputer.fit_transform(x).astype(np.float32)
    model = GaussianMixture(k, **options).fit(x)
    return {"seconds": time.perf_counter() - began, "score": model.score(test)}


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em_missing", description=__doc__)
    options = harness.read_options(parser, child)
    base = {"shape": SHAPE, "seed": options.seed}
    results, rows = [], []
    for covariance in ("full", "tied", "diag", "spherical"):
        times = []
        for patterns in PATTERNS:
            case = {**base, "kind": "step", "covariance": covariance, "patterns": patterns}
            case["share"] = 0.1
            found = harness.take_turns("benchmarks.em_missing", case, ("lvm_jax",), options.rounds)
            results.append({"case": case, "found": found})
            times.append(found["lvm_jax"]["seconds"])
        rows.append([covariance, *(f"{1e3 * seconds:.1f}" for seconds in times)])
    print("\nms per step, float32, 20,000 x 16, K = 8, 10% of the entries missing\n")
    print(harness.markdown(("covariance", "complete", *PATTERNS[1:]), rows))
    rows = []
    for share in (0.1, 0.3):
        case = {**base, "kind": "score", "share": share, "patterns": "at random"}
        found = harness.take_turns("benchmarks.em_missing", case, CONTESTANTS, 1)
        results.append({"case": case, "found": found})
        rows += [
            [f"{share:.0%}", name, f"{own['score']:.3f}", f"{own['seconds']:.1f}"]
            for name, own in found.items()
        ]
    print("\nnats per complete row that is not in the fit, full covariances\n")
    print(harness.markdown(("missing", "fit", "nats per row", "seconds"), rows))
    print(f"\nwritten: {harness.save('em_missing', options.out, options.seed, results)}")


if __name__ == "__main__":
    main()
