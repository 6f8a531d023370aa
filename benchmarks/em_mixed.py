"""EM of mixed columns: time of a fit against StepMix, and the maxima that both reach.

latent classes: the 118 slides of carcinoma, 3 classes, 50 random starts until 1e-10 nats. mixed:
20,000 rows of 10 categorical and 4 Gaussian columns, a tenth of the entries missing, 5 components,
20 steps from one random start, which differs between the contestants. Seconds are without
compilation.
"""

import argparse
import warnings
from typing import Any

import numpy as np

from benchmarks import harness

CONTESTANTS = ("lvm_jax", "stepmix")
PATTERNS = """0000000:34 0000100:2 0100000:6 0100001:1 0100100:4 0100101:5 1000000:2 1010101:1
1100000:2 1100001:1 1100100:2 1100101:7 1100111:1 1101001:1 1101101:2 1101111:3 1110101:13 1110111:5
1111101:10 1111111:16"""


def problem(case: dict[str, Any]) -> np.ndarray:
    """The rows: categories first."""
    if case["kind"] == "latent classes":
        pairs = [pair.split(":") for pair in PATTERNS.split()]
        rows = [[float(digit) for digit in digits] for digits, _ in pairs]
        return np.repeat(np.array(rows), [int(number) for _, number in pairs], axis=0)
    rng, n = np.random.default_rng(case["seed"]), case["rows"]
    z = rng.integers(5, size=n)
    levels = rng.dirichlet(np.ones(3), size=(5, 10))[z]
    codes = (rng.random((n, 10, 1)) > levels.cumsum(-1)[..., :-1]).sum(-1)
    x = np.concatenate([codes, rng.normal(size=(n, 4)) + rng.normal(size=(5, 4))[z]], 1)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    warnings.simplefilter("ignore")
    x, small = problem(case), case["kind"] == "latent classes"
    fit = {"lvm_jax": ours, "stepmix": theirs}[case["contestant"]](x, small, case["seed"])
    found: dict[str, Any] = {}

    def run() -> None:
        found["log_likelihood"] = fit()

    times = harness.timed(run, 3)
    return {**times, **found}


def ours(x: np.ndarray, small: bool, seed: int) -> Any:
    """A fit of lvm_jax, which returns its log-likelihood."""
    import jax

    from lvm_jax import em

    jax.config.update("jax_enable_x64", True)
    family: Any = em.Categorical(2)
    sizes = {"num_restarts": 50, "tolerance": 1e-10, "max_steps": 5000}
    if not small:
        family = em.Product([(em.Categorical(3), range(10)), ("diag", range(10, 14))])
        sizes = {"num_restarts": 1, "tolerance": 0.0, "max_steps": 20}

    def fit() -> float:
        options = {"start": "random", "throw": False, **sizes}
        found = em.fit(jax.random.key(seed), x, 3 if small else 5, family, **options)
        return found.info.log_likelihood * len(x)

    return fit


def theirs(x: np.ndarray, small: bool, seed: int) -> Any:
    """A fit of StepMix, which returns its log-likelihood."""
    from stepmix.stepmix import StepMix

    measurement: Any = "binary"
    sizes = {"n_components": 3, "n_init": 50, "abs_tol": 1e-10, "rel_tol": 0.0, "max_iter": 5000}
    if not small:
        measurement = {
            "categories": {"model": "categorical_nan", "n_columns": 10},
            "numbers": {"model": "gaussian_diag_nan", "n_columns": 4},
        }
        sizes = {"n_components": 5, "n_init": 1, "abs_tol": 0.0, "rel_tol": 0.0, "max_iter": 20}
    model = StepMix(measurement=measurement, random_state=seed, progress_bar=0, **sizes)
    return lambda: float(model.fit(x).score(x) * len(x))


def main() -> None:
    """Measure both cases, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.em_mixed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, as a test")
    options = harness.read_options(parser, child)
    results, lines = [], []
    for kind in ("latent classes", "mixed"):
        case = {"kind": kind, "seed": options.seed, "rows": 500 if options.quick else 20_000}
        found = harness.take_turns("benchmarks.em_mixed", case, CONTESTANTS, options.rounds)
        results.append({"case": case, "found": found})
        for name, own in found.items():
            if "failed" in own:
                lines.append([kind, name, own["failed"], "", "", ""])
                continue
            ratio = own["seconds"] / found["lvm_jax"]["seconds"]
            digits = f"{own['seconds']:.3f}", f"{ratio:.1f}x", f"{own['log_likelihood']:.3f}"
            lines.append([kind, name, *digits, f"{own['peak_mb']:.0f}"])
    header = ("case", "", "seconds", "speed-up", "nats", "peak MB")
    print(harness.markdown(header, lines))
    print(f"\nwritten: {harness.save('em_mixed', options.out, options.seed, results)}")


if __name__ == "__main__":
    main()
