"""Coverage of the 95% intervals of `evidence`: certified, reliable, and all of them.

    python -m benchmarks.coverage [--parts certify] [--problems NAME ...] [--data-sets N]

Many data sets or seeds of each problem, with known log p(x). A share has its 95% binomial interval.
Parts:
certify: data sets that are certified, and certified intervals that hold log p(x).
methods: the same for methods at fixed budgets; "reliable" are runs whose checks all pass. The cost
of the search for mass that chains miss is not part of the budget, and has its own column.
laws: runs with log-weights of known distributions. "misses" is the share of all runs that are
reliable and whose interval misses log p(x), nominally 5%.
digits: `certify` on a VAE that is trained first, against long annealed chains.
"""

import argparse
import time
from typing import Any

from benchmarks import harness

PARTS = ("certify", "methods", "laws", "digits")
LEVEL = 0.95
CERTIFY_HEADER = (
    "problem", "data sets", "certified", "of those hold", "95% interval", "half-width",
    "RMS error", "evaluations", "seconds",
)  # fmt: skip
METHODS_HEADER = (
    "problem", "method", "evaluations", "of the check", "reliable", "of those hold", "95% interval",
    "all hold", "half-width", "RMS error", "",
)  # fmt: skip
LAWS_HEADER = ("weights", "all hold", "reliable", "of those hold", "misses")


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One problem, or one problem and method, in this process."""
    parts = {"certify": certified, "methods": by_method, "laws": of_laws, "digits": of_digits}
    return parts[case["part"]](case)


def certified(case: dict[str, Any]) -> dict[str, Any]:
    """`certify` on all data sets of a problem at once."""
    import jax
    import numpy as np

    from benchmarks.coverage_problems import PROBLEMS
    from lvm_jax import evidence

    problem = PROBLEMS[case["problem"]]()(jax.random.key(case["seed"]), case["number"])
    settings = {"tolerance": case["tolerance"], "budget": case["budget"]}
    moves = None if problem.moves.continuous else problem.moves
    began = time.perf_counter()
    found = evidence.certify(
        jax.random.key(case["seed"] + 1), problem.p, problem.q, problem.x, transition=moves,
        **settings,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    within, half = found.within, 0.5 * (found.high - found.low)
    methods = {name: float(np.mean(found.method == name)) for name in set(found.method.tolist())}
    return {
        **scores(problem.truth, found.log_evidence, found.low, found.high, within),
        "certified": float(within.mean()),
        "half_width": float(np.median(half[within])) if within.any() else None,
        "evaluations": float(found.cost.mean()),
        "seconds": seconds,
        "methods": methods,
        "verdict": found.verdict(),
        "statement": found.statement(0),
    }


def scores(truth: Any, centre: Any, low: Any, high: Any, kept: Any) -> dict[str, Any]:
    """Coverage and errors of the kept estimates."""
    import numpy as np

    from lvm_jax.evidence.scoring import share

    holds, off = (low <= truth) & (truth <= high), np.asarray(centre, float) - truth
    return {
        "held": share(holds[kept])._asdict(),
        "too_low": int((high < truth)[kept].sum()),
        "too_high": int((low > truth)[kept].sum()),
        "rmse": float(np.sqrt(np.mean(off[kept] ** 2))) if kept.any() else None,
        "largest_error": float(np.abs(off[kept]).max()) if kept.any() else None,
    }


def by_method(case: dict[str, Any]) -> dict[str, Any]:
    """Several methods on a problem at every budget that they can use."""
    import jax

    from benchmarks import coverage_methods
    from benchmarks.coverage_problems import PROBLEMS

    problem = PROBLEMS[case["problem"]]()(jax.random.key(case["seed"]), case["number"])
    rows: list[dict[str, Any]] = []
    for name in filter(lambda name: coverage_methods.applicable(name, problem), case["methods"]):
        for budget in case["budgets"]:
            method = coverage_methods.make(name, problem, budget)
            if method is not None:
                key = jax.random.fold_in(jax.random.key(case["seed"] + 1), budget)
                rows.append({"method": name, "budget": budget, **of_budget(problem, method, key)})
    return {"rows": rows}


def of_budget(problem: Any, method: Any, key: Any) -> dict[str, Any]:
    """The coverage of a method at one budget."""
    import numpy as np

    from benchmarks import coverage_methods

    began = time.perf_counter()
    found, checked = coverage_methods.program(problem, method)(key)
    seconds = time.perf_counter() - began
    low, high = found.nominal_interval()
    reliable = np.asarray(found.reliable)
    return {
        **scores(problem.truth, found.log_evidence, low, high, reliable),
        "reliable": float(reliable.mean()),
        "all_hold": float(((low <= problem.truth) & (problem.truth <= high)).mean()),
        "half_width": float(np.median(0.5 * (high - low)[reliable])) if reliable.any() else None,
        "evaluations": method.cost,
        "checked": float(np.mean(checked)),
        "seconds": seconds,
        "verdict": found.verdict(),
    }


def of_laws(case: dict[str, Any]) -> dict[str, Any]:
    """All distributions of weights."""
    import jax
    import numpy as np

    from benchmarks.coverage_laws import LAWS

    rows = []
    for name, run in LAWS.items():
        keys = jax.random.split(jax.random.key(case["seed"] + 1), case["number"])
        truth, found = jax.device_get(jax.jit(lambda k, run=run: jax.lax.map(run, k))(keys))
        low, high = found.nominal_interval()
        holds, reliable = (low <= truth) & (truth <= high), np.asarray(found.reliable)
        rows.append({
            "name": name, "all_hold": float(holds.mean()), "reliable": float(reliable.mean()),
            "held": float(holds[reliable].mean()) if reliable.any() else None,
            "misses": float((reliable & ~holds).mean()),
        })  # fmt: skip
    return {"rows": rows}


def of_digits(case: dict[str, Any]) -> dict[str, Any]:
    """The comparison on a trained VAE."""
    from benchmarks import coverage_digits

    return coverage_digits.run(case)


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    from benchmarks.coverage_methods import METHODS
    from benchmarks.coverage_problems import PROBLEMS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    add("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME",
        help=f"only these of: {'; '.join(PROBLEMS)}")  # fmt: skip
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME",
        help=f"only these of: {'; '.join(METHODS)}")  # fmt: skip
    add("--data-sets", type=int, default=300, help="of each problem; 4 times as many for the laws")
    add("--budgets", type=int, nargs="+", default=[600, 2_000, 6_000, 20_000], help="of methods")
    add("--budget", type=float, default=1e5, help="evaluations of certify for one data set")
    add("--tolerance", type=float, default=0.1, help="of certify [nats]")
    add("--images", type=int, default=200, help="digits of the test set, and drawn ones")
    options = harness.read_options(parser, child, rounds=1)
    parts = {
        "certify": certify_part, "methods": methods_part, "laws": laws_part, "digits": digits_part
    }  # fmt: skip
    results = {name: parts[name](options) for name in options.parts}
    print(f"\nwritten: {harness.save('coverage', options.out, options.seed, results)}")


def measured(options: Any, part: str, **more: Any) -> dict[str, Any]:
    """One case in a process of its own, with its numbers."""
    case = {
        "part": part, "number": options.data_sets, "seed": options.seed, "timeout": 3_600.0,
        "tolerance": options.tolerance, "budget": options.budget, **more,
    }  # fmt: skip
    return {"case": case, "found": harness.measure("benchmarks.coverage", case)}


def certify_part(options: Any) -> list[dict[str, Any]]:
    """The table of `certify`."""
    results = []
    for name in options.problems:
        results.append(measured(options, "certify", problem=name))
        print(certify_line(results[-1]), flush=True)
    print("\n" + harness.markdown(CERTIFY_HEADER, [certify_line(one) for one in results]))
    return results


def certify_line(result: dict[str, Any]) -> list[str]:
    """The row of one problem."""
    case, found = result["case"], result["found"]
    if "failed" in found:
        return [case["problem"], found["failed"], *["–"] * (len(CERTIFY_HEADER) - 2)]
    return [
        case["problem"], f"{case['number']}", f"{found['certified']:.0%}", *held(found["held"]),
        *(nats(found[name]) for name in ("half_width", "rmse")),
        f"{found['evaluations']:,.0f}", f"{found['seconds']:.0f}",
    ]  # fmt: skip


def held(part: dict[str, float]) -> list[str]:
    """A share and its interval."""
    if not part["of"]:
        return ["–", "–"]
    return [f"{part['share']:.1%}", f"[{part['low']:.1%}, {part['high']:.1%}]"]


def nats(value: float | None) -> str:
    """A number in nats, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def methods_part(options: Any) -> list[dict[str, Any]]:
    """The table of methods at fixed budgets; marks coverages below the level by their error."""
    results, rows = [], []
    more = {"methods": list(options.methods), "budgets": options.budgets}
    for problem in options.problems:
        results.append(measured(options, "methods", problem=problem, **more))
        fresh = method_lines(results[-1])
        print(*fresh, sep="\n", flush=True)
        rows += fresh
    print("\n" + harness.markdown(METHODS_HEADER, rows))
    return results


