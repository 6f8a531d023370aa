"""The words and the tables of the `evidence_lab` experiment's report."""

import math
from typing import TYPE_CHECKING

from experiments.evidence_lab_beds import DISCRETE, MODES, TAILS
from experiments.evidence_lab_figures import last
from experiments.evidence_lab_measure import TRUSTED, Cell, Share
from experiments.evidence_lab_methods import METHODS, STARTS
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.evidence_lab import Result
    from experiments.evidence_lab_measure import Found

Page = tuple[str, str, list[Fact], list[Section]]

ABOUT_GAUSSIAN = (
    "Gaussian z in D dimensions, the guide factorised. The variance of a weight grows "
    "exponentially with D, for draws of the prior much faster than for those of the guide: naive "
    "Monte Carlo is lost first. What it reports then is wrong in silence, as the draws that would "
    "show the variance are the ones that it never had. Chains pay for every temperature, and are "
    "the dearer method while the guide is good; their error grows with D far more slowly. Started "
    "at the guide they are at least as good as at the prior."
)
ABOUT_MODES = (
    "Two modes, of which the guide covers the wide one, as a q trained by the ELBO would. Draws "
    "of the guide that never meet the other mode have well-behaved weights: the estimate is too "
    "low by −log of the mass that the guide knows, with a small standard error and a good k-hat. "
    "No diagnostic of the weights can see mass that no draw met; and a larger budget first meets "
    "it as one huge weight. Chains from the guide inherit the fault. Chains from the prior and "
    "the prior itself do better here, but the narrow mode gains its mass only near the end of the "
    "path, when few chains are near it. Only the sandwich holds the truth: its chains back start "
    "at an exact draw, in either mode."
)
ABOUT_TAILS = (
    "The posterior is a Student t, the guide a normal: the weights have a mean and no variance. "
    "The estimate converges, more slowly than the standard error says; rare large weights are "
    "missed, so that most estimates are too low and a few much too high. k-hat is made for this "
    "and rises above 0.5. An unbiased telescope has an infinite variance here, and SUMO shows it. "
    "The prior has heavier tails than the posterior: from there plain draws and chains are sound, "
    "though HMC moves slowly in such tails."
)
ABOUT_DISCRETE = (
    "Discrete z, few enough values to sum over. The weights take few values and are bounded: plain "
    "importance sampling is hard to beat. k-hat fits a smooth tail to what has none, and Gibbs "
    "moves pay for every value of every variable."
)
FIGURE = (
    "Above, RMS error of log p̂(x) over {n} data sets against the cost of one estimate, with its "
    "standard error; hollow: chains from the guide. The sandwich is shown by its upper bound; its "
    "lower one is the annealed estimate. Below, the share of intervals that hold log p(x) at the "
    "largest budget, with 95% Clopper–Pearson intervals: filled all data sets, hollow those with "
    "k-hat at most {trusted}. Dashed: the stated level."
)
COST = (
    "Cost counts evaluations of the joint density or its gradient. A draw costs 1; an HMC move of "
    "L leapfrog steps L + 1, a Gibbs move one for each value of each variable; chains pay a move "
    "and a weight at every temperature, for {pilot} pilot chains and their ten warm moves too. The "
    "density that a weight and the move beside it share is counted twice, though the compiler may "
    "compute it once. The sandwich costs both ways. Evaluations of q, and the exact posterior from "
    "which the guides take their moments, are not counted."
)
SANDWICH = (
    "The sandwich needs an exact draw of the posterior, which only simulated data have. Its "
    "interval adds log(2 / (1 − level)) on each side by Markov's inequality: it holds for any "
    "chain, and is wide for that."
)


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    from lvm_jax.annealing.plan import PILOT

    config = result.config
    caption = FIGURE.format(n=config.num_points, trusted=TRUSTED)
    lead = (
        "Every estimator of log p(x) on models where log p(x) is known: what an estimate costs, "
        "how far off it is, and whether its interval holds the truth as often as it says."
    )
    sections = [
        Section("Error against cost, and coverage", [
            Picture(figures["lab"], caption), Text(COST.format(pilot=PILOT)), Text(SANDWICH),
        ]),
        Section("What each promises", promise_blocks(result, figures)),
        Section("Where each breaks, and why", break_blocks(result)),
        Section("k-hat says where intervals fail, and where it cannot", k_hat_blocks(figures)),
        Section("Certificates", certificate_blocks(result)),
        Section("All budgets", [budget_table(result, name) for name in result.found]),
    ]  # fmt: skip
    return "The evidence lab", lead, facts(result), sections


def facts(result: "Result") -> list[Fact]:
    """For the head of the page."""
    heads = [
        Fact(
            f"{result.found[name].cells['importance'][-1].coverage.share:.0%}",
            f"of importance sampling's intervals hold log p(x), {name}",
        )
        for name in (MODES, TAILS)
        if name in result.found
    ]
    found = list(result.found.values())
    ways = [one.cells[f"sandwich, {start}"][-1] for one in found for start in STARTS]
    worst = min(cell.coverage.share for cell in ways)
    heads.append(Fact(f"{worst:.1%}", "of the sandwich's hold, on the worst model"))
    for here, words in ((False, "certified intervals hold, all other models"), (True, MODES)):
        parts = [
            one.certified.holds_within
            for name, one in result.found.items()
            if (name == MODES) == here and one.certified.holds_within.of
        ]
        total = sum(part.of for part in parts)
        if total:
            hits = sum(part.share * part.of for part in parts)
            words = words if not here else f"certified intervals hold, {MODES}"
            heads.append(Fact(f"{hits:.0f} of {total}", words))
    return heads


