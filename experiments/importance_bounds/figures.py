"""The figures of the bounds experiment."""

from typing import Any

import numpy as np

from experiments.importance_bounds.measure import (
    IWAE,
    JACKKNIFE,
    RATES,
    SIGNIFICANT,
    UPPER,
    Found,
    Result,
)
from lvm_jax import plotting
from lvm_jax.problems.expected_bounds import LogMean, jackknife

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")
SLOPE = "d log |gap| / d log S"
WIDTH = 3.6  # of one of the three panels, in inches


def weights(result: Result) -> Any:
    """The distribution of log w - log p(x) under q and under the posterior."""
    figure, axes = plotting.new_figure(3, width=WIDTH, height=3.4, sharey=True)
    for ax, found in zip(axes, result.found, strict=True):
        drawn = {"z from q": found.log_weights, "z from the posterior": found.posterior_log_weights}
        low = np.quantile(found.log_weights, 0.002)
        bins = np.linspace(low - 0.1, max(part.max() for part in drawn.values()) + 0.1, 80)
        for index, (label, part) in enumerate(drawn.items()):
            share = np.maximum(np.histogram(part, bins)[0] / len(part), 1e-5)
            style = {"fill": True, "alpha": 0.45} if not index else {"linewidth": 1.8}
            shade = plotting.colour(index)
            ax.stairs(share, bins, baseline=1e-5, color=shade, label=label, **style)
        ax.axvline(0, color=plotting.INK, linestyle="--", linewidth=1.2)
        labels = ("log w − log p(x) [nats]", "share of the draws, per bin")
        plotting.finish(ax, found.name, labels, yscale="log", ylim=(1e-5, 2))
    plotting.legend(axes[0], loc="upper left")
    return figure


def bounds(result: Result) -> Any:
    """Every bound minus log p(x) against S: draws with error bars, and exact curves."""
    figure, axes = plotting.new_figure(3, width=WIDTH, height=5.2, sharey=True)
    for ax, found in zip(axes, result.found, strict=True):
        names = [name for name in found.curves if name not in JACKKNIFE]
        for index, name in enumerate([*names, "jackknife 1"]):
            curve, shade = found.curves[name], plotting.colour(index)
            size, error = curve.num_samples, 2 * curve.standard_error
            is_known = np.isfinite(curve.exact).any()
            line, style = (curve.exact, "-") if is_known else (curve.gap, ":")
            ax.plot(size, line, style, color=shade, linewidth=1.3)
            drawn = {"fmt": MARKS[index], "markersize": 4.5, "color": shade, "label": name}
            ax.errorbar(size, curve.gap, error, **drawn)
            if np.isfinite(curve.limit) and curve.limit != 0:
                ax.plot(size[-1] * 2.2, curve.limit, "_", color=shade, markersize=11)
        sumo = found.sumo
        style = {"fmt": "o", "color": plotting.INK, "fillstyle": "none", "capsize": 2.5}
        label = "SUMO, at its mean cost"
        ax.errorbar([sumo.mean_cost], [sumo.gap], [2 * sumo.standard_error], label=label, **style)
        ax.axhline(0, color=plotting.INK, linewidth=1.1)
        plotting.signed_log(ax, -3, 3, "y")
        labels = ("number of weights in one draw, S", "E[bound] − log p(x) [nats]")
        plotting.finish(ax, found.name, labels, xscale="log")
    plotting.legend_below(figure, axes[0], 6)
    return figure


