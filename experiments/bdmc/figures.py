"""The figures of the `bdmc` experiment."""

from typing import Any

import numpy as np

from experiments.bdmc.measure import Result
from lvm_jax import plotting


def bounds(result: Result) -> Any:
    """Mean lower and upper bound of the same points against the length of the chains."""
    figure, axes = plotting.new_figure(len(result.found), width=3.7, height=3.6)
    for ax, (name, found) in zip(axes, result.found.items(), strict=True):
        lengths = [one.num_temperatures for one in found]
        for index, (field, label) in enumerate((("lower", "forward"), ("upper", "back"))):
            values = np.array([getattr(one.bounds, field).value for one in found])
            ax.plot(lengths, values, "o-", color=plotting.colour(index), ms=4, label=label)
        if found[0].truth is not None:
            ax.axhline(found[0].truth.mean(), color=plotting.INK, ls="--", lw=1.2, label="log p(x)")
        plotting.log_ticks(ax, lengths)
        plotting.finish(ax, name, ("temperatures T", "mean bound [nats per point]"))
    plotting.legend(axes[0])
    return figure


def gap(result: Result) -> Any:
    """The gap between the bounds against T, both on logarithmic axes."""
    figure, (ax,) = plotting.new_figure(1, width=6.2, height=4.2)
    for index, (name, found) in enumerate(result.found.items()):
        lengths = np.array([one.num_temperatures for one in found])
        values, errors = np.array([one.bounds.gap for one in found]).T
        style = {"fmt": "o-", "ms": 4, "color": plotting.colour(index), "label": name}
        ax.errorbar(lengths, values, 2 * errors, **style)
    first = next(iter(result.found.values()))
    lengths = np.array([first[0].num_temperatures, first[-1].num_temperatures], float)
    top = max(one.bounds.gap.value for one in first)
    ax.plot(lengths, 0.6 * top * lengths[0] / lengths, ":", color=plotting.INK, label="slope −1")
    plotting.log_ticks(ax, result.config.num_temperatures)
    labels = ("temperatures T", "upper − lower [nats per point]")
    plotting.finish(ax, "", labels, "best", yscale="log")
    return figure


def acceptance(result: Result) -> Any:
    """Acceptance of the moves along the longest path."""
    figure, (ax,) = plotting.new_figure(1, width=6.2, height=3.4)
    for index, (name, found) in enumerate(result.found.items()):
        last = found[-1].bounds.sandwich
        share = np.linspace(0, 1, last.forward_acceptance.shape[1])
        for values, style in ((last.forward_acceptance, "-"), (last.reverse_acceptance, "--")):
            label = name if style == "-" else None
            ax.plot(share, values.mean(0), style, color=plotting.colour(index), label=label)
    labels = ("t / T (forward solid, back dashed)", "mean acceptance")
    plotting.finish(ax, "", labels, "lower left", ylim=(0, 1.02))
    return figure