def promise_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """What the estimators are unbiased for, and the sides on which their logarithms err."""
    rows = [(name, of.unbiased_for, of.side) for name, of in METHODS.items()]
    caption = "In expectation. certify: of the round that answers."
    picture = Picture(
        figures["sides"],
        f"Errors at the largest budget, {result.config.budgets[-1]:,} evaluations: 90% of the data "
        "sets (bar), median (tick) and mean (marker).",
    )
    return [
        Equation(r"E[\hat p] = p(x)\;\Rightarrow\; E[\log \hat p] \leq \log p(x)"),
        Table(("method", "unbiased for", "log p̂ errs"), rows, caption, is_text=True),
        picture,
    ]


def break_blocks(result: "Result") -> list[Block]:
    """A paragraph and a table for each kind of bed."""
    words = {MODES: ABOUT_MODES, TAILS: ABOUT_TAILS, DISCRETE: ABOUT_DISCRETE}
    blocks: list[Block] = []
    for number, (name, found) in enumerate(result.found.items()):
        if name in words or number == 0:
            blocks.append(Text(words.get(name, ABOUT_GAUSSIAN)))
        blocks.append(table(name, found))
    return blocks


def signed(value: float) -> str:
    """With its sign, three decimals, and a minus that is one."""
    return f"{value:+.3f}".replace("-", "−")


def held(part: Share) -> str:
    """A share with its interval, or a dash where there were fewer than ten."""
    if part.of < 10:
        return "–"
    return f"{part.share:.1%} [{part.low:.0%}, {part.high:.0%}]"


def row(name: str, cell: Cell) -> tuple[str, ...]:
    """One method at one budget."""
    return (
        name,
        f"{cell.cost:,.0f}",
        f"{cell.rmse:.3f} ± {cell.rmse_error:.3f}",
        f"{signed(cell.mean_error)} ± {cell.mean_error_error:.3f}",
        held(cell.coverage),
        f"{cell.too_low:.1%}",
        f"{cell.too_high:.1%}",
        f"{cell.width:.3f}" if math.isfinite(cell.width) else "∞",
        f"{cell.trusted.of}",
        held(cell.trusted),
    )


HEADER = ("method", "cost", "RMS error", "mean error", "coverage", "too low", "too high",
          "half-width", "trusted", "their coverage")  # fmt: skip


def table(name: str, found: "Found") -> Table:
    """Every method at the largest budget."""
    caption = (
        f"{name}, largest budget. Errors and half-widths (median) in nats; coverage with its 95% "
        "interval; too low, too high: intervals that lie wholly below or above log p(x); trusted: "
        f"data sets whose k-hat is at most {TRUSTED}. A dash: fewer than ten, k-hat needs more "
        "weights, or a tail."
    )
    return Table(HEADER, [row(*one) for one in last(found).items()], caption)


def budget_table(result: "Result", name: str) -> Table:
    """Every method at every budget."""
    rows = [
        row(method, cell)
        for method, column in result.found[name].cells.items()
        for cell in column
        if cell is not None
    ]
    return Table(HEADER, rows, f"{name}. A budget too small for a method is left out.")


def k_hat_blocks(figures: dict[str, bytes]) -> list[Block]:
    """Coverage by k-hat."""
    return [
        Text(
            "An interval stands on weights with a finite variance, which k-hat at most 0.5 says. "
            "Where weights are merely heavy-tailed k-hat tells the intervals that fail. Where a "
            "mode is missed it cannot: it knows the weights that were drawn."
        ),
        Picture(
            figures["k_hat"],
            "Coverage by k-hat of the same estimate, all budgets together, bins of at least ten "
            "data sets. Left of the dotted line k-hat trusts the variance.",
        ),
    ]


def certificate_blocks(result: "Result") -> list[Block]:
    """What `certify` did on each bed."""
    config = result.config
    rows = []
    for name, found in result.found.items():
        one = found.certified
        rows.append(
            (
                name, f"{one.within:.0%}", held(one.holds_within), held(one.close),
                held(one.cell.coverage), f"{one.annealed:.0%}", f"{one.cell.cost:,.0f}",
                str(one.num_rounds),
            )
        )  # fmt: skip
    header = ("model", "certified", "of those, interval holds", "of those, within tolerance",
              "all intervals hold", "by chains", "mean cost", "rounds")  # fmt: skip
    caption = (
        f"certify at tolerance {config.tolerance:g} nats and level {config.level:.0%}, at most "
        f"{config.certify_budget:,.0f} evaluations for each of {config.num_certified} data sets. "
        "Certified: half-width within the tolerance and k-hat at most 0.5."
    )
    text = (
        "certify chooses the method and the number of draws for every data set. Its intervals hold "
        "at the stated level where the guide meets all of the posterior's mass. Where the guide "
        "misses a mode a certificate can be wrong, and nothing in the weights says so."
    )
    return [Text(text), Table(header, rows, caption)]
