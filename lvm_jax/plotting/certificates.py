"""A certificate of many points: the intervals, the modes, and the checks that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax.plotting.figures import GREY, INK, PALETTE, finish, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lvm_jax.evidence import Certificate, Search

SHOWN = 5  # modes with a colour of their own


def certificate(found: Certificate) -> Figure:
    """The intervals of all points, the masses of their modes, and the verdicts; the figure.

    Left: the half-width of each point's interval, in order, with the tolerance; points without an
    interval are crosses above. Middle, with a search that found modes: the share of each mode in
    the evidence of each point, by the largest. Right: the numbers of points within the tolerance,
    reliable but wider, and with each failed check.
    """
    half = 0.5 * (found.high - found.low)
    order = np.argsort(np.where(np.isfinite(half), half, np.inf), kind="stable")
    search = found.search
    has_modes = search is not None and bool(search.is_mode.any())
    figure, axes = new_figure(3 if has_modes else 2, width=4.0, height=3.2)
    _intervals(axes[0], found, half[order], found.within[order])
    if search is not None and has_modes:
        _masses(axes[1], search)
    _verdicts(axes[-1], found)
    legend_below(figure, axes[0], 3)
    return figure


def _intervals(ax: Axes, found: Certificate, half: np.ndarray, within: np.ndarray) -> None:
    place, bounded = np.arange(1, len(half) + 1), np.isfinite(half)
    kinds = {"within the tolerance": within, "reliable, wider": bounded & ~within}
    for (name, kind), shade in zip(kinds.items(), (PALETTE[0], PALETTE[1]), strict=True):
        if kind.any():
            ax.plot(place[kind], half[kind], "o", color=shade, markersize=3.5, label=name)
    top = 1.15 * max(found.tolerance, half[bounded].max(initial=0.0))
    if not bounded.all():
        style: dict[str, Any] = {"color": GREY, "markersize": 5, "label": "no interval"}
        ax.plot(place[~bounded], np.full((~bounded).sum(), top), "x", **style)
    ax.axhline(found.tolerance, color=INK, linestyle=":", linewidth=1.2)
    labels = ("point, by width", "half-width [nats]")
    finish(ax, f"Intervals at {found.level:.0%}", labels, ylim=(0, 1.1 * top))


def _masses(ax: Axes, search: Search) -> None:
    masses = -np.sort(-np.where(search.is_mode, search.masses, 0.0), axis=1)
    masses = masses[np.argsort(-masses[:, 0], kind="stable")]
    parts = [*masses[:, :SHOWN].T, masses[:, SHOWN:].sum(1)]
    place, below = np.arange(1, len(masses) + 1), np.zeros(len(masses))
    for number, part in enumerate(parts):
        shade = GREY if number == SHOWN else PALETTE[2 + number]
        ax.bar(place, part, 1.0, below, color=shade, linewidth=0)
        below = below + part
    finish(ax, "Modes", ("point, by its largest mode", "share of the evidence"), ylim=(0, 1.05))


def _verdicts(ax: Axes, found: Certificate) -> None:
    from lvm_jax.evidence import Check

    bits = {check.name: int((found.failed & check != 0).sum()) for check in Check}
    rows = {"within": int(found.within.sum()), "wider": int((found.reliable & ~found.within).sum())}
    rows |= {str(name): number for name, number in bits.items() if number}
    shades = [PALETTE[0], PALETTE[1], *[GREY] * (len(rows) - 2)]
    ax.barh(list(rows), list(rows.values()), color=shades)
    for place, number in enumerate(rows.values()):
        ax.text(number, place, f" {number}", va="center", fontsize=9, color=INK)
    finish(ax, "Verdicts", ("points", ""), xlim=(0, 1.15 * len(found.within)))
    ax.set_ylim(len(rows) - 0.4, -0.6)
