"""An information criterion against the number of components, a line for each family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax.plotting.figures import INK, STYLES, axis_or_new, colour, finish, legend, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE = 0.7  # of the values, from the lowest, that the window shows


def selection(
    values: Mapping[str, Mapping[int, float]], name: str = "BIC", *, ax: Axes | None = None
) -> Figure:
    """A criterion, by family and K as `em.Selection.values` returns it, against K.

        plotting.selection(found.values("bic"))

    The legend has the families in the order of their lowest values, with the K of these. A ring
    marks the lowest value of all. NaN, the value of a singular fit, has no mark. The window has the
    lowest seven tenths of the values. Returns the figure.

    Raises ValueError if no value is finite.
    """
    sound = {
        family: {k: v for k, v in sorted(row.items()) if np.isfinite(v)}
        for family, row in values.items()
    }
    every = np.array([v for row in sound.values() for v in row.values()])
    if not every.size:
        raise ValueError("values: expected at least one finite value, got none")
    figure, ax = axis_or_new(ax, width=6.5, height=4.2)
    lowest = {family: min(row, key=row.__getitem__) for family, row in sound.items() if row}
    order = sorted(lowest, key=lambda family: sound[family][lowest[family]])
    for place, family in enumerate(order):
        sizes = sorted(values[family])
        line = [sound[family].get(k, np.nan) for k in sizes]
        style: dict[str, Any] = {"color": colour(place), "linestyle": STYLES[place % len(STYLES)]}
        style |= {"marker": "o", "markersize": 3.5, "linewidth": 2.0 if place == 0 else 1.2}
        label = f"{family}, K = {lowest[family]}: {sound[family][lowest[family]]:,.1f}"
        ax.plot(sizes, line, label=label, zorder=3 - 0.1 * place, **style)
    best = lowest[order[0]], sound[order[0]][lowest[order[0]]]
    ax.plot(*best, "o", markersize=12, fillstyle="none", color=INK, zorder=4)
    low, high = every.min(), np.quantile(every, SHARE)
    margin = 0.06 * (high - low) or 1.0
    whole_numbers(ax)
    labels = ("number of components K", f"{name} (lower is better)")
    finish(ax, "", labels, ylim=(low - margin, high + margin))
    legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5), title="lowest value")
    return figure
