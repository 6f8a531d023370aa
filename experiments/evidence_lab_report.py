"""The words and the tables of the `evidence_lab` experiment's report."""

import math
from typing import TYPE_CHECKING

from experiments.evidence_lab_beds import DISCRETE, MODES, TAILS
from experiments.evidence_lab_figures import last
from experiments.evidence_lab_measure import TRUSTED, Cell, Share
from experiments.evidence_lab_methods import METHODS, STARTS
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.evidence_lab import Found, Result

Page = tuple[str, str, list[Fact], list[Section]]

ABOUT_GAUSSIAN = (
    "Gaussian z in D dimensions, the guide factorised. The variance of a weight grows "
    "exponentially with D, for draws of the prior much faster than for those of the guide: naive "
    "Monte Carlo is lost first. Its intervals then miss in silence, for the draws that would show "
    "the variance are the ones that it never had. Chains pay for every temperature, and are the "
    "dearer method while the guide is good, but their error falls faster with the cost; started at "
    "the guide they are better than at the prior. The jackknife takes the bias of importance "
    "sampling out, which is small beside its spread here. SUMO divides rare terms by their small "
    "chance: its error does not settle, where the multilevel telescope's does."
)
ABOUT_MODES = (
    "Two modes, of which the guide covers the wide one, as a q trained by the ELBO would. Draws "
    "of the guide that never meet the other mode have well-behaved weights: the estimate is too "
    "low by −log of the mass that the guide knows, with a small standard error and a good k-hat. "
    "No diagnostic of the weights can see mass that no draw met; a larger budget meets it first as "
    "one huge weight. Unbiased telescopes would be right on average by rare draws that are far too "
    "high, which most estimates never see. Chains from the guide inherit the fault. Chains from the "
    "prior do little better: the narrow mode gains its mass near the end of the path, when few chains are near it. Plain "
    "draws of the prior are best here, as D is small. Only the sandwich always holds the truth: its "
    "chains back start at an exact draw, in either mode."
)
ABOUT_TAILS = (
    "The posterior is a Student t of three degrees of freedom, the guide Laplace's normal: the "
    "weights have a mean and no variance. The estimate converges more slowly than the standard "
    "error says; the rare large weights are missed, so that most intervals lie too low, and more "
    "draws do not help the coverage. k-hat is made for this and rises above 0.5 with the number of "
    "draws; the few data sets that it still trusts are not covered either. The prior has heavier "
    "tails than the posterior: plain draws from there are sound, and nearly so are chains, whose "
    "large errors are of data so far out that they must travel tens of prior scales. Chains from "
    "the guide repair most of what it misses."
)
ABOUT_DISCRETE = (
    "Discrete z, few enough values to sum over. The weights take few values and are bounded: plain "
    "importance sampling is hard to beat. k-hat fits a smooth tail to what has none, and is often "
    "unknown where the largest weights tie; Gibbs moves pay for every value of every variable."
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
    missed = [one for name, one in result.found.items() if name == MODES]
    other = [one for name, one in result.found.items() if name != MODES]
    return [*heads, *sure(missed, f"on {MODES}"), *sure(other, "on the other models")]


def sure(found: "list[Found]", where: str) -> list[Fact]:
    """How many of the certified intervals hold; nothing where none is certified."""
    parts = [one.certified.holds_within for one in found if one.certified.holds_within.of]
    total, hits = sum(part.of for part in parts), sum(part.share * part.of for part in parts)
    return [Fact(f"{hits:.0f} of {total}", f"certified intervals hold, {where}")] if total else []


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
    """A share with its interval, or a dash where there were fewer than ten; kept on one line."""
    if part.of < 10:
        return "–"
    return f"{part.share:.1%} [{100 * part.low:.0f}, {100 * part.high:.0f}]".replace(" ", NO_BREAK)


def row(name: str, cell: Cell) -> tuple[str, ...]:
    """One method at one budget."""
    cells = (
        name,
        f"{cell.cost:,.0f}",
        f"{cell.rmse:.3f} ± {cell.rmse_error:.3f}",
        f"{signed(cell.mean_error)} ± {cell.mean_error_error:.3f}",
        held(cell.coverage),
        f"{cell.too_low:.1%}, {cell.too_high:.1%}",
        f"{cell.width:.3f}" if math.isfinite(cell.width) else "∞",
        f"{cell.trusted.of}",
        held(cell.trusted),
    )
    return tuple(text.replace(" ", NO_BREAK) for text in cells)


NO_BREAK = "\u00a0"
HEADER = ("method", "cost", "RMS error", "mean error", "coverage", "misses", "half-width",
          "trusted", "theirs")  # fmt: skip


def table(name: str, found: "Found") -> Table:
    """Every method at the largest budget, as wide as the page."""
    header = ("method", "RMS error", "mean error", "coverage", "misses", f"k-hat ≤ {TRUSTED}")
    rows = []
    for method, cell in last(found).items():
        name_of, _, rms, _, coverage, misses, *_ = row(method, cell)
        part = cell.trusted
        trusted = f"{part.share:.0%}{NO_BREAK}of{NO_BREAK}{part.of}" if part.of >= 10 else "–"
        rows.append((name_of, rms, signed(cell.mean_error), coverage, misses, trusted))
    caption = (
        f"{name}, largest budget. Errors in nats; coverage with its 95% interval in percent; misses: "
        "intervals that lie wholly below and wholly above log p(x); last, the coverage of the data "
        "sets that k-hat trusts. A dash: fewer than ten, as k-hat needs 25 weights and a tail."
    )
    return Table(header, rows, caption)


def budget_table(result: "Result", name: str) -> Table:
    """Every method at every budget."""
    rows = [
        row(method, cell)
        for method, column in result.found[name].cells.items()
        for cell in column
        if cell is not None
    ]
    caption = (
        f"{name}. Half-width: the median in nats. Trusted: data sets whose k-hat is at most {TRUSTED}; "
        "theirs: their coverage. The rest as above; a budget too small for a method is left out."
    )
    return Table(HEADER, rows, caption)


def k_hat_blocks(figures: dict[str, bytes]) -> list[Block]:
    """Coverage by k-hat."""
    return [
        Text(
            "An interval stands on weights with a finite variance, which k-hat at most 0.5 says: "
            "where thousands of weights have it, and the guide meets all of the mass, intervals "
            "hold. It cannot vouch for what no draw met: where a mode or a tail is missed the estimates "
            "that look best are the worst. And the k-hat of a few dozen chains says little: from the "
            "prior at D = 32 it trusts estimates whose intervals miss."
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
                name.replace(" ", NO_BREAK), f"{one.within:.0%}", held(one.holds_within), held(one.close),
                held(one.cell.coverage), f"{one.annealed:.0%}", f"{one.cell.cost:,.0f}",
            )
        )  # fmt: skip
    header = ("model", "certified", "of those, hold", "of those, within", "all hold",
              "by chains", "mean cost")  # fmt: skip
    caption = (
        f"certify at tolerance {config.tolerance:g} nats and level {config.level:.0%}, at most "
        f"{config.certify_budget:,.0f} evaluations for each of {config.num_certified} data sets. "
        "Certified: half-width within the tolerance, k-hat at most 0.5, and chains whose log-weights "
        "spread by at most 1. Hold: the interval has log p(x) in it. Within: the error is at most the tolerance."
    )
    text = (
        "certify sends scouts from the prior before it draws, gives the place that the guide covers "
        "least a share of the draws, and then chooses the method and the number of draws for every "
        "data set. What it certifies holds at the stated level where draws and scouts meet all of "
        "the posterior's mass. A narrow mode that none of them meets is not seen, and a certificate "
        "is then wrong by its share. What stays open after the budget has too few chains or too few "
        "temperatures: an open interval is not to be trusted."
    )
    return [Text(text), Table(header, rows, caption)]
