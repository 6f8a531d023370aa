"""The figures of the `evidence_lab` experiment."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.evidence_lab_measure import Cell, share
from lvm_jax import plotting

if TYPE_CHECKING:
    from experiments.evidence_lab import Found, Result

COLUMNS = 3
BINS = ((-np.inf, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, np.inf))
BIN_NAMES = ("< 0.3", "0.3–0.5", "0.5–0.7", "> 0.7")
# Colour by kind, and the guide as the start of chains dashed and hollow.
STYLE: dict[str, tuple[str, str, str]] = {
    "naive": (plotting.GREY, "s", "-"),
    "importance": (plotting.PALETTE[0], "o", "-"),
    "jackknife": (plotting.PALETTE[5], "x", ":"),
    "SUMO": (plotting.PALETTE[4], "^", "-"),
    "multilevel": (plotting.PALETTE[1], "v", "-"),
    "annealed, prior": (plotting.PALETTE[2], "D", "-"),
    "annealed, guide": (plotting.PALETTE[2], "d", "--"),
    "sequential, prior": (plotting.PALETTE[7], "P", "-"),
    "sandwich, prior": (plotting.PALETTE[3], ">", "-"),
    "sandwich, guide": (plotting.PALETTE[3], "<", "--"),
    "certify": (plotting.INK, "*", ""),
}


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {"lab": lab(result), "sides": sides(result), "k_hat": k_hat(result)}
    return {name: plotting.png(figure, dpi=150) for name, figure in figures.items()}


def last(found: "Found") -> dict[str, Cell]:
    """Every method at the largest budget, `certify` among them."""
    cells = {name: column[-1] for name, column in found.cells.items()}
    return {name: cell for name, cell in cells.items() if cell is not None} | {
        "certify": found.certified.cell
    }


def panels(result: "Result", rows_each: int, height: float) -> tuple[Any, list[list[Any]]]:
    """A figure with `rows_each` axes below each other for every bed, up to three beds abreast."""
    number = len(result.found)
    abreast = min(COLUMNS, number)
    blocks = -(-number // abreast)
    figure, axes = plotting.new_figure(
        abreast, rows_each * blocks, width=10.5 / abreast, height=height
    )
    grid = axes.reshape(blocks, rows_each, abreast)
    found = [list(grid[i // abreast, :, i % abreast]) for i in range(blocks * abreast)]
    for spare in found[number:]:
        for ax in spare:
            ax.set_visible(False)
    return figure, found[:number]


def lab(result: "Result") -> Any:
    """Error against cost, and below it the coverage at the largest budget, for every bed."""
    figure, axes = panels(result, 2, 2.75)
    for index, ((above, below), (name, found)) in enumerate(
        zip(axes, result.found.items(), strict=True)
    ):
        errors(above, found)
        plotting.caption_axes(above, name, ("evaluations for one estimate", "RMS error [nats]"))
        coverage(below, found, result.config.level, labels=index % COLUMNS == 0)
        plotting.caption_axes(below, "", (f"coverage of {result.config.level:.0%} intervals", ""))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=6, fontsize=9, frameon=False
    )  # fmt: skip
    return figure


def errors(ax: Any, found: "Found") -> None:
    """RMS error of log p-hat with a standard error, against the mean cost; both logarithmic."""
    columns = {**found.cells, "certify": [found.certified.cell]}
    for name, column in columns.items():
        cells = [cell for cell in column if cell is not None]
        colour, marker, line = STYLE[name]
        ax.errorbar(
            [cell.cost for cell in cells],
            [cell.rmse for cell in cells],
            [min(cell.rmse_error, 0.9 * cell.rmse) for cell in cells],
            color=colour, marker=marker, linestyle=line, linewidth=1.3, elinewidth=0.9,
            markersize=9 if marker == "*" else 4.5, mfc="white" if line == "--" else colour,
            label=f"{name} (upper)" if name.startswith("sandwich") else name,
            zorder=4 if marker == "*" else 2,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ax.grid(alpha=0.25)


def coverage(ax: Any, found: "Found", level: float, labels: bool) -> None:
    """Filled: the share of all intervals that hold log p. Hollow: of those that k-hat trusts."""
    names = list(STYLE)
    cells = last(found)
    for name, cell in cells.items():
        place, (colour, marker, _) = names.index(name), STYLE[name]
        for part, shift, face in ((cell.coverage, -0.14, colour), (cell.trusted, 0.2, "white")):
            if part.of >= 10:
                reach = [[part.share - part.low], [part.high - part.share]]
                ax.errorbar(
                    part.share, place + shift, xerr=reach, color=colour, marker=marker,
                    markersize=5, mfc=face, elinewidth=1.1, linestyle="",
                )  # fmt: skip
    ax.axvline(level, color=plotting.INK, linewidth=1, linestyle="--")
    ax.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), names if labels else [""] * len(names), fontsize=8.5)
    for text, name in zip(ax.get_yticklabels(), names, strict=True):
        text.set_color(STYLE[name][0] if name != "naive" else plotting.INK)
    ax.grid(alpha=0.25)


def sides(result: "Result") -> Any:
    """Where 90% of the errors lie at the largest budget, and their mean."""
    figure, axes = panels(result, 1, 2.9)
    names = list(STYLE)
    for index, ((ax,), (title, found)) in enumerate(zip(axes, result.found.items(), strict=True)):
        for name, cell in last(found).items():
            place, (colour, marker, _) = names.index(name), STYLE[name]
            low, middle, high = cell.quantiles
            ax.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.6)
            ax.plot(middle, place, "|", color=colour, markersize=9)
            ax.plot(cell.mean_error, place, marker, color=colour, markersize=5)
        ax.axvline(0, color=plotting.INK, linewidth=1, linestyle="--")
        ax.set_xscale("symlog", linthresh=0.1, linscale=0.7)
        reach = max(np.abs([cell.quantiles for cell in last(found).values()]).max(), 0.1)
        ticks = [tick for tick in (-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100) if abs(tick) <= reach]
        ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
        ax.minorticks_off()
        ax.set_xlim(-1.3 * reach, 1.3 * reach)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), names if index % COLUMNS == 0 else [""] * len(names))
        ax.grid(alpha=0.25)
        plotting.caption_axes(ax, title, ("log p̂(x) − log p(x) [nats]", ""))
    return figure


def k_hat(result: "Result") -> Any:
    """Coverage by k-hat, over data sets and budgets together."""
    figure, axes = panels(result, 1, 2.5)
    shown = ("naive", "importance", "annealed, prior", "annealed, guide")
    for (ax,), (title, found) in zip(axes, result.found.items(), strict=True):
        for shift, name in zip(np.linspace(-0.2, 0.2, len(shown)), shown, strict=True):
            colour, marker, line = STYLE[name]
            parts = [share(holds) for holds in by_k_hat(found.cells[name])]
            places = np.array([i for i, part in enumerate(parts) if part.of >= 10])
            kept = [part for part in parts if part.of >= 10]
            if kept:
                values = np.array([part.share for part in kept])
                reach = np.array([[p.share - p.low, p.high - p.share] for p in kept]).T
                ax.errorbar(
                    places + shift, values, reach, color=colour, marker=marker, linestyle=line,
                    markersize=4.5, linewidth=1.2, mfc="white" if line == "--" else colour,
                    label=name,
                )  # fmt: skip
        ax.axhline(result.config.level, color=plotting.INK, linewidth=1, linestyle="--")
        ax.axvline(1.5, color=plotting.GREY, linewidth=1, linestyle=":")
        ax.set_xticks(range(len(BINS)), BIN_NAMES)
        ax.set(xlim=(-0.5, len(BINS) - 0.5), ylim=(-0.04, 1.04))
        ax.grid(alpha=0.25)
        plotting.caption_axes(ax, title, ("k-hat of the estimate", "coverage"))
    plotting.legend(axes[0][0], loc="lower left")
    return figure


def by_k_hat(column: list[Cell | None]) -> list[np.ndarray]:
    """Does the interval hold the truth?, of the data sets in each bin of k-hat."""
    cells = [cell for cell in column if cell is not None]
    k = np.concatenate([cell.k_hat for cell in cells])
    holds = np.concatenate([cell.holds for cell in cells])
    return [holds[(k > low) & (k <= high)] for low, high in BINS]
