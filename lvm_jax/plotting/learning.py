"""Learning curves: the bound of every epoch, and measured averages with their two errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax.estimate import Average
from lvm_jax.plotting.figures import INK, axis_or_new, colour, finish, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lvm_jax.evidence import Summary
    from lvm_jax.training import History

SETTLED = 20  # the first E / 20 epochs may lie below the window


def learning_curve(
    history: History,
    *,
    name: str = "bound",
    measured: Mapping[str, Mapping[int, Average | Summary]] | None = None,
    best_step: int | None = None,
    unit: str = "nats per data point",
    ax: Axes | None = None,
) -> Figure:
    """The bound against the epoch, in training and validation; returns the figure.

    The objective is drawn too where it is not the bound. `measured` are averages over data, by name
    and by epoch, each with two errors: the thick bar is 2 Monte Carlo errors (other draws of z for
    the same points), the thin one 2 sampling errors (other points). A `Summary` that is not
    reliable has a hollow mark. `best_step`, as a fit has it, marks the epoch whose parameters were
    kept.

        plotting.learning_curve(fit.history, name="ELBO", best_step=fit.best_step)

    The vertical window leaves out the first twentieth of the epochs.

    Raises ValueError for a history without a finished epoch, a step or an epoch outside it.
    """
    number = len(history.step)
    if number == 0:
        raise ValueError("history: expected at least one finished epoch, got none")
    figure, ax = axis_or_new(ax, width=7.0, height=4.2)
    curves = {f"{name}, training": history.bound, f"{name}, validation": history.validation_bound}
    if not np.allclose(history.objective, history.bound, rtol=1e-6):
        curves["objective, training"] = history.objective
    shown = _draw_curves(ax, curves)
    if best_step is not None:
        _ring(ax, history, best_step)
    for place, (label, averages) in enumerate((measured or {}).items(), len(curves)):
        if outside := [epoch for epoch in averages if not 1 <= epoch <= number]:
            raise ValueError(f"measured: expected epochs from 1 to {number}, got {outside[0]}")
        for epoch, average in averages.items():
            reliable = bool(getattr(average, "reliable", True))
            two_errors(ax, epoch, average, colour(place), reliable)
            shown += [float(average[0]) - 2 * float(average[2])]
            shown += [float(average[0]) + 2 * float(average[2])]
        kept = all(getattr(one, "reliable", True) for one in averages.values())
        label = f"{label} ± 2 errors (draws thick, data thin)" + (
            "" if kept else ", hollow: unreliable"
        )
        ax.plot([], [], "o", color=colour(place), mfc=None if kept else "white", label=label)
    seen = [value for value in shown if np.isfinite(value)]
    low, high = min(seen), max(seen)
    margin = 0.06 * (high - low) or 0.5
    whole_numbers(ax)
    limits = (low - margin, high + margin)
    finish(ax, "", ("epoch", unit), "lower right", ylim=limits)
    return figure


def two_errors(
    ax: Axes, x: float, average: Average | Summary, shade: str, reliable: bool = True
) -> None:
    """A mean with both errors: 2 Monte Carlo errors thick, 2 sampling errors thin, with caps."""
    value, monte_carlo, sampling = map(float, average[:3])
    style: dict[str, Any] = {"color": shade, "linestyle": "", "zorder": 4}
    face = shade if reliable else "white"
    ax.errorbar(x, value, 2 * sampling, elinewidth=1.1, capsize=3, **style)
    ax.errorbar(x, value, 2 * monte_carlo, elinewidth=4, marker="o", mfc=face, ms=6, **style)


def _draw_curves(ax: Axes, curves: Mapping[str, np.ndarray]) -> list[float]:
    """Draws the finite parts; returns their values after the first twentieth of the epochs."""
    shown: list[float] = []
    for place, (label, values) in enumerate(curves.items()):
        epochs = 1 + np.flatnonzero(np.isfinite(values))
        if len(epochs) == 0:
            continue
        style: dict[str, Any] = {"color": colour(place), "linestyle": ("-", "--", ":")[place]}
        style |= {"marker": "o" if len(epochs) <= 40 else None, "markersize": 3.5}
        ax.plot(epochs, values[epochs - 1], linewidth=1.6, label=label, **style)
        shown += [float(value) for value in values[len(values) // SETTLED :]]
        shown.append(float(np.nanmax(values)))
    return shown


def _ring(ax: Axes, history: History, best_step: int) -> None:
    place = int(np.searchsorted(history.step, best_step))
    if place >= len(history.step) or history.step[place] != best_step:
        raise ValueError(f"best_step: expected a step of the history, got {best_step}")
    style: dict[str, Any] = {"marker": "o", "markersize": 9, "fillstyle": "none", "color": INK}
    at = place + 1, history.validation_bound[place]
    ax.plot(*at, linestyle="", label="parameters kept", **style)
