"""The figures of the `evidence_lab` experiment."""

from typing import Any

import numpy as np

from experiments.evidence_lab.measure import MODES, Cell, Found, Result
from lvm_jax import plotting
from lvm_jax.evidence.scoring import Share, share

COLUMNS = 3
BINS = {
    "< 0.3": (-np.inf, 0.3), "0.3–0.5": (0.3, 0.5), "0.5–0.7": (0.5, 0.7), "> 0.7": (0.7, np.inf)
}  # fmt: skip
FEW = 10  # shares of fewer data sets are not shown
# Not drawn against cost: the jackknife equals importance sampling there, the others are bounds.
UNDRAWN = ("jackknife", "sandwich, prior", "sandwich, guide")
# Colour by kind; chains from the guide are dashed and hollow.
STYLE: dict[str, tuple[str, str, str]] = {
    "naive": (plotting.GREY, "s", "-"),
    "importance": (plotting.PALETTE[0], "o", "-"),
    "jackknife": (plotting.PALETTE[5], "X", ":"),
    "SUMO": (plotting.PALETTE[4], "^", "-"),
    "multilevel": (plotting.PALETTE[1], "v", "-"),
    "annealed, prior": (plotting.PALETTE[2], "D", "-"),
    "annealed, guide": (plotting.PALETTE[2], "d", "--"),
    "sandwich, prior": (plotting.PALETTE[3], ">", "-"),
    "sandwich, guide": (plotting.PALETTE[3], "<", "--"),
    "sequential, prior": (plotting.PALETTE[7], "P", "-"),
    "certify": (plotting.INK, "*", ""),
}


def panels(result: Result, height: float) -> tuple[Any, list[tuple[str, Found, Any]]]:
    """A figure, and each problem's name, results and axes."""
    number = len(result.found)
    abreast = min(COLUMNS, number)
    size = {"width": 10.5 / abreast, "height": height}
    figure, axes = plotting.new_figure(abreast, -(-number // abreast), **size)
    for ax in axes[number:]:
        ax.set_visible(False)
    return figure, [(*item, ax) for item, ax in zip(result.found.items(), axes, strict=False)]


def shown(found: Found) -> dict[str, Cell]:
    """Every method at the largest budget; of `certify` only the certified data sets."""
    cells = found.last | {"certify": found.certified.certified}
    return {name: cell for name, cell in cells.items() if cell is not None}


def heading(title: str, found: Found) -> str:
    """The name of a problem, and the number of its certificates."""
    number = found.certified.holds_within.of
    return f"{title}: {number} of {found.certified.cell.coverage.of} certified"


def marker_style(name: str) -> dict[str, Any]:
    """Colour and marker of a method; chains from the guide are hollow."""
    colour, marker, line = STYLE[name]
    face = "white" if line == "--" else colour
    return {"color": colour, "marker": marker, "mfc": face, "markersize": 9 if marker == "*" else 5}


def name_rows(axes: list[Any]) -> None:
    """Put the methods from top to bottom, with names on the first panel of each row."""
    names = list(STYLE)
    for index, ax in enumerate(axes):
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), names if index % COLUMNS == 0 else [""] * len(names))


def reach(parts: list[Share]) -> np.ndarray:
    """The lengths of error bars of shares, [2, n]."""
    return np.reshape([[p.share - p.low, p.high - p.share] for p in parts], (-1, 2)).T


def error(result: Result) -> Any:
    """RMS error against cost, for every problem."""
    figure, axes = panels(result, 3.1)
    for title, found, ax in axes:
        for name, column in {**found.cells, "certify": [shown(found).get("certify")]}.items():
            if name in UNDRAWN:
                continue
            cells = [cell for cell in column if cell is not None]
            ax.errorbar(
                [cell.cost for cell in cells],
                [cell.rmse for cell in cells],
                [min(cell.rmse_error, 0.9 * cell.rmse) for cell in cells],
                **marker_style(name), linestyle=STYLE[name][2], linewidth=1.3, elinewidth=0.9,
                label=name, zorder=4 if name == "certify" else 2,
            )  # fmt: skip
        labels = ("evaluations for one estimate", "RMS error [nats]")
        plotting.finish(ax, heading(title, found), labels, xscale="log", yscale="log")
    plotting.legend_below(figure, axes[0][2], 4)
    return figure


