"""Curves of several runs in common panels, from the lines of metrics.jsonl.

The first number of a line is the abscissa, the other numbers are ordinates, and its texts name the
series. If a line has two indices of nested loops, as `run.log(noise=0.5, step=3, elbo=-1.0)`, the
first index stays constant while the second increases; it is then part of the series' name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lvm_jax import plotting
from lvm_jax.report.page import flat as flat_pairs

PANELS = 24  # maximum panels in the page
Metrics = Sequence[Mapping[str, Any]]
Axes = tuple[str, str]  # the names of a curve's x and y
Names = dict[str, str]  # the texts that name a series, by key


class Curve(NamedTuple):
    """One series."""

    x: list[float]
    y: list[float]


class Line(NamedTuple):
    """A line of metrics.jsonl."""

    names: Names
    numbers: dict[str, float]


def curves(runs: Sequence[Metrics]) -> list[dict[Axes, dict[str, Curve]]]:
    """The curves of each run by their axes, then by series, with increasing x.

    A text that is constant within each run but differs between runs is an option of the run, and
    not part of the series' name.
    """
    lines = [_indexed([_line(one) for one in metrics]) for metrics in runs]
    settings = _settings(lines)
    return [_curves(one, settings) for one in lines]


def draw(
    drawn: Sequence[dict[Axes, dict[str, Curve]]], labels: Sequence[str]
) -> tuple[bytes | None, int]:
    """A PNG with one panel for each series of at least two runs, and the number of other series."""
    panels = Counter((axes, s) for one in drawn for axes, named in one.items() for s in named)
    shown = [panel for panel, num_runs in panels.items() if num_runs > 1][:PANELS]
    if not shown:
        return None, len(panels)
    columns = min(3, len(shown))
    width = max(4.2, 7.0 / columns)  # the page widens every figure to its own width
    figure, axes = plotting.new_figure(columns, -(-len(shown) // columns), width, height=3.1)
    for ax, (names, series) in zip(axes, shown, strict=False):
        for place, one in enumerate(drawn):
            if series in one.get(names, {}):
                style = {"linestyle": plotting.STYLES[place % 4], "marker": ".", "markersize": 4}
                ax.plot(*one[names][series], color=plotting.colour(place), **style)
        _scale(ax)
        plotting.caption_axes(ax, series or names[1], names)
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    for place, label in enumerate(labels):
        style = {"linestyle": plotting.STYLES[place % 4], "label": label}
        axes[0].plot([], [], color=plotting.colour(place), **style)
    plotting.legend(axes[0])
    return plotting.png(figure), len(panels) - len(shown)


def _scale(ax: Any) -> None:
    """Set a logarithmic x axis for few values over several orders of magnitude."""
    x = np.unique(np.concatenate([line.get_xdata() for line in ax.lines]))
    if x[0] > 0 and x[-1] >= 50 * x[0] and len(x) <= 20:
        ax.set_xscale("log")


def _line(values: Mapping[str, Any]) -> Line:
    """The texts and the numbers of a line; nested objects have dotted names."""
    flat = {name: value for name, value in flat_pairs(values) if name != "seconds"}
    names = {name: value for name, value in flat.items() if isinstance(value, str)}
    numbers = {name: float(value) for name, value in flat.items() if _is_number(value)}
    return Line(names, numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _indexed(lines: Sequence[Line]) -> list[Line]:
    """Move the first of two indices from the numbers to the names."""
    series: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        series.setdefault((*line.names.items(), *list(line.numbers)[:2]), []).append(line)
    found = []
    for one in series.values():
        if not _has_two_indices([list(line.numbers.values()) for line in one]):
            found += one
            continue
        first = next(iter(one[0].numbers))
        for line in one:
            numbers = dict(line.numbers)
            index = {first: f"{first} = {numbers.pop(first):g}"}
            found.append(Line(line.names | index, numbers))
    return found


def _has_two_indices(rows: Sequence[Sequence[float]]) -> bool:
    """Whether the first number is mostly constant between lines while the second increases."""
    if len(rows) < 2 or max(map(len, rows)) < 3:
        return False
    stays = [(a, b) for a, b in pairwise(rows) if a[0] == b[0]]
    return 2 * len(stays) >= len(rows) - 1 and all(a[1] < b[1] for a, b in stays)


def _settings(runs: Sequence[Sequence[Line]]) -> set[str]:
    """The keys whose text is constant within each run but differs between runs."""
    texts: list[dict[str, set[str]]] = []
    for lines in runs:
        texts.append({})
        for line in lines:
            for key, text in line.names.items():
                texts[-1].setdefault(key, set()).add(text)
    common = set.intersection(*map(set, texts))
    alone = {key for key in common if all(len(one[key]) == 1 for one in texts)}
    return {key for key in alone if any(one[key] != texts[0][key] for one in texts)}


def _curves(lines: Sequence[Line], settings: set[str]) -> dict[Axes, dict[str, Curve]]:
    found: dict[Axes, dict[str, Curve]] = {}
    for line in lines:
        series = ", ".join(text for key, text in line.names.items() if key not in settings)
        (first, x), *others = line.numbers.items() or [("", 0.0)]
        for name, value in others:
            curve = found.setdefault((first, name), {}).setdefault(series, Curve([], []))
            curve.x.append(x)
            curve.y.append(value)
    for named in found.values():
        for series, curve in named.items():
            order = np.argsort(curve.x, kind="stable")
            named[series] = Curve(*([values[n] for n in order] for values in curve))
    return found
