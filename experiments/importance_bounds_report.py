"""Figures and words of the bounds experiment."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.importance_bounds import THEORY
from lvm_jax import plotting
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.importance_bounds import Found, Result, Slope

LAWS = {"IWAE": "1/S", "jackknife of order 1": "1/S²", "jackknife of order 2": "1/S³"}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")


def draw(result: "Result") -> dict[str, bytes]:
    """Both figures as PNG."""
    return {
        "bounds": plotting.png(bounds(result)),
        "laws": plotting.png(laws(result)),
    }


def bounds(result: "Result") -> Any:
    """Every bound less log p(x) against S, with error bars, on each model."""
    figure, axes = plotting.new_figure(2, width=6.2, height=5.2)
    for ax, found in zip(axes, result.found, strict=True):
        for index, (name, curve) in enumerate(found.curves.items()):
            style = {"color": plotting.colour(index), "marker": MARKS[index], "markersize": 4}
            error = 2 * curve.standard_error
            ax.errorbar(curve.num_samples, curve.gap, error, label=name, linewidth=1.2, **style)
        mean, error, cost = found.sumo
        style = {"fmt": "o", "color": plotting.INK, "markersize": 6, "fillstyle": "none"}
        ax.errorbar([cost], [mean], [2 * error], label="SUMO, at its mean cost", **style)
        ax.axhline(0, color=plotting.INK, linewidth=1)
        ax.set_xscale("log", base=2)
        ax.set_yscale("symlog", linthresh=0.01)
        ax.grid(alpha=0.25)
        labels = ("number of samples S", "mean of the bound − log p(x) [nats], ± 2 standard errors")
        plotting.caption_axes(ax, found.bed.name, labels)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def laws(result: "Result") -> Any:
    """|gap| against S on logarithmic axes, with the lines that were fitted."""
    figure, axes = plotting.new_figure(2, width=5.6, height=4.6)
    for ax, found in zip(axes, result.found, strict=True):
        for index, name in enumerate(THEORY):
            curve, color = found.curves[name], plotting.colour(index)
            gap, error = np.abs(curve.gap), 2 * curve.standard_error
            ax.errorbar(
                curve.num_samples, gap, error, fmt="o", markersize=4, color=color, label=name
            )
            slope = found.slopes.get(name)
            if slope is None:
                continue
            reference = found.exact.get(name, curve)
            last = int(np.flatnonzero(reference.num_samples == slope.last)[0])
            s = reference.num_samples
            line = np.abs(reference.gap[last]) * (s / slope.last) ** THEORY[name]
            ax.plot(s, line, "--", color=color, linewidth=1, label=f"law {LAWS[name]}")
            if found.exact:
                ax.plot(s, np.abs(reference.gap), color=color, linewidth=1, label="exact")
        s = found.curves["IWAE"].num_samples
        asymptote = found.relative_variance / 2 / s
        ax.plot(s, asymptote, ":", color=plotting.INK, label="Var(w) / (2 S p²)")
        ax.set(xscale="log", yscale="log")
        ax.set_ylim(bottom=3e-8 if found.exact else 2e-5)
        ax.grid(alpha=0.25)
        plotting.caption_axes(
            ax, found.bed.name, ("number of samples S", "|mean of the bound − log p(x)| [nats]")
        )
        plotting.legend(ax, loc="lower left")
    return figure


def exponent(slope: "Slope") -> str:
    """A slope as it is written."""
    error = f" ± {slope.standard_error:.3f}" if slope.standard_error else ""
    return f"{slope.value:.3f}{error}"


def page(result: "Result", figures: dict[str, bytes]) -> tuple[str, str, list[Fact], list[Section]]:
    """Title, lead, facts and sections."""
    first = result.found[0]
    gap = first.curves["ELBO"].gap[0]
    facts = [Fact(f"{-gap:.4f}", f"nats between ELBO and log p, {first.bed.name}")]
    facts.append(Fact(exponent(first.slopes["IWAE"]), "exponent of S in its 1/S law, measured"))
    for name, slope in list(result.found[1].slopes.items())[1:]:
        told = f"exponent of S, {name}, exact at S = {slope.last}; the law says {THEORY[name]:g}"
        facts.append(Fact(exponent(slope), told))
    lead = (
        "More samples inside the logarithm close the gap to log p(x), at a rate that theory names. "
        "Some bounds come from below, some from above, and some only seem to."
    )
    sections = [
        Section("The models", model_blocks(result)),
        Section("The bounds", bound_blocks(result, figures)),
        Section("The laws", law_blocks(result, figures)),
    ]
    return "How fast the bounds close", lead, facts, sections


def model_blocks(result: "Result") -> list[Block]:
    """What the log-weights are, and why the gaps are known so well."""
    gaussian, mixture = result.found
    return [
        Equation(r"\log\, w_s = \log\, p(x, z_s) - \log\, q(z_s), \qquad z_s \sim q"),
        Text(
            f"{gaussian.bed.name}: z ~ N(μ, I), x | z ~ N(z, I), and q = N((x + μ)/2, 2/3 I), the "
            f"posterior a third too wide in variance; log p(x) = {gaussian.bed.log_evidence:.5f}. "
            f"{mixture.bed.name}: x at a place that two components claim, and a q over the "
            f"components that nearly ignores x; log p(x) = {mixture.bed.log_evidence:.5f}, by "
            "enumeration."
        ),
        Text(
            f"Each model gave {result.config.num_weights:,} log-weights, cut into rows of S. The "
            "mean of w / p(x) is 1, whatever q, so its deviation from 1 in a row is noise of known "
            "mean: subtracted as a control variate it leaves the small gaps visible."
        ),
    ]


def bound_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The picture of all bounds, and the numbers at three S."""
    caption = (
        "Mean of each bound less log p(x), which is the line at 0, with two standard errors "
        "(mostly smaller than the marks). The scale is linear within ±0.01 nats and logarithmic "
        "beyond. Lower bounds rise to the line, or to a gap that S does not close (ELBO, Rényi "
        "with α > 0, the thermodynamic sum). CUBO and EUBO are upper bounds only once S is large: "
        "with few samples their averages start below the line."
    )
    return [Picture(figures["bounds"], caption), *(value_table(found) for found in result.found)]


