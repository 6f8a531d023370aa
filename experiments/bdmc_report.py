"""The figures and the words of the `bdmc` experiment's report."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax import plotting
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.bdmc import Found, Result

Page = tuple[str, str, list[Fact], list[Section]]


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {"bounds": bounds(result), "gap": gap(result), "acceptance": acceptance(result)}
    return {name: plotting.png(figure) for name, figure in figures.items()}


def lengths_axis(ax: Any) -> None:
    """T on a logarithmic axis."""
    ax.set_xscale("log", base=2)
    ax.grid(alpha=0.25)


def bounds(result: "Result") -> Any:
    """Mean lower and upper bound of the same points against the length of the chains."""
    figure, axes = plotting.new_figure(3, width=3.7, height=3.6)
    for ax, bed in zip(axes, result.beds, strict=True):
        found = result.found[bed.name]
        lengths = [one.num_temperatures for one in found]
        for index, (side, label) in enumerate((("lower", "forward"), ("upper", "back"))):
            values = np.array([getattr(one.bounds, side) for one in found])
            ax.plot(lengths, values, "o-", color=plotting.colour(index), ms=4, label=label)
        if found[0].truth is not None:
            ax.axhline(found[0].truth.mean(), color=plotting.INK, ls="--", lw=1.2, label="log p(x)")
        lengths_axis(ax)
        plotting.caption_axes(ax, bed.name, ("temperatures T", "mean bound [nats per point]"))
    plotting.legend(axes[0])
    return figure


def gap(result: "Result") -> Any:
    """The gap between the bounds against T, both on logarithmic axes."""
    figure, (ax,) = plotting.new_figure(1, width=6.2, height=4.2)
    for index, bed in enumerate(result.beds):
        found = result.found[bed.name]
        lengths = np.array([one.num_temperatures for one in found])
        values = np.array([one.bounds.gap for one in found])
        errors = np.array([one.bounds.gap_error for one in found])
        ax.errorbar(
            lengths, values, 2 * errors, fmt="o-", ms=4, color=plotting.colour(index),
            label=bed.name,
        )  # fmt: skip
    first = result.found[result.beds[0].name]
    lengths = np.array([first[0].num_temperatures, first[-1].num_temperatures], float)
    top = max(one.bounds.gap for one in first)
    ax.plot(lengths, 0.6 * top * lengths[0] / lengths, ":", color=plotting.INK, label="slope −1")
    ax.set_yscale("log")
    lengths_axis(ax)
    plotting.caption_axes(ax, "", ("temperatures T", "upper − lower [nats per point]"))
    plotting.legend(ax)
    return figure


def acceptance(result: "Result") -> Any:
    """Acceptance of the moves along the longest path."""
    figure, (ax,) = plotting.new_figure(1, width=6.2, height=3.4)
    for index, bed in enumerate(result.beds):
        last = result.found[bed.name][-1].bounds.sandwich
        share = np.linspace(0, 1, last.forward_acceptance.shape[1])
        for values, style in ((last.forward_acceptance, "-"), (last.reverse_acceptance, "--")):
            label = bed.name if style == "-" else None
            ax.plot(
                share, np.asarray(values).mean(0), style, color=plotting.colour(index), label=label
            )
    ax.set_ylim(0, 1.02)
    ax.grid(alpha=0.25)
    labels = ("t / T (forward solid, back dashed)", "mean acceptance")
    plotting.caption_axes(ax, "", labels)
    plotting.legend(ax, loc="lower left")
    return figure


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    linear, prior, guide = (result.found[bed.name] for bed in result.beds)
    last = linear[-1].bounds
    facts = [
        Fact(f"{last.gap:.3f} ± {last.gap_error:.3f}", "nats between the bounds, linear-Gaussian"),
        Fact(f"{linear[-1].truth.mean() - last.lower:+.3f}", "nats, log p(x) − lower, there"),
        Fact(f"{last.upper - linear[-1].truth.mean():+.3f}", "nats, upper − log p(x), there"),
        Fact(
            f"{prior[-1].bounds.gap:.2f} and {guide[-1].bounds.gap:.2f}",
            "nats between the bounds, decoder, from the prior and from its guide",
        ),
    ]
    lead = (
        "An annealed estimate of log p(x) is too low, and cannot say by how much. Run the chain "
        "back from an exact posterior draw and the estimate is too high. On data that the model "
        "simulated itself that draw is known, and the two bounds close in on the truth."
    )
    sections = [
        Section("Two bounds", bound_blocks(result, figures)),
        Section("How fast they close", gap_blocks(result, figures)),
        Section("Held-out digits", held_blocks(result)),
        Section("Do the chains move?", [picture(figures, "acceptance", ACCEPTANCE)]),
    ]
    return "Bidirectional Monte Carlo", lead, facts, sections


ACCEPTANCE = (
    "Acceptance of the moves by temperature, at the longest chains, mean over points and chains. "
    "Step sizes were tuned by a pilot run and stood still while the chains were weighed."
)


def picture(figures: dict[str, bytes], name: str, caption: str) -> Picture:
    """A figure with its caption."""
    return Picture(figures[name], caption)


def bound_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The bounds, and the numbers behind them."""
    config = result.config
    return [
        Equation(r"E[\log w_{forward}] \leq \log p(x) \leq E[\log w_{back}]"),
        Text(
            f"Each of {config.num_points} points is simulated, z from the prior and x given z, "
            f"and sandwiched by {config.num_chains} chains each way over T temperatures, placed "
            "and tuned by a pilot run of other chains. All lengths see the same points."
        ),
        picture(
            figures,
            "bounds",
            "Mean bounds over the simulated points. Dashed: the exact log p(x) of those points.",
        ),
        bound_table(result),
    ]


