"""The figures of the signal-to-noise experiment."""

from typing import Any

import numpy as np

from experiments.gradient_snr.measure import ESTIMATORS, Curve, Result
from lvm_jax import plotting

FAMILIES = {
    "ELBO": ("reparameterised ELBO", "STL", "score function, ELBO", "RLOO"),
    "IWAE": ("reparameterised IWAE", "DReG", "score function, IWAE", "VIMCO"),
    "Mixes, wake-sleep": ("MIWAE", "DReG of MIWAE", "PIWAE", "CIWAE", "RWS", "DReG of RWS"),
}
GROUPS = {"b": "b (of φ)", "mu": "μ (θ)"}
MARKERS = "osD^vP"


def snr(result: Result) -> Any:
    """SNR for phi (above) and theta (below), with a family of estimators in each column."""
    figure, axes = plotting.new_figure(3, 2, width=3.6, height=3.6, sharey="row")
    for row, (group, symbol) in enumerate(GROUPS.items()):
        for column, (family, names) in enumerate(FAMILIES.items()):
            ax = axes[3 * row + column]
            for place, name in enumerate(names):
                line(ax, result, result.curves[group][name], place, name)
            corner = "lower right" if group == "mu" else "lower left"
            log_axes(ax, result, f"{family}: gradient for {symbol}", corner)
    lowest = min(np.nanmin(curve.snr) for curve in result.curves["b"].values())
    axes[0].set_ylim(bottom=lowest / 300)  # shared; space for the legends
    return figure


def line(ax: Any, result: Result, curve: Curve, place: int, name: str) -> None:
    """One estimator, with two standard errors, and its slope in the legend."""
    factor = np.exp(2 * curve.error)
    spread = np.abs(np.stack([curve.snr / factor, curve.snr * factor]) - curve.snr)
    drawn = {"color": plotting.colour(place), "marker": MARKERS[place], "markersize": 5}
    style = {"linestyle": plotting.STYLES[place % 4], "linewidth": 1.5}
    ax.errorbar(
        result.num_samples, curve.snr, spread, **drawn, **style, label=with_slope(name, curve.slope)
    )


def with_slope(name: str, slope: float) -> str:
    """A name and a fitted slope."""
    return f"{name}: {slope:+.2f}".replace("-", "−")


def log_axes(ax: Any, result: Result, title: str, place: str) -> None:
    """Logarithmic axes with a tick at every S."""
    plotting.log_ticks(ax, result.num_samples)
    limits = (result.num_samples[0] / 1.3, result.num_samples[-1] * 1.3)
    labels = ("importance samples S", "signal / noise, |mean| / sd")
    plotting.finish(ax, title, labels, place, yscale="log", xlim=limits)


def slopes(result: Result) -> Any:
    """The fitted slopes, the asymptotic laws, and their differences."""
    figure, (left, right) = plotting.new_figure(2, width=5.4, height=4.8, sharey=True)
    names = list(ESTIMATORS)
    for index, (group, symbol) in enumerate(GROUPS.items()):
        curves = [result.curves[group][name] for name in names]
        law, found, error = (
            np.array([getattr(curve, field) for curve in curves], float)
            for field in ("expected", "slope", "slope_error")
        )
        at = np.arange(len(names)) + (-0.17, 0.17)[index]
        bar = {"color": plotting.colour(index), "marker": MARKERS[index], "markersize": 4.5}
        label = "law for S → ∞" if not index else None
        left.plot(law, at, "|", color=plotting.GREY, markersize=13, mew=2.5, label=label)
        for ax, value in ((left, found), (right, found - law)):
            ax.errorbar(value, at, xerr=2 * error, linestyle="", **bar, label=f"{symbol}, ± 2 s.e.")
    right.axvline(0, color=plotting.GREY, linewidth=1)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()  # shared
    slope = f"d log SNR / d log S, S ≥ {result.config.fit_from}"
    plotting.finish(left, "Slope, and its law", (slope, ""), "upper left")
    plotting.finish(right, "Measured slope less the law", ("difference of slopes", ""))
    return figure


def floor(result: Result) -> Any:
    """SNR with the estimator's own mean as signal, and with the mean of DReG as signal."""
    figure, axes = plotting.new_figure(2, width=5.4, height=4.2, sharey=True)
    bottom, first = 1 / np.sqrt(result.config.num_repeats), result.num_samples[0]
    titles = ("Signal: the estimator's own mean", "Signal: the mean of DReG")
    for own, ax, title in zip((True, False), axes, titles, strict=True):
        for place, name in enumerate(("reparameterised IWAE", "VIMCO", "DReG")):
            curve = result.curves["b"][name]
            values, slope = (curve.own, curve.own_slope) if own else (curve.snr, curve.slope)
            drawn = {"color": plotting.colour(place), "marker": MARKERS[place], "markersize": 5}
            ax.plot(result.num_samples, values, label=with_slope(name, slope), **drawn)
        ax.axhline(bottom, color=plotting.INK, linestyle="--", linewidth=1.2)
        text = f"1/√R, R = {result.config.num_repeats:,} repeats"
        where = {"textcoords": "offset points", "va": "top", "fontsize": 8.5}
        ax.annotate(text, (first / 1.2, bottom), (0, -4), bbox=plotting.LABEL_BOX, **where)
        log_axes(ax, result, title, "upper left")
    return figure
