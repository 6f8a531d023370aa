"""The figures of the marginal-likelihood experiment."""

import math
from typing import Any

import numpy as np
from matplotlib import colormaps

from experiments.marginal_likelihood.measure import (
    EXACT,
    GOOD,
    MEAN_FIELD,
    METHODS,
    PRIOR,
    UNIFORM,
    WITHIN,
    Result,
    log10_needed,
)
from lvm_jax import plotting
from lvm_jax.evidence import scoring

COLOUR = {PRIOR: 4, UNIFORM: 1, GOOD: 0, MEAN_FIELD: 3}
MARKER = {PRIOR: "s", UNIFORM: "^", GOOD: "o", MEAN_FIELD: "D"}
SIZE = {"gaussian": "dimensions of z, D", "discrete": "discrete variables, K"}
TITLE = {"gaussian": "Gaussian z in D dimensions", "discrete": "Discrete z in {1, ..., L}^K"}


def style(method: str) -> dict[str, Any]:
    """Colour, marker and label of a method."""
    colour = plotting.PALETTE[COLOUR[method]]
    return {"color": colour, "marker": MARKER[method], "markersize": 5, "label": method}


def sizes(result: Result, kind: str) -> np.ndarray:
    """The sizes of the models of a kind."""
    return np.array([one.size for one in result.found[kind]])


def inexact(result: Result, kind: str, method: str, field: str) -> np.ndarray:
    """A field at the largest S; NaN if q is the posterior, where errors are rounding."""
    moments = np.array([one.log_second_moment[method] for one in result.found[kind]])
    return np.where(moments < EXACT, np.nan, result.last(kind, method, field))


def size_axis(ax: Any, result: Result, kind: str, title: str, label: str) -> None:
    """Captions, and the x axis of sizes: logarithmic for dimensions, linear for variables."""
    shown = sizes(result, kind)
    if kind == "gaussian":
        plotting.log_ticks(ax, shown)
    else:
        ax.set_xticks(shown)
    plotting.finish(ax, title, (SIZE[kind], label))


def panel(ax: Any, result: Result, kind: str, field: str, text: tuple[str, str]) -> None:
    """A field of every method against the size; `text` is the title and the label of y."""
    for method in METHODS[kind]:
        ax.plot(sizes(result, kind), inexact(result, kind, method, field), **style(method))
    size_axis(ax, result, kind, *text)


def errors(result: Result) -> Any:
    """Median error of the estimates, and their central 80%."""
    figure, axes = plotting.new_figure(2, width=5.6, height=4.4)
    for ax, kind in zip(axes, result.found, strict=True):
        for place, method in enumerate(METHODS[kind]):
            low, middle, high = result.last(kind, method, "quantiles").T
            nudge = (place - (len(METHODS[kind]) - 1) / 2) * 0.05
            x = sizes(result, kind).astype(float)
            x = x * 2**nudge if kind == "gaussian" else x + 2.2 * nudge
            reach = np.stack([middle - low, high - middle])
            ax.errorbar(x, middle, reach, capsize=2.5, linewidth=1.3, **style(method))
        ax.axhspan(-WITHIN, WITHIN, color=plotting.GREY, alpha=0.25, linewidth=0)
        ax.axhline(0, color=plotting.INK, linewidth=1, linestyle="--")
        size_axis(ax, result, kind, TITLE[kind], "log p̂(x) − log p(x) [nats]")
        low, high = ax.get_ylim()
        if max(-low, high) > 3:
            plotting.signed_log(ax, 1.6 * low, 1.6 * high, "y", WITHIN)
    plotting.legend(axes[0], loc="lower left")
    return figure


def concentration(result: Result) -> Any:
    """Above: draws in two dimensions with weights as areas. Below: shares of the largest weights."""
    figure, axes = plotting.new_figure(3, 2, width=4.1, height=3.9)
    plane, reach = result.plane, result.config.box + 0.3
    for above, below, method in zip(axes[:3], axes[3:], (UNIFORM, PRIOR, GOOD), strict=True):
        z, log_w = plane.z[method], plane.log_weights[method]
        w = np.exp(log_w - log_w.max())
        colour = style(method)["color"]
        above.scatter(*z.T, s=4, color=plotting.GREY, linewidths=0)
        above.scatter(*z.T, s=2500 * w / w.sum(), color=colour, alpha=0.5, linewidths=0)
        curve = plotting.ellipse(plane.mean, plane.covariance, 0.9)
        above.plot(*curve.T, color=plotting.INK, linewidth=1.3)
        above.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        title = f"{method}: ESS {w.sum() ** 2 / (w**2).sum():.0f} of {len(z)} draws"
        plotting.caption_axes(above, title, ("z1 [prior sd]", "z2 [prior sd]"))
        n = np.arange(1, result.config.num_samples[-1] + 1)
        for one, shade in zip(result.found["gaussian"], shades(result), strict=True):
            below.semilogx(n, one.shares[method], color=shade, label=f"D = {one.size}")
        below.semilogx(n, n / len(n), ":", color=plotting.INK, linewidth=1.2, label="equal weights")
        labels = ("the n largest weights", "their share of the total weight")
        limits, title = {"ylim": (0, 1.03), "xlim": (0.9, None)}, f"{method}: S = {len(n):,} draws"
        plotting.finish(below, title, labels, **limits)
    plotting.legend(axes[5], loc="upper left")
    return figure


def shades(result: Result) -> list[Any]:
    """A colour for each dimension, from light to dark."""
    count = len(result.found["gaussian"])
    return [colormaps["viridis_r"](0.12 + 0.88 * i / max(count - 1, 1)) for i in range(count)]


