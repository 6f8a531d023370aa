"""Evaluations and seconds of a Gaussian fit to come near the best ELBO of its family.

Each contestant fits a normal with a diagonal or a full covariance to a target of
`lvm_jax.problems`. The gap is the ELBO of the best normal of the family, which the target states,
less that of the fit. It is measured after the fit, with a standard error below 0.002 nats. lvm_jax
is run from the start once for each budget with `method="auto"`; its own rule may end it earlier.
Peers: NumPyro's SVI with AutoNormal and AutoMultivariateNormal, BlackJAX's meanfield_vi and
fullrank_vi, all with Adam at three rates, of which the best for each number is reported, and with
up to 200,000 evaluations; BlackJAX's multi-path Pathfinder. An evaluation is a gradient of the
log-density, or a value alone.
"""

import argparse
import math
from typing import Any

from benchmarks import harness

TARGETS = (
    "credit", "credit_likelihood", "breast_cancer", "funnel", "eight_schools", "wells", "lgcp",
)  # fmt: skip
FAMILIES = ("mean_field", "full_rank")
BUDGETS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
MORE = (100_000, 200_000)  # for peers with Adam
RATES = (0.001, 0.01, 0.1)  # of Adam
WITHIN = (0.1, 0.01)  # nats
OWN = "lvm_jax"
PEERS = ("NumPyro", "BlackJAX", "Pathfinder, BlackJAX")
HEADER = (
    "target", "family", "contestant", "to 0.1 nats", "of lvm_jax", "to 0.01 nats", "of lvm_jax",
    "s to 0.1", "of lvm_jax", "gap at 2,000", "smallest gap", "compile s", "peak MB",
)  # fmt: skip


def child(case: dict[str, Any]) -> dict[str, Any]:
    """One contestant on one target in this process."""
    from benchmarks import vi_contestants

    return vi_contestants.run(case)


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vi", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS[:6])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="evaluations")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of Adam, for peers")
    parser.add_argument("--repeats", type=int, default=3, help="fits with different seeds")
    options = harness.read_options(parser, child, rounds=1)
    results, rows = [], []
    for target in options.targets:
        for family in options.families:
            case = make_case(options, target, family)
            contestants = (OWN, *PEERS) if family == "full_rank" else (OWN, *PEERS[:2])
            found = harness.take_turns("benchmarks.vi", case, contestants, options.rounds)
            results.append({"case": case, "found": found})
            fresh = [line(case, name, found) for name in found]
            print(*fresh, sep="\n", flush=True)
            rows += fresh
    print(f"\nmedians of {options.repeats} seeds; evaluations are gradients of the log-density\n")
    print(harness.markdown(HEADER, rows))
    print(f"\nwritten: {harness.save('vi', options.out, options.seed, results)}")


def make_case(options: Any, target: str, family: str) -> dict[str, Any]:
    """The case of all contestants on one target with one family."""
    return {
        "target": target, "family": family, "budgets": sorted(options.budgets), "more": MORE,
        "rates": list(options.rates), "repeats": options.repeats, "seed": options.seed,
        "timeout": 600.0,
    }  # fmt: skip


def reached(found: dict[str, Any], within: float) -> tuple[float, float]:
    """The fewest evaluations, and the fewest seconds, of a checkpoint with a gap of `within`."""
    rows = found["rounds"][0]["curve"]
    near = [row for row in rows if row["gap"] <= within]
    if not near:
        return math.inf, math.inf
    return min(row["evaluations"] for row in near), min(row["seconds"] for row in near)


def gap_after(found: dict[str, Any], evaluations: float) -> str:
    """The smallest gap of a checkpoint with at most that many evaluations."""
    rows = found["rounds"][0]["curve"]
    gaps = [row["gap"] for row in rows if row["evaluations"] <= evaluations]
    return f"{min(gaps):.3f}" if gaps else "–"


def line(case: dict[str, Any], name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """One contestant's row; the ratios are its numbers over those of lvm_jax."""
    own, ours = found[name], found[OWN]
    start = [case["target"], case["family"], name]
    if "failed" in own:
        return [*start, own["failed"], *["–"] * (len(HEADER) - 4)]
    most = max(row["evaluations"] for row in own["rounds"][0]["curve"])
    cells = []
    for within in WITHIN:
        count, seconds = reached(own, within)
        least, quickest = (math.nan,) * 2 if "failed" in ours else reached(ours, within)
        cells += [shown(count, most, ",.0f"), ratio(count, least, most)]
        if within == WITHIN[0]:
            last = max(row["seconds"] for row in own["rounds"][0]["curve"])
            timed = [shown(seconds, last, ".2f"), ratio(seconds, quickest, last)]
    return [
        *start, *cells, *timed, *(gap_after(own, count) for count in (2_000, math.inf)),
        f"{own['compile_seconds']:.1f}", f"{own['peak_mb']:.0f}",
    ]  # fmt: skip


def shown(value: float, most: float, form: str) -> str:
    """A number, or the largest tried if it was not enough."""
    return format(value, form) if math.isfinite(value) else f"> {most:{form}}"


def ratio(value: float, ours: float, most: float) -> str:
    """A contestant's number over that of lvm_jax."""
    if not math.isfinite(ours):
        return "–"
    return f"{value / ours:.1f}x" if math.isfinite(value) else f"> {most / ours:.1f}x"


if __name__ == "__main__":
    main()