def bound_table(result: "Result") -> Table:
    """A row for each model and length."""
    header = ("model", "T", "lower", "upper", "gap", "log p(x)", "interval holds it", "seconds")
    rows = [row(bed.name, one) for bed in result.beds for one in result.found[bed.name]]
    caption = (
        "Means in nats per point. Gap: ± its standard error over points. Interval: the share of "
        "points whose 95% interval [lower − 3.69, upper + 3.69], which holds for any chain by "
        "Markov's inequality, has the true log p(x) in it. Seconds with compiling."
    )
    return Table(header, rows, caption)


def row(name: str, one: "Found") -> tuple[str, ...]:
    """The cells of one measurement."""
    from experiments.bdmc import coverage

    b, share = one.bounds, coverage(one)
    return (
        name, str(one.num_temperatures), f"{b.lower:.3f}", f"{b.upper:.3f}",
        f"{b.gap:.3f} ± {b.gap_error:.3f}", "–" if one.truth is None else f"{one.truth.mean():.3f}",
        "–" if share is None else f"{share:.0%}", f"{one.seconds:.0f}",
    )  # fmt: skip


def slope(found: "list[Found]") -> float:
    """Of log gap against log T, least squares over the upper half of the lengths."""
    half = found[len(found) // 2 - 1 :]
    lengths = np.log([one.num_temperatures for one in half])
    gaps = np.log([max(float(one.bounds.gap), 1e-6) for one in half])
    return float(np.polyfit(lengths, gaps, 1)[0])


def gap_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The rate at which the gap closes."""
    slopes = ", ".join(f"{slope(result.found[b.name]):.2f} ({b.name})" for b in result.beds)
    return [
        Text(
            "If the chains mixed at every temperature, the gap would fall as 1/T. The slopes over "
            f"the longer half of the lengths: {slopes}."
        ),
        picture(
            figures,
            "gap",
            "The gap between the bounds with two standard errors over points. It is at least the "
            "mean error of the forward estimate on such data.",
        ),
    ]


def held_blocks(result: "Result") -> list[Block]:
    """What the sandwich certifies about real images."""
    header = ("path starts at", "annealed", "importance sampling, S = 5,000", "k-hat above 0.7",
              "gap on simulated data")  # fmt: skip
    rows = []
    for bed in result.beds[1:]:
        held, last = result.held[bed.name], result.found[bed.name][-1].bounds
        error = held.log_p.std(ddof=1) / len(held.log_p) ** 0.5
        untrusted = int((~(held.k_hat <= 0.7)).sum())
        rows.append(
            (
                bed.name.removeprefix("digits decoder, from "),
                f"{held.log_p.mean():.3f} ± {error:.3f}",
                f"{held.importance.mean():.3f}",
                f"{untrusted} of {len(held.k_hat)}",
                f"{last.gap:.3f} ± {last.gap_error:.3f}",
            )
        )
    return [
        Text(
            "On a real image no exact posterior draw is known, and only the lower bound can be "
            "had. What it misses there is certified by proxy: the same procedure, on data of the "
            "model's own, misses at most the gap, on average."
        ),
        Table(header, rows, "Mean log p(x) of held-out digits [nats], ± the sampling error."),
    ]
