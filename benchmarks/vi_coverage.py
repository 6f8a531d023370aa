"""Error and coverage of log Z of `vi.fit`: densities with known log Z, many seeds of each.

    python -m benchmarks.vi_coverage [--targets NAME ...] [--families NAME ...] [--seeds N]

For each target and family: the fits whose log Z is reliable, those of them whose 95% interval
holds the truth and that are within 0.05 nats of it, the root of the mean squared error of the
reliable ones in nats and in standard errors, and the evaluations for the fit and for log Z.
The default targets are those of `lvm_jax.problems`; the others are `--targets held_out`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import harness

OWN = (
    "credit", "credit_likelihood", "breast_cancer", "eight_schools", "eight_schools_centred",
    "funnel", "wells",
)  # fmt: skip
HELD_OUT = (
    "student", "rosenbrock", "ill_conditioned", "kidscore", "radon", "radon_centred",
    "gaussian_process", "sparse_means", "autoregression", "observed_funnel", "oxygen", "slopes",
    "poisson", "logistic",
)  # fmt: skip
FAMILIES = ("full_rank", "mean_field", "mixture")
BUDGET = 30_000  # max_evaluations
HEADER = (
    "target", "D", "family", "fits", "reliable", "covered", "within 0.05", "rmse, nats",
    "rmse, errors", "fit evaluations", "log Z evaluations", "s",
)  # fmt: skip


def child(case: dict[str, Any]) -> dict[str, Any]:
    """All fits of one target by one family in this process."""
    import time
    import warnings

    import jax
    import jax.numpy as jnp
    import numpy as np

    from lvm_jax import vi

    jax.config.update("jax_enable_x64", case["float64"])
    warnings.simplefilter("ignore", RuntimeWarning)
    target = factories()[case["target"]]()
    rows = []
    for seed in range(case["seeds"]):
        began = time.perf_counter()
        found = vi.fit(
            jax.random.key(case["seed"] + seed), target.log_density, jnp.zeros(target.dim),
            family=case["family"], max_evaluations=BUDGET, throw=False,
        )  # fmt: skip
        evidence = found.log_evidence
        low, high = evidence.nominal_interval()
        rows.append({
            "error": float(evidence.log_evidence) - target.log_evidence,
            "standard_error": float(evidence.standard_error),
            "covered": bool(low <= target.log_evidence <= high),
            "reliable": bool(evidence.reliable),
            "failed": int(np.asarray(evidence.failed)),
            "evaluations": found.evaluations,
            "evidence_evaluations": found.evidence_evaluations,
            "seconds": time.perf_counter() - began,
        })  # fmt: skip
    return {"dim": target.dim, "fits": rows}


def factories() -> dict[str, Callable[[], Any]]:
    """The targets by name."""
    from benchmarks import vi_densities as more
    from lvm_jax import problems

    return {
        "credit": problems.credit,
        "credit_likelihood": problems.credit_likelihood,
        "breast_cancer": problems.breast_cancer,
        "eight_schools": partial(problems.eight_schools, False),
        "eight_schools_centred": partial(problems.eight_schools, True),
        "funnel": problems.funnel,
        "wells": partial(problems.wells, 5, 5, 4.0),
        "student": partial(more.student, 5, 3.0),
        "rosenbrock": partial(more.rosenbrock, 10),
        "ill_conditioned": partial(more.ill_conditioned, 20),
        "radon": partial(more.radon, False),
        "radon_centred": partial(more.radon, True),
        **{name: getattr(more, name) for name in HELD_OUT if hasattr(more, name) and name not in
           ("student", "rosenbrock", "ill_conditioned", "radon")},
    }  # fmt: skip


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vi_coverage", description=__doc__)
    choices = (*OWN, *HELD_OUT, "held_out")
    parser.add_argument("--targets", nargs="+", choices=choices, default=OWN)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--seeds", type=int, default=10, help="fits of each target and family")
    parser.add_argument("--float64", action="store_true", help="fit in float64")
    options = harness.read_options(parser, child, rounds=1)
    targets = HELD_OUT if "held_out" in options.targets else options.targets
    results, rows = [], []
    for target in targets:
        for family in options.families:
            case = {
                "target": target, "family": family, "seeds": options.seeds, "seed": options.seed,
                "float64": options.float64, "timeout": 600.0,
            }  # fmt: skip
            found = harness.measure("benchmarks.vi_coverage", case)
            results.append({"case": case, "found": found})
            rows.append(line(case, found))
            print(rows[-1], flush=True)
    print(harness.markdown(HEADER, rows))
    print(f"\nwritten: {harness.save('vi_coverage', options.out, options.seed, results)}")


def line(case: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The row of one target and family."""
    import statistics

    if "failed" in found:
        return [case["target"], "–", case["family"], found["failed"], *["–"] * (len(HEADER) - 4)]
    fits = found["fits"]
    trusted = [fit for fit in fits if fit["reliable"]]
    medians = (
        statistics.median(fit[name] for fit in fits)
        for name in ("evaluations", "evidence_evaluations", "seconds")
    )
    evaluations, draws, seconds = medians
    return [
        case["target"], str(found["dim"]), case["family"], str(len(fits)), str(len(trusted)),
        str(sum(fit["covered"] for fit in trusted)),
        str(sum(abs(fit["error"]) <= 0.05 for fit in trusted)),
        root_mean_square([fit["error"] for fit in trusted], ".4f"),
        root_mean_square([fit["error"] / fit["standard_error"] for fit in trusted], ".2f"),
        f"{evaluations:,.0f}", f"{draws:,.0f}", f"{seconds:.1f}",
    ]  # fmt: skip


def root_mean_square(values: list[float], form: str) -> str:
    """The root of the mean square, or a dash for none."""
    if not values:
        return "–"
    return format((sum(value**2 for value in values) / len(values)) ** 0.5, form)


if __name__ == "__main__":
    main()
