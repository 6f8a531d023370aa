"""Errors of log p(x) in nats against seconds, for each method and its peers.

The data are simulated from two models: a linear-Gaussian one with known log p(x), and the
50-200-200-784 Bernoulli decoder, whose log p(x) is between the two bounds of a long
`evidence.sandwich`. At each budget every method makes as many passes through the model, forward or
backward, as HMC chains with T temperatures. The pilot runs of lvm_jax are additional, and part of
its seconds. Peers: TFP's AIS on JAX, blackjax's tempered SMC, AIS by hand. Further tables: long
chains of many images as a share of the matrix products of their gradients, the memory of
`evidence.evaluate_annealed` against the number of images, and the cost of each method to a stated
root mean squared error on problems of `benchmarks.coverage_problems`.
"""

import argparse
from typing import Any

from benchmarks import harness

MODELS = ("linear-Gaussian", "decoder")
PARTS = ("error", "speed", "memory", "tolerance")
PEERS = (
    "annealed, HMC", "annealed, HMC, no pilot", "AIS, TFP", "AIS, TFP, recomputed", "AIS by hand",
    "product",
)  # fmt: skip
TOLERANCE_PROBLEMS = [
    "Gaussian, D = 8", "two modes, D = 4", "heavy tails", "wells (5, 5, 4)", "spike, D = 10",
    "funnel, D = 10",
]  # fmt: skip
TOLERANCE_METHODS = (
    "importance, guide", "importance, prior", "certify", "annealed, prior", "sequential, prior",
    "nested", "AIS, TFP", "tempered SMC, BlackJAX", "nested, dynesty",
)  # fmt: skip
ERROR_HEADER = (
    "model", "T", "method", "seconds", "TFP's / own", "RMSE nats", "+-", "mean error", "compile s",
    "peak MB",
)  # fmt: skip
SPEED_HEADER = (
    "contestant", "seconds", "speed-up", "of product", "mean nats", "compile s", "peak MB"
)  # fmt: skip


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    from benchmarks import evidence_contestants, evidence_floor, evidence_models, evidence_peers

    if "problem" in case:
        from benchmarks import evidence_tolerance

        return evidence_tolerance.run(case)
    problem = evidence_models.make(case)
    if case["contestant"] == "reference":
        if case["model"] == "linear-Gaussian":
            return {"log_p": evidence_models.exact(problem).tolist(), "gap": 0.0}
        return evidence_contestants.reference(case, problem)
    programs = evidence_contestants.PROGRAMS | evidence_peers.PROGRAMS | evidence_floor.PROGRAMS
    return measured(case, programs[case["contestant"]](case, problem))


def measured(case: dict[str, Any], program: Any) -> dict[str, Any]:
    """Seconds of a program, each run with another key, and the errors of its estimates."""
    import jax
    import numpy as np

    idle, estimates = harness.peak_megabytes(), []
    keys = iter(jax.random.split(jax.random.key(case["seed"] + 2), case["repeats"] + 1))
    found = harness.timed(
        lambda: estimates.append(np.asarray(program(next(keys)))), case["repeats"]
    )
    found |= {"above_idle_mb": found["peak_mb"] - idle, "mean": float(np.mean(estimates))}
    if "log_p" not in case:
        return found
    return {**found, **errors(np.asarray(estimates, float) - case["log_p"])}


def errors(off: Any) -> dict[str, float]:
    """Root mean square of errors [R, N] with its standard error over points, and their mean."""
    squares = (off**2).mean(0)
    rmse = float(squares.mean() ** 0.5)
    error = float(squares.std(ddof=1) / len(squares) ** 0.5 / (2 * rmse))
    return {"rmse": rmse, "rmse_error": error, "mean_error": float(off.mean())}