def laws(result: Result) -> Any:
    """Above: |gap| against S with the fits. Below: the local slope of the exact gap."""
    figure, axes = plotting.new_figure(3, 2, width=WIDTH, height=3.9, sharey="row")
    sizes = 2.0 ** np.arange(1, 15)
    for found, above, below in zip(result.found, axes[:3], axes[3:], strict=True):
        log_mean = LogMean(found.law)
        for index, (name, rate) in enumerate(RATES.items()):
            shade, exact = plotting.colour(index), exact_gaps(log_mean, name, sizes)
            above.plot(sizes, np.abs(exact), color=shade, linewidth=1.3)
            measured(above, found, name, shade)
            local, middle = np.diff(np.log2(np.abs(exact))), np.sqrt(sizes[1:] * sizes[:-1])
            below.plot(middle, local, color=shade, marker=MARKS[index], markersize=3.5)
            below.axhline(rate, color=shade, linestyle="--", linewidth=1)
        first, label = found.law.iwae_coefficients()[0] / sizes, "Var(w) / (2 S p²)"
        above.plot(sizes, first, ":", color=plotting.INK, linewidth=1.3, label=label)
        is_slow = log_mean(int(sizes[-1])) < -1e-3  # the curves then reach the upper right corner
        corner = "lower left" if is_slow else "upper right"
        labels = ("number of weights, S", "|E[bound] − log p(x)| [nats]")
        limits = {"xscale": "log", "yscale": "log", "ylim": (1e-7, 30)}
        plotting.finish(above, found.name, labels, corner, **limits)
        title, labels = "Slope of the exact gap", (labels[0], SLOPE)
        plotting.finish(below, title, labels, xscale="log", ylim=(-5.5, 0.6))
    return figure


def exact_gaps(log_mean: LogMean, name: str, sizes: np.ndarray) -> np.ndarray:
    """Exact gaps of IWAE or a jackknife; NaN where they are below rounding."""
    order = JACKKNIFE.get(name, 0)
    gaps = [jackknife(log_mean, order, int(s)) if s > order else np.nan for s in sizes]
    rounding = 1e-14 * sizes**order  # that of an IWAE gap, times the coefficients
    return np.where(np.abs(gaps) > 30 * rounding, gaps, np.nan)


def measured(ax: Any, found: Found, name: str, shade: str) -> None:
    """Gaps from draws: filled if significant, hollow if not."""
    curve = found.curves[name]
    clear = np.abs(curve.gap) >= SIGNIFICANT * curve.standard_error
    bars = {"color": shade, "markersize": 5, "linestyle": "none", "capsize": 2}
    slope = found.slopes[name]
    label = name if slope is None else f"{name}: {with_error(slope.value, slope.standard_error)}"
    gap, error = np.abs(curve.gap), 2 * curve.standard_error
    low = np.minimum(error, 0.97 * gap)
    for rows, style, text in ((clear, "full", label), (~clear, "none", None)):
        if rows.any() or text:
            reach = np.stack([low[rows], error[rows]])
            x, y = curve.num_samples[rows], gap[rows]
            ax.errorbar(x, y, reach, marker="o", fillstyle=style, label=text, **bars)


def with_error(value: float, error: float) -> str:
    """A number with its standard error in units of its last digit, as −1.0019(3)."""
    digits = min(max(int(np.ceil(-np.log10(max(error, 1e-9)))), 2), 7)
    return f"{value:.{digits}f}({round(error * 10**digits)})".replace("-", "−")


def noise(result: Result) -> Any:
    """Standard deviation and bias of ONE draw of a bound against S."""
    figure, axes = plotting.new_figure(3, width=WIDTH, height=3.7, sharey=True)
    for ax, found in zip(axes, result.found, strict=True):
        for index, name in enumerate((IWAE, "jackknife 1", "jackknife 2", UPPER)):
            curve, shade = found.curves[name], plotting.colour(index)
            ax.plot(curve.num_samples, curve.sd, color=shade, marker="o", markersize=4, label=name)
            ax.plot(curve.num_samples, np.abs(curve.exact), "--", color=shade, linewidth=1.1)
        sumo = found.sumo
        ax.plot(sumo.mean_cost, sumo.sd, "*", color=plotting.INK, markersize=11, label="SUMO")
        labels = ("weights spent on one draw", "sd (solid), |bias| (dashed) [nats]")
        limits = {"xscale": "log", "yscale": "log", "ylim": (1e-4, 30)}
        plotting.finish(ax, found.name, labels, **limits)
    plotting.legend(axes[2], loc="lower left")
    return figure
