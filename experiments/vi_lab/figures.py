"""The figures of the `vi_lab` experiment."""

from typing import Any

import numpy as np

from experiments.vi_lab.config import METHODS
from experiments.vi_lab.measure import Result
from lvm_jax import plotting

MARKERS = "so^vDPX*"
SMALLEST = 1e-3  # nats that are drawn
COLUMNS = 4


def style(method: str) -> dict[str, Any]:
    """Colour, marker and label of a method."""
    place = METHODS.index(method)
    return {"color": plotting.colour(place), "marker": MARKERS[place], "ms": 5, "label": method}


def panels(result: Result, height: float) -> tuple[Any, dict[str, Any]]:
    """A figure with a panel for each target."""
    count = len(result.found)
    columns = min(count, COLUMNS)
    figure, axes = plotting.new_figure(columns, -(-count // columns), width=3.7, height=height)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, dict(zip(result.found, axes, strict=False))


def divergence(result: Result) -> Any:
    """log Z - ELBO against evaluations, with those of the best normals."""
    figure, axes = panels(result, 3.6)
    for name, ax in axes.items():
        target = result.targets[name]
        for method, cells in result.found[name].items():
            x = [one.evaluations for one in cells]
            y = [np.clip(one.to_log_evidence, SMALLEST, None) for one in cells]
            ax.plot(x, y, **style(method))
        for field, line in (("mean_field_elbo", ":"), ("full_rank_elbo", "--")):
            if target[field] is not None:
                best = target["log_evidence"] - target[field]
                ax.axhline(best, color=plotting.INK, linestyle=line, linewidth=1, zorder=0)
        label = "log Z − ELBO [nats]" if ax is next(iter(axes.values())) else ""
        plotting.finish(ax, target["name"], ("evaluations", label), xscale="log", yscale="log")
    plotting.legend_below(figure, next(iter(axes.values())), 4 if len(axes) < 3 else 7)
    return figure


def evidence(result: Result) -> Any:
    """The error of log Z with its 95% interval, at the largest budget."""
    figure, axes = panels(result, 3.2)
    for name, ax in axes.items():
        rows = result.found[name]
        for place, (method, cells) in enumerate(rows.items()):
            one = cells[-1]
            if not np.isfinite(one.error):
                continue
            shown = style(method) | {"fillstyle": "full" if one.reliable else "none"}
            ends = np.abs([[one.low - one.error], [one.high - one.error]])
            ax.errorbar([one.error], [place], xerr=ends, capsize=2.5, **shown)
        ax.axvline(0, color=plotting.INK, linestyle="--", linewidth=1)
        ax.set_yticks(range(len(rows)), list(rows) if ax is next(iter(axes.values())) else [])
        ax.invert_yaxis()
        plotting.finish(ax, result.targets[name]["name"], ("error of log Z [nats]", ""))
    return figure