def coverage(result: Result) -> Any:
    """Coverage at the largest budget: filled for all intervals, hollow for k-hat <= 0.5."""
    figure, axes = panels(result, 3.0)
    for title, found, ax in axes:
        for name, cell in shown(found).items():
            place, style = list(STYLE).index(name), marker_style(name) | {"markersize": 6}
            for part, shift, face in (
                (cell.coverage, -0.15, style["color"]),
                (cell.trusted, 0.2, "white"),
            ):
                if part.of >= FEW and not (name == "certify" and shift > 0):
                    bar = {"xerr": reach([part]), "elinewidth": 1.1, "linestyle": ""}
                    ax.errorbar(part.share, place + shift, **style | bar | {"mfc": face})
        ax.axvline(result.config.level, color=plotting.INK, linewidth=1, linestyle="--")
        labels = (f"share of {result.config.level:.0%} intervals that hold log p(x)", "")
        plotting.finish(ax, heading(title, found), labels, xlim=(-0.03, 1.03))
    name_rows([ax for *_, ax in axes])
    return figure


def directions(result: Result) -> Any:
    """The central 90% of the errors at the largest budget, and their mean."""
    figure, axes = panels(result, 2.9)
    for title, found, ax in axes:
        cells = shown(found)
        for name, cell in cells.items():
            place, style = list(STYLE).index(name), marker_style(name)
            low, middle, high = cell.quantiles
            ax.plot([low, high], [place, place], color=style["color"], linewidth=2, alpha=0.6)
            ax.plot(middle, place, "|", color=style["color"], markersize=9)
            ax.plot(cell.mean_error, place, **style)
        ax.axvline(0, color=plotting.INK, linewidth=1, linestyle="--")
        most = max(np.abs([cell.quantiles for cell in cells.values()]).max(), 0.1)
        plotting.signed_log(ax, -1.3 * most, 1.3 * most, linear=0.1 if most > 1 else 0.01)
        plotting.finish(ax, heading(title, found), ("log p̂(x) − log p(x) [nats]", ""))
    name_rows([ax for *_, ax in axes])
    return figure


def k_hat(result: Result) -> Any:
    """Coverage by k-hat, pooled over data sets and budgets."""
    figure, axes = panels(result, 2.6)
    names = ("naive", "importance", "annealed, prior", "annealed, guide")
    for title, found, ax in axes:
        for shift, name in zip(np.linspace(-0.24, 0.24, len(names)), names, strict=True):
            cells = [cell for cell in found.cells[name] if cell is not None]
            k, holds = (np.concatenate([getattr(c, f) for c in cells]) for f in ("k_hat", "holds"))
            parts = [share(holds[(k > low) & (k <= high)]) for low, high in BINS.values()]
            kept = {place + shift: part for place, part in enumerate(parts) if part.of >= FEW}
            values = [part.share for part in kept.values()]
            bars = reach(list(kept.values()))
            style = {"linestyle": ":", "linewidth": 0.9, "elinewidth": 1.2, "label": name}
            ax.errorbar(list(kept), values, bars, **marker_style(name), **style)
        ax.axhline(result.config.level, color=plotting.INK, linewidth=1, linestyle="--")
        ax.axvspan(-0.5, 1.5, color=plotting.GREY, alpha=0.13, linewidth=0)
        ax.set_xticks(range(len(BINS)), BINS)
        limits = {"xlim": (-0.5, len(BINS) - 0.5), "ylim": (-0.04, 1.04)}
        plotting.finish(ax, title, ("k-hat of the estimate", "coverage"), **limits)
    plotting.legend_below(figure, axes[0][2], len(names))
    return figure


def certificate(result: Result) -> Any:
    """The certificates of the first model with several modes, or of the first."""
    found = result.found.get(MODES) or next(iter(result.found.values()))
    return plotting.certificate(found.certified.certificate)