def method_lines(result: dict[str, Any]) -> list[list[str]]:
    """The rows of one problem."""
    name, found = result["case"]["problem"], result["found"]
    if "failed" in found:
        return [[name, found["failed"], *["–"] * (len(METHODS_HEADER) - 2)]]
    return [
        [
            name, row["method"], f"{row['evaluations']:,.0f}", f"{row['checked']:,.0f}",
            f"{row['reliable']:.0%}", *held(row["held"]), f"{row['all_hold']:.1%}",
            *(nats(row[part]) for part in ("half_width", "rmse")),
            "low" if row["held"]["high"] < LEVEL else "",
        ]
        for row in found["rows"]
    ]  # fmt: skip


def laws_part(options: Any) -> dict[str, Any]:
    """The table of known distributions of weights."""
    result = measured(options, "laws", number=4 * options.data_sets)
    rows = [
        [
            row["name"], f"{row['all_hold']:.1%}", f"{row['reliable']:.0%}",
            "–" if row["held"] is None else f"{row['held']:.1%}", f"{row['misses']:.1%}",
        ]
        for row in result["found"]["rows"]
    ]  # fmt: skip
    print("\n" + harness.markdown(LAWS_HEADER, rows))
    return result


def digits_part(options: Any) -> dict[str, Any]:
    """The comparison on a trained VAE, as lines of names and numbers."""
    more = {"epochs": 100, "chains": 32, "temperatures": 500}
    result = measured(options, "digits", number=options.images, **more)
    found = result["found"]
    rows = [
        [images, name, str(value) if not isinstance(value, float) else f"{value:.4g}"]
        for images in ("test", "drawn")
        for name, value in found.get(images, {}).items()
    ]
    print(f"\nVAE of the digits: {found.get('failed', 'measured')}\n")
    print(harness.markdown(("images", "quantity", "value"), rows))
    return result


if __name__ == "__main__":
    main()
