"""The figures of the `evidence_lab` experiment."""

from typing import Any

import numpy as np

from experiments.evidence_lab.measure import Found, Result
from lvm_jax import plotting
from lvm_jax.evidence.scoring import Share, share

COLUMNS = 3
BINS = {
    "< 0.3": (-np.inf, 0.3), "0.3–0.5": (0.3, 0.5), "0.5–0.7": (0.5, 0.7), "> 0.7": (0.7, np.inf)
}  # fmt: skip
FEW = 10  # data sets whose share is not shown
# Colour by kind, and the guide as the start of chains dashed and hollow.
STYLE: dict[str, tuple[str, str, str]] = {
    "naive": (plotting.GREY, "s", "-"),
    "importance": (plotting.PALETTE[0], "o", "-"),
    "jackknife": (plotting.PALETTE[5], "x", ":"),
    "SUMO": (plotting.PALETTE[4], "^", "-"),
    "multilevel": (plotting.PALETTE[1], "v", "-"),
    "annealed, prior": (plotting.PALETTE[2], "D", "-"),
    "annealed, guide": (plotting.PALETTE[2], "d", "--"),
    "sandwich, prior": (plotting.PALETTE[3], ">", "-"),
    "sandwich, guide": (plotting.PALETTE[3], "<", "--"),
    "sequential, prior": (plotting.PALETTE[7], "P", "-"),
    "certify": (plotting.INK, "*", ""),
}


def panels(result: Result, rows_each: int, height: float) -> tuple[Any, list[tuple]]:
    """A figure, and each problem's name, results and `rows_each` axes, one below another."""
    number = len(result.found)
    abreast = min(COLUMNS, number)
    blocks = -(-number // abreast)
    figure, axes = plotting.new_figure(
        abreast, rows_each * blocks, width=10.5 / abreast, height=height
    )
    grid = axes.reshape(blocks, rows_each, abreast).swapaxes(1, 2).reshape(-1, rows_each)
    for ax in grid[number:].ravel():
        ax.set_visible(False)
    return figure, [(*item, *own) for item, own in zip(result.found.items(), grid, strict=False)]


def name_rows(axes: list[Any]) -> None:
    """The methods from above to below, named on the first axis of a line."""
    names = list(STYLE)
    for index, ax in enumerate(axes):
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), names if index % COLUMNS == 0 else [""] * len(names))
        for text, name in zip(ax.get_yticklabels(), names, strict=True):
            text.set(color=STYLE[name][0] if name != "naive" else plotting.INK, fontsize=8.5)


def reach(parts: list[Share]) -> np.ndarray:
    """The lengths of the intervals of shares below and above them, [2, n]."""
    return np.array([[part.share - part.low, part.high - part.share] for part in parts]).T


def lab(result: Result) -> Any:
    """Error against cost, and below it the coverage at the largest budget, for every problem."""
    figure, axes = panels(result, 2, 2.75)
    for title, found, ax, below in axes:
        for name, column in {**found.cells, "certify": [found.certified.cell]}.items():
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
        labels = ("evaluations for one estimate", "RMS error [nats]")
        plotting.finish(ax, title, labels, xscale="log", yscale="log")
        coverage(below, found)
        below.axvline(result.config.level, color=plotting.INK, linewidth=1, linestyle="--")
        labels = (f"coverage of {result.config.level:.0%} intervals", "")
        plotting.finish(below, "", labels, xlim=(-0.03, 1.03))
    name_rows([below for *_, below in axes])
    plotting.legend_below(figure, axes[0][2], 6)
    return figure


def coverage(ax: Any, found: Found) -> None:
    """Filled: the share of all intervals that hold log p. Hollow: of those that k-hat trusts."""
    for name, cell in found.last.items():
        place, (colour, marker, _) = list(STYLE).index(name), STYLE[name]
        for part, shift, face in ((cell.coverage, -0.14, colour), (cell.trusted, 0.2, "white")):
            if part.of >= FEW:
                ax.errorbar(
                    part.share, place + shift, xerr=reach([part]), color=colour, marker=marker,
                    markersize=5, mfc=face, elinewidth=1.1, linestyle="",
                )  # fmt: skip


def directions(result: Result) -> Any:
    """Where 90% of the errors lie at the largest budget, and their mean."""
    figure, axes = panels(result, 1, 2.9)
    for title, found, ax in axes:
        for name, cell in found.last.items():
            place, (colour, marker, _) = list(STYLE).index(name), STYLE[name]
            low, middle, high = cell.quantiles
            ax.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.6)
            ax.plot(middle, place, "|", color=colour, markersize=9)
            ax.plot(cell.mean_error, place, marker, color=colour, markersize=5)
        ax.axvline(0, color=plotting.INK, linewidth=1, linestyle="--")
        most = max(np.abs([cell.quantiles for cell in found.last.values()]).max(), 0.1)
        plotting.signed_log(ax, -1.3 * most, 1.3 * most)
        plotting.finish(ax, title, ("log p̂(x) − log p(x) [nats]", ""))
    name_rows([ax for *_, ax in axes])
    return figure


def k_hat(result: Result) -> Any:
    """Coverage by k-hat, over data sets and budgets together."""
    figure, axes = panels(result, 1, 2.5)
    shown = ("naive", "importance", "annealed, prior", "annealed, guide")
    for title, found, ax in axes:
        for shift, name in zip(np.linspace(-0.2, 0.2, len(shown)), shown, strict=True):
            cells = [cell for cell in found.cells[name] if cell is not None]
            k, holds = (np.concatenate([getattr(c, f) for c in cells]) for f in ("k_hat", "holds"))
            parts = [share(holds[(k > low) & (k <= high)]) for low, high in BINS.values()]
            kept = {place + shift: part for place, part in enumerate(parts) if part.of >= FEW}
            colour, marker, line = STYLE[name]
            if kept:
                ax.errorbar(
                    list(kept), [part.share for part in kept.values()], reach(list(kept.values())),
                    color=colour, marker=marker, linestyle=line, markersize=4.5, linewidth=1.2,
                    mfc="white" if line == "--" else colour, label=name,
                )  # fmt: skip
        ax.axhline(result.config.level, color=plotting.INK, linewidth=1, linestyle="--")
        ax.axvline(1.5, color=plotting.GREY, linewidth=1, linestyle=":")
        ax.set_xticks(range(len(BINS)), BINS)
        limits = {"xlim": (-0.5, len(BINS) - 0.5), "ylim": (-0.04, 1.04)}
        plotting.finish(ax, title, ("k-hat of the estimate", "coverage"), **limits)
    plotting.legend(axes[0][2], loc="lower left")
    return figure