def main() -> None:
    """Measure everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    parser.add_argument("--points", type=int, default=16, help="data points, for the errors")
    parser.add_argument("--budgets", type=int, nargs="+", default=[32, 128, 512], help="T of HMC")
    parser.add_argument("--images", type=int, default=100, help="for the speed")
    parser.add_argument("--temperatures", type=int, default=1_000, help="for the speed")
    parser.add_argument(
        "--contestants", nargs="+", choices=PEERS, default=PEERS, help="for the speed"
    )
    parser.add_argument("--many", type=int, nargs="+", default=[10, 100, 1_000], help="for memory")
    parser.add_argument("--problems", nargs="+", default=TOLERANCE_PROBLEMS, help="for tolerance")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.1, 0.02], help="nats")
    options = harness.read_options(parser, child, rounds=1)
    parts = {
        "error": error_part, "speed": speed_part, "memory": memory_part,
        "tolerance": tolerance_part,
    }  # fmt: skip
    results = {name: parts[name](options) for name in options.parts}
    print(f"\nwritten: {harness.save('evidence', options.out, options.seed, results)}")


def make_case(options: Any, **changes: Any) -> dict[str, Any]:
    """The case of all contestants, with some changes."""
    case = {
        "model": "decoder", "points": options.points, "chains": 16, "temperatures": 64,
        "leapfrogs": 10, "seed": options.seed, "repeats": 3, "timeout": 3_600.0,
    }  # fmt: skip
    return {**case, **changes}


def error_part(options: Any) -> list[dict[str, Any]]:
    """Every method at every budget on both models."""
    results, rows = [], []
    for model in MODELS:
        long = make_case(options, model=model, chains=32, temperatures=2 * max(options.budgets))
        truth = harness.measure("benchmarks.evidence", {**long, "contestant": "reference"})
        print(f"{model}: the bounds of the reference are {truth['gap']:.4f} nats apart", flush=True)
        for budget in options.budgets:
            case = make_case(options, model=model, temperatures=budget, log_p=truth["log_p"])
            found = harness.take_turns("benchmarks.evidence", case, methods(model), options.rounds)
            results.append({"case": case, "reference_gap": truth["gap"], "found": found})
            fresh = [error_line(case, name, found) for name in found]
            print(*fresh, sep="\n", flush=True)
            rows += fresh
    print(f"\n{options.points} points, 16 chains, 10 leapfrog steps\n")
    print(harness.markdown(ERROR_HEADER, rows))
    return results


def methods(model: str) -> list[str]:
    """The contestants on a model; the linear-Gaussian one has a guide."""
    guided = ["importance, guide", "annealed, HMC, guide"] if model == "linear-Gaussian" else []
    return [
        "importance, prior", *guided[:1], "annealed, HMC", "annealed, HMC, adaptive", *guided[1:],
        "annealed, MALA", "annealed, random walk", "sequential, HMC", "AIS, TFP",
        "AIS, TFP, recomputed", "tempered SMC, blackjax", "AIS by hand",
    ]  # fmt: skip


def error_line(case: dict[str, Any], name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """One method's row at one budget."""
    own, tfp = found[name], found["AIS, TFP"].get("seconds")
    start = [case["model"], str(case["temperatures"]), name]
    if "failed" in own:
        return [*start, own["failed"], *["–"] * (len(ERROR_HEADER) - 4)]
    return [
        *start,
        f"{own['seconds']:.3f}",
        "–" if tfp is None else f"{tfp / own['seconds']:.2f}",
        f"{own['rmse']:.3f}",
        f"{own['rmse_error']:.3f}",
        f"{own['mean_error']:+.3f}",
        f"{own['compile_seconds']:.1f}",
        f"{own['peak_mb']:.0f}",
    ]


def speed_part(options: Any) -> dict[str, Any]:
    """Time of long chains for many images."""
    case = make_case(options, points=options.images, temperatures=options.temperatures, repeats=1)
    found = harness.take_turns("benchmarks.evidence", case, options.contestants, options.rounds)
    rows = [speed_line(name, found) for name in options.contestants]
    print(f"\n{options.images} images x 16 chains x {options.temperatures:,} temperatures", end="")
    print(" x 10 leapfrog steps of the decoder\n")
    print(harness.markdown(SPEED_HEADER, rows))
    return {"case": case, "found": found}