def value_table(found: "Found") -> Table:
    """The gap of every bound at some S."""
    shown = [1, 16, 64, int(found.curves["IWAE"].num_samples[-1])]
    rows = []
    for name, curve in found.curves.items():
        cells = [name]
        for s in shown:
            at = np.flatnonzero(curve.num_samples == s)
            if at.size:
                cells.append(f"{curve.gap[at[0]]:.5f} ± {curve.standard_error[at[0]]:.5f}")
            else:
                cells.append("–")
        rows.append(cells)
    mean, error, cost = found.sumo
    note = f"{found.bed.name}: mean of the bound less log p(x) [nats] ± standard error. "
    note += f"SUMO, unbiased, gave {mean:.4f} ± {error:.4f} at {cost:.1f} samples a draw."
    return Table(("bound", *(f"S = {s:,}" for s in shown)), rows, note)


def law_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The measured slopes beside the theory."""
    rows = [
        [
            found.bed.name,
            name,
            f"{THEORY[name]:g}",
            exponent(slope),
            f"{slope.first} to {slope.last}",
        ]
        for found in result.found
        for name, slope in found.slopes.items()
    ]
    caption = (
        "The size of the gap on logarithmic axes: dots with two standard errors from draws; solid "
        "lines, on the mixture, the expectation itself, by enumerating how often each component is "
        "drawn. Dashed: the laws, through the last point that was used. Dotted: the asymptote of "
        "IWAE from the variance of the weights. A dip is a change of sign."
    )
    coefficient = result.found[0].second_order
    vanishing = (
        f"On the Gaussian the coefficient of 1/S² is {coefficient:.3f}, near zero by chance, and "
        "so the jackknife of order 1 is already as good as unbiased at S = 4: its gap is below the "
        "noise of the draws and gives no slope there."
    )
    header = ("model", "bound", "law: exponent", "measured", "S used")
    note = (
        "Exponents of S: by weighted least squares from draws, over the S whose gap is above ten "
        "standard errors; or, exact, between the two largest S, where the curve still bends a little."
    )
    return [
        Equation(
            r"\log\, p(x) - \mathbb{E}[L_S] = \dfrac{\mathrm{Var}(w)}{2 S\, p(x)^2} + O(S^{-2}), "
            r"\qquad \log\, p(x) - \mathbb{E}[J_{m,S}] = O(S^{-(m+1)})"
        ),
        Picture(figures["laws"], caption),
        Text(vanishing),
        Table(header, rows, note),
    ]
