"""The figures of the table: log p against the cost of training, and the active units."""

from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.iwae_table.cells import Cell
from experiments.iwae_table.measure import Result, common_points
from lvm_jax import plotting
from lvm_jax.diagnostics import THRESHOLD

KNEE = 25.0  # nats below the best value at the lower end of the axis


def label(cell: Cell, with_layers: bool = True) -> str:
    """The name of a cell in figures."""
    objective = "VAE" if cell.objective == "vae" else "IWAE"
    if cell.num_samples == 1:
        objective = "VAE = IWAE"
    layers = f", {cell.num_layers} layer{'s' if cell.num_layers > 1 else ''}" if with_layers else ""
    schedule = ", short" if cell.schedule == "short" else ""
    return f"{objective}, k = {cell.num_samples}{layers}{schedule}"


def style(result: Result, cell: Cell) -> dict[str, Any]:
    """Colour by objective and k; line by the number of layers; open squares for short."""
    kinds = sorted({(r[0].cell.num_samples, r[0].cell.objective) for r in result.records})
    is_short = cell.schedule == "short"
    return {
        "color": plotting.colour(kinds.index((cell.num_samples, cell.objective))),
        "linestyle": plotting.STYLES[cell.num_layers - 1],
        "marker": "s" if is_short else "o",
        "markerfacecolor": "white" if is_short else None,
        "markersize": 5,
        "linewidth": 1.0 if is_short else 1.6,
    }


def training(result: Result) -> Any:
    """log p of the test images against epochs and against minutes of training."""
    figure, axes = plotting.new_figure(2, 1, width=5.4, height=4.6, sharey=True)
    num_points = common_points(result)
    every: dict[int, list[float]] = {}  # by epochs
    for records in result.records:
        cell, epochs = records[0].cell, [r.trained.epochs for r in records]
        values = [r.evidence.log_evidence[:num_points].mean(dtype=float) for r in records]
        spent = [r.trained.seconds / 60 for r in records]
        for ax, x in zip(axes, (epochs, spent), strict=True):
            ax.plot(x, values, label=label(cell), **style(result, cell))
        for place, value in zip(epochs, values, strict=True):
            every.setdefault(place, []).append(value)
    unit = f"log p, nats per image (mean of {num_points:,})"
    plotting.finish(axes[0], "Against passes over the data", ("epochs", unit))
    spent_on = "minutes of training, on this machine"
    plotting.finish(axes[1], "Against time", (spent_on, ""), xscale="log")
    plotting.log_ticks(axes[0], sorted(every))
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    low, best = min(map(min, every.values())), max(map(max, every.values()))
    axes[0].set_ylim(bottom=max(low, best - KNEE) - 0.04 * (best - low))
    plotting.legend_below(figure, axes[0], 3)
    return figure


def units(result: Result) -> Any:
    """Sorted A_u of every unit at the last milestone, one panel for each kind of layer."""
    panels: dict[str, list[tuple[Cell, np.ndarray]]] = {}
    for *_, last in sorted(result.records, key=lambda records: records[0].cell.num_layers):
        for layer, variance in enumerate(last.trained.variance, 1):
            title = f"Two layers, z_{layer}" if last.cell.num_layers > 1 else "One layer, z"
            panels.setdefault(title, []).append((last.cell, np.array(variance)))
    figure, axes = plotting.new_figure(len(panels), 1, width=3.7, height=4.0, sharey=True)
    for ax, (title, spectra) in zip(axes, panels.items(), strict=True):
        for cell, variance in spectra:
            drawn = {**style(result, cell), "linestyle": "-", "markersize": 3.5}
            ranked = np.sort(variance)[::-1]
            name = f"{label(cell, False)}: {int((ranked > THRESHOLD).sum())}"
            ax.plot(1 + np.arange(len(ranked)), ranked, label=name, **drawn)
        ax.axhline(THRESHOLD, color=plotting.INK, linestyle=":", linewidth=1.2)
        names = ("unit, by rank", "A = variance of the posterior mean")
        plotting.finish(ax, title, names, yscale="log")
        plotting.whole_numbers(ax)
        plotting.legend(ax, title="active units", title_fontsize=8.5)
    return figure