def speed_line(name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """One contestant's row; the speed-up is that of lvm_jax over this row."""
    own = found[name]
    ours, floor = (found.get(other, {}).get("seconds") for other in (PEERS[0], "product"))
    if "failed" in own:
        return [name, own["failed"], *["–"] * (len(SPEED_HEADER) - 2)]
    return [
        name,
        f"{own['seconds']:.1f}",
        "–" if ours is None else f"{own['seconds'] / ours:.2f}x",
        "–" if floor is None else f"{floor / own['seconds']:.2f}",
        "–" if name == "product" else f"{own['mean']:.2f}",
        f"{own['compile_seconds']:.1f}",
        f"{own['peak_mb']:.0f}",
    ]


def memory_part(options: Any) -> list[dict[str, Any]]:
    """Peak memory of evaluate_annealed against the number of images; few temperatures."""
    results, rows = [], []
    for images in options.many:
        case = make_case(options, points=images, temperatures=5, leapfrogs=2, repeats=1)
        found = harness.take_turns("benchmarks.evidence", case, PEERS[:1], options.rounds)
        results.append({"case": case, "found": found})
        own = found[PEERS[0]]
        shown = [own["failed"], "–"] if "failed" in own else [
            f"{own['peak_mb']:.0f}", f"{own['above_idle_mb']:.0f}"
        ]  # fmt: skip
        rows.append([f"{images:,}", f"{images * 784 * 4 / 1e6:.1f}", *shown])
    print("\nmemory of evaluate_annealed, 16 chains\n")
    print(harness.markdown(("images", "data MB", "peak MB", "above idle"), rows))
    return results


def tolerance_part(options: Any) -> list[dict[str, Any]]:
    """Evaluations and seconds of every method to each tolerance on every problem."""
    results, rows = [], []
    for problem in options.problems:
        case = {
            "problem": problem, "points": options.points, "tolerances": options.tolerances,
            "seed": options.seed, "most_seconds": 30.0, "timeout": 900.0,
        }  # fmt: skip
        found = harness.take_turns("benchmarks.evidence", case, TOLERANCE_METHODS, options.rounds)
        results.append({"case": case, "found": found})
        fresh = [tolerance_line(case, name, found) for name in found]
        print(*fresh, sep="\n", flush=True)
        rows += fresh
    header = ["problem", "method"]
    for tolerance in options.tolerances:
        header += [f"evaluations to {tolerance:g}", "of best", f"s to {tolerance:g}", "of best"]
    print(f"\n{options.points} data sets\n")
    print(harness.markdown([*header, "smallest error"], rows))
    return results


def tolerance_line(case: dict[str, Any], name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """One method's row; ratios are to the smallest of the column."""
    cells = [case["problem"], name]
    if "failed" in found[name]:
        return [*cells, found[name]["failed"], *["–"] * (4 * len(case["tolerances"]))]
    for tolerance in case["tolerances"]:
        rungs = {other: reached(one, tolerance) for other, one in found.items()}
        for part, form in (("evaluations", ",.0f"), ("seconds", ".2f")):
            best = min((rung[part] for rung in rungs.values() if rung), default=None)
            own = rungs[name]
            cells += [format(own[part], form), f"{own[part] / best:.1f}x"] if own else ["–", "–"]
    curve = curve_of(found[name])
    return [*cells, f"{min(rung['rmse'] for rung in curve):.3f}" if curve else "–"]


def curve_of(found: dict[str, Any]) -> list[dict[str, float]]:
    """The settings of a method, in the last round."""
    return found["rounds"][-1]["curve"] if "rounds" in found else []


def reached(found: dict[str, Any], tolerance: float) -> dict[str, float] | None:
    """The first setting within the tolerance, or None."""
    return next((rung for rung in curve_of(found) if rung["rmse"] <= tolerance), None)


if __name__ == "__main__":
    main()
