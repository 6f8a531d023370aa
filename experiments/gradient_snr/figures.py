"""The figures of the signal-to-noise experiment."""

from typing import Any

import numpy as np

from experiments.gradient_snr.measure import ESTIMATORS, Curve, Result
from lvm_jax import plotting

FAMILIES = {
    "For the ELBO": ("reparameterised ELBO", "STL", "score function, ELBO", "RLOO"),
    "For IWAE": ("reparameterised IWAE", "DReG", "score function, IWAE", "VIMCO"),
    "Mixes, and wake-sleep": ("MIWAE", "DReG of MIWAE", "PIWAE", "CIWAE", "RWS", "DReG of RWS"),
}
MARKERS = "osD^vP"


def snr(result: Result) -> Any:
    """Above phi, below theta; a family of estimators in each column."""
    figure, axes = plotting.new_figure(3, 2, width=4.3, height=3.7, sharey="row")
    for row, (group, said) in enumerate((("b", "b, of φ"), ("mu", "μ, which is θ"))):
        for column, (family, names) in enumerate(FAMILIES.items()):
            ax = axes[3 * row + column]
            for place, name in enumerate(names):
                line(ax, result, result.curves[group][name], place, name)
            guides(ax, result, group)
            # one legend for both rows, where there is room
            log_axes(ax, result, f"{family}: {said}", "lower right" if row == 1 else "")
    return figure


def line(ax: Any, result: Result, curve: Curve, place: int, name: str) -> None:
    """One estimator, with two standard errors."""
    factor = np.exp(2 * curve.error)
    spread = np.abs(np.stack([curve.snr / factor, curve.snr * factor]) - curve.snr)
    drawn = {"color": plotting.colour(place), "marker": MARKERS[place], "markersize": 5}
    style = {"linestyle": plotting.STYLES[place % 4], "linewidth": 1.5, "label": name}
    ax.errorbar(result.num_samples, curve.snr, spread, **drawn, **style)


def guides(ax: Any, result: Result, group: str) -> None:
    """Grey lines of slope 1/2 and -1/2 through the middle of the fitted range."""
    size = result.num_samples[result.num_samples >= result.config.fit_from]
    middle = np.exp(np.log(size).mean())
    level = np.nanmedian(
        [c.snr[-len(size) :][len(size) // 2] for c in result.curves[group].values()]
    )
    for power in (0.5, -0.5) if group == "b" else (0.5,):
        values = level * (size / middle) ** power
        ax.plot(size, values, ":", color=plotting.GREY, linewidth=1.2)
        end = "+½" if power > 0 else "−½"
        where = {"textcoords": "offset points", "xytext": (4, -3), "fontsize": 8.5}
        ax.annotate(end, (size[-1], values[-1]), color=plotting.GREY, **where)


def log_axes(ax: Any, result: Result, title: str, place: str) -> None:
    """Both logarithmic, with a tick at every S that was measured."""
    plotting.log_ticks(ax, result.num_samples)
    labels = ("importance samples S", "|mean| / sd [1]")
    limits = (result.num_samples[0] / 1.3, result.num_samples[-1] * 1.9)
    plotting.finish(ax, title, labels, place, yscale="log", xlim=limits)


def slopes(result: Result) -> Any:
    """The fitted slopes, beside the laws."""
    figure, axes = plotting.new_figure(2, 1, width=5.4, height=4.6, sharey=True)
    names = list(ESTIMATORS)
    for ax, group, title in zip(axes, ("b", "mu"), ("φ: b (and A)", "θ: μ"), strict=True):
        for place, name in enumerate(names):
            curve = result.curves[group][name]
            law = {"facecolor": "none", "edgecolor": plotting.GREY, "linewidth": 1.4}
            ax.scatter(curve.expected, place, s=110, marker="s", zorder=1, **law)
            bar = {"color": plotting.PALETTE[0], "marker": "o", "markersize": 5, "capsize": 3}
            ax.errorbar(curve.slope, place, xerr=2 * curve.slope_error, linestyle="", **bar)
        ax.scatter([], [], s=80, marker="s", **law, label="law")
        ax.errorbar([], [], xerr=[], linestyle="", **bar, label="measured, ± 2 s.e.")
        for power in (-0.5, 0.5):
            ax.axvline(power, color=plotting.GREY, linewidth=0.8, linestyle=":")
        ax.set_yticks(range(len(names)), names)
        plotting.finish(ax, title, (f"d log SNR / d log S, S ≥ {result.config.fit_from}", ""))
    axes[0].invert_yaxis()  # shared
    plotting.legend(axes[1], loc="lower left")
    axes[1].set_xlim(axes[0].get_xlim())
    return figure


def floor(result: Result) -> Any:
    """The signal as an estimator's own mean, beside the signal as the mean of DReG."""
    figure, axes = plotting.new_figure(2, 1, width=5.4, height=4.2, sharey=True)
    shown = ("reparameterised IWAE", "VIMCO", "DReG")
    bottom = 1 / np.sqrt(result.config.num_repeats)
    for ax, title in zip(
        axes, ("signal: the estimator's own mean", "signal: DReG's mean"), strict=True
    ):
        for place, name in enumerate(shown):
            curve = result.curves["b"][name]
            own = ax is axes[0]
            values, found = (curve.own, curve.own_slope) if own else (curve.snr, curve.slope)
            drawn = {"color": plotting.colour(place), "marker": MARKERS[place], "markersize": 5}
            label = f"{name}: slope {found:+.2f}".replace("-", "−")
            ax.plot(result.num_samples, values, label=label, **drawn)
        ax.axhline(bottom, color=plotting.INK, linestyle="--", linewidth=1.2)
        said = f"1/√R, R = {result.config.num_repeats:,} repeats"
        where = {"textcoords": "offset points", "ha": "right", "fontsize": 8.5}
        end = (result.num_samples[-1] * 1.8, bottom)
        ax.annotate(said, end, (0, 5), bbox=plotting.LABEL_BOX, **where)
        log_axes(ax, result, f"b, {title}", "upper left")
    return figure
