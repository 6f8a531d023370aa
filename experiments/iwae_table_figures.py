"""The figures of the table: log p against the cost of training, and the units that are used."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax import plotting
from lvm_jax.diagnostics import THRESHOLD

if TYPE_CHECKING:
    from experiments.iwae_table import Cell, Result
    from experiments.iwae_table_cells import Record

KNEE = 25.0  # nats below the best that the curves show


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {"training": training(result), "units": units(result)}
    return {name: plotting.png(figure) for name, figure in figures.items()}


def label(cell: "Cell", with_layers: bool = True) -> str:
    """A cell in words."""
    objective = "VAE" if cell.objective == "vae" else "IWAE"
    if cell.num_samples == 1:
        objective = "VAE = IWAE"
    layers = f", {cell.num_layers} layer{'s' if cell.num_layers > 1 else ''}" if with_layers else ""
    schedule = ", short" if cell.schedule == "short" else ""
    return f"{objective}, k = {cell.num_samples}{layers}{schedule}"


def style(result: "Result", cell: "Cell") -> dict[str, Any]:
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


def curve(records: "list[Record]", num_points: int) -> np.ndarray:
    """Mean log p of the same first images at each milestone, nats."""
    return np.array([r.evidence.log_evidence[:num_points].mean(dtype=float) for r in records])


def common_points(result: "Result") -> int:
    """How many images every milestone of every cell was measured on."""
    return min(len(r.evidence.log_evidence) for records in result.records for r in records)


def training(result: "Result") -> Any:
    """log p of the test images against epochs and against minutes of training."""
    figure, axes = plotting.new_figure(2, 1, width=6, height=5, sharey=True)
    num_points = common_points(result)
    curves = [curve(records, num_points) for records in result.records]
    for records, values in zip(result.records, curves, strict=True):
        cell = records[0].cell
        epochs = [r.trained.epochs for r in records]
        spent = [r.trained.seconds / 60 for r in records]
        for ax, x in zip(axes, (epochs, spent), strict=True):
            ax.plot(x, values, label=label(cell), **style(result, cell))
    unit = f"log p, nats per image (mean of {num_points:,})"
    plotting.caption_axes(axes[0], "Against passes over the data", ("epochs", unit))
    spent_on = "minutes of training, on this machine"
    plotting.caption_axes(axes[1], "Against time", (spent_on, ""))
    every = sorted({r.trained.epochs for records in result.records for r in records})
    scale(axes[0], every)
    scale(axes[1])
    low, best = (f(v.min() if f is min else v.max() for v in curves) for f in (min, max))
    axes[0].set_ylim(bottom=max(low, best - KNEE) - 0.04 * (best - low))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


def scale(ax: Any, ticks: "list[int] | None" = None) -> None:
    """A logarithmic axis with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.set_xscale("log")
    ax.grid(alpha=0.25)
    if ticks is not None:
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        return
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def units(result: "Result") -> Any:
    """A_u of every unit at the last milestone, sorted, one panel for each kind of layer."""
    panels = panels_of(result)
    figure, axes = plotting.new_figure(len(panels), 1, width=5.2, height=4.2, sharey=True)
    for ax, (title, spectra) in zip(axes, panels.items(), strict=True):
        for cell, variance in spectra:
            look = {**style(result, cell), "linestyle": "-", "markersize": 3.5}
            ranked = np.sort(variance)[::-1]
            name = f"{label(cell, False)}: {int((ranked > THRESHOLD).sum())}"
            ax.plot(1 + np.arange(len(ranked)), ranked, label=name, **look)
        ax.axhline(THRESHOLD, color=plotting.INK, linestyle=":", linewidth=1.2)
        ax.set_yscale("log")
        ax.grid(alpha=0.25)
        names = ("unit, by rank", "A = variance of the posterior mean")
        plotting.caption_axes(ax, title, names)
        plotting.whole_numbers(ax)
        ax.legend(title="active units", title_fontsize=8.5, fontsize=8.5, frameon=False)
    for ax in axes[1:]:
        ax.set_ylabel("")
    return figure


def panels_of(result: "Result") -> dict[str, "list[tuple[Cell, np.ndarray]]"]:
    """For each layer of each depth the spectra of the cells that have it."""
    panels: dict[str, list[tuple[Cell, np.ndarray]]] = {}
    for depth in (1, 2):
        for layer in range(depth):
            title = "One layer, z" if depth == 1 else f"Two layers, z_{layer + 1}"
            spectra = [
                (records[-1].cell, np.array(records[-1].trained.variance[layer]))
                for records in result.records
                if records[0].cell.num_layers == depth
            ]
            if spectra:
                panels[title] = spectra
    return panels
