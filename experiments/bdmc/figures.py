"""The figures of the `bdmc` experiment."""

from typing import Any

import numpy as np

from experiments.bdmc.measure import Result
from lvm_jax import plotting

MARKERS = "os^"
GROUPS = 16  # groups of temperatures, one point each


def bounds(result: Result) -> Any:
    """Mean lower and upper bound of the same points against the number of temperatures."""
    figure, axes = plotting.new_figure(len(result.found), width=3.7, height=3.6)
    for ax, (name, found) in zip(axes, result.found.items(), strict=True):
        lengths = [one.num_temperatures for one in found]
        for index, (field, label) in enumerate((("lower", "forward"), ("upper", "back"))):
            values = np.array([getattr(one.bounds, field).value for one in found])
            style = {"color": plotting.colour(index), "marker": MARKERS[index], "ms": 4}
            ax.plot(lengths, values, label=label, **style)
        if found[0].truth is not None:
            ax.axhline(found[0].truth.mean(), color=plotting.INK, ls="--", lw=1.2, label="log p(x)")
        plotting.log_ticks(ax, lengths)
        label = "" if ax is not axes[0] else "mean bound [nats per point]"
        plotting.finish(ax, name, ("temperatures T", label))
    plotting.legend(axes[0])
    return figure


def gap(result: Result) -> Any:
    """The gap between the bounds against T, both on logarithmic axes."""
    figure, (ax,) = plotting.new_figure(1, width=6.2, height=4.2)
    every = np.array([one.bounds.gap.value for found in result.found.values() for one in found])
    for index, (name, found) in enumerate(result.found.items()):
        lengths = np.array([one.num_temperatures for one in found]) * 1.05 ** (index - 1)
        values, errors = np.array([one.bounds.gap for one in found]).T
        style = {"color": plotting.colour(index), "marker": MARKERS[index], "ms": 5, "label": name}
        ax.errorbar(lengths, values, 2 * errors, **style)
    first = next(iter(result.found.values()))
    lengths = np.array([first[0].num_temperatures, first[-1].num_temperatures], float)
    law = 0.5 * every.max() * lengths[0] / lengths
    ax.plot(lengths, law, ":", color=plotting.GREY, linewidth=1.8, label="slope −1", zorder=1)
    plotting.log_ticks(ax, result.config.num_temperatures)
    labels = ("temperatures T", "upper − lower [nats per point]")
    bottom = 0.4 * min(every[every > 0], default=1e-3)  # error bars of insignificant gaps end here
    plotting.finish(ax, "", labels, "best", yscale="log", ylim=(bottom, None))
    return figure


def acceptance(result: Result) -> Any:
    """Acceptance of the moves in groups of neighbouring temperatures, for the largest T."""
    figure, axes = plotting.new_figure(len(result.found), width=3.7, height=2.7, sharey=True)
    for ax, (name, found) in zip(axes, result.found.items(), strict=True):
        last = found[-1].bounds.sandwich
        for index, (label, moves) in enumerate(
            (("forward", last.forward_acceptance), ("back", last.reverse_acceptance))
        ):
            parts = np.array_split(moves.mean(0), min(GROUPS, moves.shape[1]))
            values, share = [part.mean() for part in parts], (np.arange(len(parts)) + 0.5)
            style = {"color": plotting.colour(index), "marker": MARKERS[index], "ms": 4}
            ax.plot(share / len(parts), values, "-" if not index else "--", label=label, **style)
        labels = ("place on the path, t / T", "share accepted")
        plotting.finish(ax, name, labels, xlim=(0, 1), ylim=(0, 1.02))
    plotting.legend(axes[0], loc="lower left")
    return figure
