"""The figures of the discrete-gradients experiment."""

from typing import Any

import numpy as np

from experiments.discrete_gradients.measure import Result
from lvm_jax import plotting
from lvm_jax.gradients import Accuracy

PANELS = {
    "Unbiased, by differences of f": (
        *("enumeration", "score function", "score function, baseline ¼", "RLOO", "ARM", "DisARM"),
    ),
    "Unbiased, with a relaxed control": ("enumeration", "REBAR", "RELAX"),
    "Relaxed": (
        *("enumeration", "concrete, τ = 0.1", "concrete, τ = 0.5", "concrete, τ = 1"),
        "straight-through",
    ),
}
SYMBOLS = {"theta": "θ", "phi": "φ"}
UNIT = "[units of the exact gradient's length]"
MARKERS = "os^vD<>pPXh"
BLUE, ORANGE = plotting.PALETTE[:2]


def toy(result: Result) -> Any:
    """The exact loss along the descents: mean, and the middle 80% of the seeds."""
    figure, axes = plotting.new_figure(3, width=3.7, height=4.2, sharey=True)
    t = result.config.targets[0]
    for ax, (title, names) in zip(axes, PANELS.items(), strict=True):
        for place, name in enumerate(names):
            losses, colour = result.losses[name], plotting.colour(place)
            steps = np.arange(losses.shape[1])
            low, high = np.quantile(losses, (0.1, 0.9), axis=0)
            ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            style = plotting.STYLES[place % 4]
            ax.plot(steps, losses.mean(0), style, color=colour, linewidth=1.7, label=name)
        where = {"textcoords": "offset points", "fontsize": 8.5, "ha": "right"}
        for value, text in ((t**2, "b = 0, the optimum"), (t * (1 - t), "p = t")):
            ax.axhline(value, color=plotting.GREY, linestyle=":", linewidth=1.2)
            ax.annotate(text, (steps[-1], value), (0, -10), **where)
        limits = (t**2 - 0.012, max(t**2, (1 - t) ** 2) + 0.03)
        plotting.finish(ax, title, ("step of gradient descent", "E[(b − t)²]"), ylim=limits)
        plotting.legend(ax, loc="upper right", ncols=2 if len(names) > 5 else 1)
    return figure


def column(parts: list[Accuracy], field: str) -> np.ndarray:
    """A field of several groups as an array, [n] or [n, 2]; `sd` is that of one gradient."""
    if field == "sd":
        return np.sqrt([part.variance.value for part in parts])
    return np.array([getattr(part, field) for part in parts])


def bias_variance(result: Result) -> Any:
    """Bias, or its upper limit, and standard deviation of one gradient, by estimator."""
    figure, axes = plotting.new_figure(2, 1, width=5.8, height=4.9, sharey=True)
    names = list(result.measured)
    rows, marks = np.arange(len(names)), {"linestyle": "", "markersize": 7}
    for ax, group in zip(axes, SYMBOLS, strict=True):
        parts = [result.measured[name].groups[group] for name in names]
        sd, limit, seen = (column(parts, field) for field in ("sd", "limit", "is_seen"))
        shown, none = sd > 1e-3, ~seen & (limit > 1e-3)
        ax.plot(sd[shown], rows[shown], "o", color=BLUE, label="sd of one gradient", markersize=7)
        bias, error = column(parts, "bias")[seen].T
        bar = {"marker": "s", "color": ORANGE, "capsize": 3, "label": "bias, ± 2 s.e."}
        ax.errorbar(bias, rows[seen], xerr=2 * error, **bar, **marks)
        open_mark = {"marker": "<", "color": ORANGE, "fillstyle": "none"}
        label = "no bias seen: less than this"
        ax.plot(limit[none], rows[none], label=label, **open_mark, **marks)
        ax.axvline(1, color=plotting.INK, linestyle=":", linewidth=1.2)
        ax.set_yticks(rows, names)
        title, labels = f"gradient for {SYMBOLS[group]}", (f"bias or sd {UNIT}", "")
        plotting.finish(ax, title, labels, xscale="log")
        where = {"xycoords": ("axes fraction", "data"), "fontsize": 8.5, "va": "center"}
        ax.annotate("neither: exact", (0.02, 0), **where)
    axes[0].set_ylim(len(names) - 0.5, -0.6)  # shared; the first row on top
    plotting.legend_below(figure, axes[1], 3)
    return figure


def temperature(result: Result) -> Any:
    """Bias, sd and root mean square error against the temperature, for phi and theta."""
    count = len(result.relaxed)
    figure, axes = plotting.new_figure(count, 2, width=3.6, height=3.2, sharey="row")
    tau = np.array(result.config.temperatures)
    for row, group in enumerate(("phi", "theta")):
        for place, (name, found) in enumerate(result.relaxed.items()):
            ax, parts = axes[count * row + place], [one.groups[group] for one in found]
            bias, limit, sd, seen = (column(parts, of) for of in ("bias", "limit", "sd", "is_seen"))
            ax.plot(tau, sd, "o-", color=BLUE, label="sd of one gradient")
            if seen.any():
                ax.plot(tau[seen], bias[seen, 0], "s--", color=ORANGE, label="bias")
            if not seen.all():
                below = {"color": ORANGE, "fillstyle": "none", "label": "no bias seen: below this"}
                ax.plot(tau[~seen], limit[~seen], "v", **below)
            rmse = np.hypot(sd, np.where(seen, bias[:, 0], 0))
            ax.plot(tau, rmse, ":", color=plotting.INK, label="root mean square")
            plotting.log_ticks(ax, tau)
            labels = ("temperature τ", "units of the exact gradient")
            plotting.finish(ax, f"{name}: {SYMBOLS[group]}", labels, yscale="log")
    most = max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[1]))
    plotting.legend_below(figure, most, 4)
    return figure


def cost(result: Result) -> Any:
    """Root mean square error of phi's gradient against the time of one gradient."""
    figure, (ax,) = plotting.new_figure(1, 1, width=7.4, height=4.6)
    for place, (name, found) in enumerate(result.measured.items()):
        part, drawn = found.groups["phi"], {"color": plotting.colour(place)}
        error = np.hypot(part.bias.value if part.is_seen else 0.0, np.sqrt(part.variance.value))
        if error < 1e-3:
            label = f"{name}: {found.microseconds:.1f} µs, no error"
            ax.axvline(found.microseconds, linestyle="--", label=label, **drawn)
            continue
        fill, label = ("none", f"{name} (biased)") if part.is_seen else ("full", name)
        style = {"fillstyle": fill, "markeredgewidth": 1.6, "markersize": 8, "label": label}
        marker = MARKERS[place % len(MARKERS)]
        ax.plot(found.microseconds, error, marker, **style, **drawn)
    title = "φ: root mean square error of one gradient against its time"
    labels = ("time of one gradient of all images [µs]", f"error {UNIT}")
    plotting.finish(ax, title, labels, yscale="log", xlim=(0, None))
    ax.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