def needed(result: Result) -> Any:
    """Draws for a standard error of WITHIN, from the exact second moment of the weights."""
    figure, axes = plotting.new_figure(2, width=5.6, height=4.2)
    spent, label = result.config.num_samples[-1], f"draws for a standard error of {WITHIN:g} nat"
    for ax, kind in zip(axes, result.found, strict=True):
        x = sizes(result, kind)
        for method in METHODS[kind]:
            y = [log10_needed(one.log_second_moment[method]) for one in result.found[kind]]
            ax.plot(x, np.where(np.isfinite(y), y, np.nan), **style(method))
        if kind == "discrete":
            terms = x * math.log10(result.config.num_values)
            ax.plot(x, terms, ":", color=plotting.INK, label="terms of the exact sum, L^K")
        ax.axhline(math.log10(spent), color=plotting.INK, linewidth=1, linestyle="--")
        place, align = (0.99, "right") if kind == "gaussian" else (0.02, "left")
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        text = f"S = {spent:,} of this experiment"
        ax.annotate(text, (place, math.log10(spent)), (0, 3), ha=align, fontsize=8.5, **where)
        ax.set_xticks([size for size in x if size >= x[-1] / 8])
        ax.set_ylim(0, None)
        ticks = [tick for tick in ax.get_yticks() if tick == int(tick)]
        ax.set_yticks(ticks, [f"$10^{{{int(tick)}}}$" for tick in ticks])
        plotting.finish(ax, TITLE[kind], (SIZE[kind], label), "upper left")
    return figure


def honesty(result: Result) -> Any:
    """Above: the true and the reported error. Below: the coverage of intervals."""
    figure, axes = plotting.new_figure(2, 2, width=5.6, height=3.7)
    for above, below, kind in zip(axes[:2], axes[2:], result.found, strict=True):
        panel(above, result, kind, "rmse", (TITLE[kind], "error of log p̂(x) [nats]"))
        for method in METHODS[kind]:
            dotted = style(method) | {"linestyle": ":", "fillstyle": "none", "label": ""}
            reported = inexact(result, kind, method, "reported_error")
            above.plot(sizes(result, kind), reported, linewidth=1.6, **dotted)
            share = inexact(result, kind, method, "coverage")
            bar = np.sqrt(share * (1 - share) / result.config.num_repeats)
            below.errorbar(sizes(result, kind), share, bar, capsize=2.5, **style(method))
        above.set_yscale("log")
        above.axhline(1, color=plotting.INK, linewidth=0.9)
        below.axhline(0.954, color=plotting.INK, linewidth=1, linestyle="--")
        below.set_ylim(-0.04, 1.04)
        label = "share of ± 2 s.e. that hold log p(x)"
        size_axis(below, result, kind, "Coverage of the reported interval", label)
    lines = [axes[1].plot([], [], line, color=plotting.GREY)[0] for line in "-:"]
    names = ["true RMS error", "median standard error it reports"]
    axes[1].legend(lines, names, fontsize=8.5, edgecolor="none", loc="lower right")
    plotting.legend(axes[2], loc="center left")
    return figure


def diagnostics(result: Result) -> Any:
    """Share of good estimates on both models; ESS and k-hat on the Gaussian one."""
    figure, axes = plotting.new_figure(2, 2, width=5.6, height=3.5)
    for ax, kind in zip(axes[:2], result.found, strict=True):
        label = f"share within {WITHIN:g} nat of log p(x)"
        panel(ax, result, kind, "share_within", (f"{TITLE[kind]}: good estimates", label))
    label = f"median ESS of S = {result.config.num_samples[-1]:,}"
    panel(axes[2], result, "gaussian", "ess", ("Effective sample size", label))
    axes[2].set_yscale("log")
    panel(axes[3], result, "gaussian", "k_hat", ("Pareto k-hat", "median k-hat"))
    plotting.signed_log(axes[3], *axes[3].get_ylim(), "y", linear=1.0)
    axes[3].axhline(0.7, color=plotting.INK, linewidth=1, linestyle="--")
    axes[3].annotate("0.7", (1.0, 0.7), (2, 2), textcoords="offset points", fontsize=8.5)
    plotting.legend(axes[0], loc="center left")
    return figure


def samples(result: Result) -> Any:
    """RMS error against S for every dimension, and 1/sqrt(S) with the exact constant."""
    methods = METHODS["gaussian"]
    figure, axes = plotting.new_figure(len(methods), width=2.8, height=3.9, sharey=True)
    for ax, method in zip(axes, methods, strict=True):
        for one, shade in zip(result.found["gaussian"], shades(result), strict=True):
            moment, cells = one.log_second_moment[method], one.methods[method]
            if moment < EXACT:
                continue
            size = np.array([cell.num_samples for cell in cells])
            drawn = {"color": shade, "marker": "o", "markersize": 4, "linewidth": 1.4}
            rmse, bar = np.array([scoring.rmse(cell.errors) for cell in cells]).T
            ax.errorbar(size, rmse, bar, label=f"D = {one.size}", **drawn)
            law = np.sqrt(math.expm1(min(moment, 700.0)) / size)
            ax.plot(size, np.where(law < 3, law, np.nan), "--", color=shade, linewidth=1)
        labels = ("number of draws, S", "RMS error of log p̂(x) [nats]")
        plotting.finish(ax, method, labels, xscale="log", yscale="log")
    plotting.legend(axes[methods.index(GOOD)], loc="upper left", ncols=2)
    return figure
