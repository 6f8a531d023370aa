"""The figures of the decomposition experiment."""

from typing import Any

import numpy as np

from experiments.elbo_decomposition.measure import Knobs, Result, make_q
from lvm_jax import plotting

ELBO, KL, ENERGY, ENTROPY, RECONSTRUCTION, KL_PRIOR = plotting.PALETTE[:6]
INK, TRUTH_LINE = plotting.INK, {"color": plotting.INK, "linestyle": "--", "linewidth": 1.2}
AXIS = {  # of each path: its title and its unit
    "shift": ("Location", "mean of q, moved [posterior sd]"),
    "scale": ("Scale", "sd of q / sd of the posterior"),
    "correlation": ("Correlation", "correlation of z1 and z2 under q"),
}
Z_LABELS = ("z1 [prior sd]", "z2 [prior sd]")
SHOWN = {  # values of each parameter whose q is drawn
    "shift": (-2.0, -1.0, 1.0, 2.0),
    "scale": (0.3, 0.6, 1.6, 2.3),
    "correlation": (-0.95, -0.4, 0.0, 0.6),
}
SHADES = ("#7F5A2F", "#E69F00", "#009E73", "#CC79A7")  # of those four


def decomposition(result: Result) -> Any:
    """Above: the posterior and some q as ellipses. Below: ELBO + KL stacked up to log p."""
    figure, axes = plotting.new_figure(3, 2, width=4.1, height=4.1)
    for column, name in enumerate(result.paths):
        ellipses(axes[column], result, name)
        stacked(axes[3 + column], result, name)
    plotting.legend(axes[3], loc="lower center")
    return figure


def ellipses(ax: Any, result: Result, name: str) -> None:
    """The posterior, and q at four values of one parameter, as ellipses of 50% probability."""
    truth, (knobs, _) = result.truth, result.paths[name]
    plotting.gaussian(ax, truth.mean, truth.covariance, "posterior")
    plotting.caption_axes(ax, AXIS[name][0], Z_LABELS)
    for value, shade in zip(SHOWN[name], SHADES, strict=True):
        q = make_q(truth, Knobs(*(leaf[0] for leaf in knobs))._replace(**{name: value}))
        curve = plotting.ellipse(q.mean, q.cholesky @ q.cholesky.T, 0.5)
        label = f"q, {name} {value:g}".replace("-", "−")
        ax.plot(*curve.T, color=shade, linewidth=1.6, label=label)
    ax.plot(*truth.mean, "+", color=INK, markersize=9)
    reach = 3.4 * truth.sd.max()
    (left, low), (right, high) = truth.mean - reach, truth.mean + reach
    limits = {"xlim": (left, right), "ylim": (low - 0.45 * reach, high - 0.3 * reach)}
    ax.set(aspect="equal", **limits)
    plotting.legend(ax, loc="lower left", ncols=2)


def stacked(ax: Any, result: Result, name: str) -> None:
    """The ELBO from below, KL(q || posterior) on top of it, and log p(x)."""
    (knobs, parts), top = result.paths[name], result.truth.log_evidence
    x, elbo, foot = getattr(knobs, name), parts.elbo, top - 5.0
    shown, upper = np.maximum(elbo, foot), elbo + parts.kl_posterior
    ax.fill_between(x, foot, shown, color=ELBO, alpha=0.25, linewidth=0)
    label = "KL(q || posterior)"
    ax.fill_between(x, shown, upper, color=KL, alpha=0.3, linewidth=0, label=label)
    ax.plot(x, elbo, color=ELBO, label="ELBO")
    ax.plot(x, upper, color=KL, linewidth=3.2, alpha=0.6, label="ELBO + KL(q || posterior)")
    ax.axhline(top, label="log p(x)", **TRUTH_LINE)
    places, shades = (*SHOWN[name], x[np.argmax(elbo)]), (*SHADES, INK)
    dots = {"color": shades, "s": 49, "edgecolors": "white", "zorder": 3}
    ax.scatter(places, np.interp(places, x, elbo), **dots)
    path_axis(ax, name, x, "Parts of log p(x)", "nats")
    ax.set_ylim(foot, top + 0.7)


def path_axis(ax: Any, name: str, x: np.ndarray, title: str, unit: str) -> None:
    """Captions, and the axis of a path: logarithmic for the scale."""
    if name == "scale":
        plotting.log_ticks(ax, [0.2, 0.5, 1, 2])
    plotting.finish(ax, title, (AXIS[name][1], unit), xlim=(x[0], x[-1]))


def terms(result: Result) -> Any:
    """The ELBO as energy + entropy (above) and as reconstruction - KL to the prior (below)."""
    figure, axes = plotting.new_figure(3, 2, width=4.1, height=3.3, sharey="row")
    for column, (name, (knobs, p)) in enumerate(result.paths.items()):
        x, dots = getattr(knobs, name), slice(None, None, max(len(knobs.shift) // 16, 1))
        above = (("energy", p.energy, ENERGY), ("entropy", p.entropy, ENTROPY))
        below = (
            ("reconstruction", p.reconstruction, RECONSTRUCTION),
            ("− KL(q || prior)", -p.kl_prior, KL_PRIOR),
        )
        titles = ("energy + entropy", "reconstruction − KL(q || prior)")
        for ax, pair, title in zip(axes[column::3], (above, below), titles, strict=True):
            for label, values, shade in pair:
                ax.plot(x, values, color=shade, label=label)
            total = pair[0][1] + pair[1][1]
            ax.plot(x, total, color=ELBO, linewidth=3.5, alpha=0.4, label="their sum")
            label = "ELBO = E[log w]"
            ax.plot(x[dots], p.elbo[dots], "o", color=ELBO, markersize=3.5, label=label)
            path_axis(ax, name, x, f"{AXIS[name][0]}: {title}", "nats")
    for ax in axes[::3]:
        ax.margins(y=0.25)
        plotting.legend(ax, loc="lower center")
    return figure


def identity(result: Result) -> Any:
    """|ELBO + KL - log p| for every q, in both precisions."""
    figure, axes = plotting.new_figure(3, width=4.1, height=3.3, sharey=True)
    for column, (ax, (name, (knobs, _))) in enumerate(zip(axes, result.paths.items(), strict=True)):
        x, size = getattr(knobs, name), result.config.num_points
        for index, (precision, found) in enumerate(result.deviations.items()):
            epsilon, own = np.finfo(precision).eps, found.identity[column * size :][:size]
            label = f"{precision}, ε = {epsilon:.1e} dotted"
            drawn = {"color": plotting.colour(index)}
            ax.semilogy(x, np.maximum(np.abs(own), 0.1 * epsilon), ".", label=label, **drawn)
            ax.axhline(epsilon, linewidth=0.9, linestyle=":", **drawn)
        path_axis(ax, name, x, AXIS[name][0], "|ELBO + KL − log p(x)| [nats]")
        ax.set_ylim(1e-17, 1e-3)
    plotting.legend(axes[0], loc="center left")
    return figure


def jensen(result: Result) -> Any:
    """Histograms of the log of the average (left) and of the average of the logs (right)."""
    sizes, top, every = result.config.num_samples, result.truth.log_evidence, result.jensen[:2]
    below = float(result.named["Jensen's q"][1].elbo)
    figure, axes = plotting.new_figure(2, len(sizes), width=6.1, height=1.25, sharex=True)
    low = min(np.quantile(every, 0.004), below - 1.0)
    bins = np.linspace(low, max(np.max(every) + 0.15, top + 0.3), 121)
    for index, ax in enumerate(axes):
        row, column = divmod(index, 2)
        drawn, colour = every[column][row], (KL, ELBO)[column]
        heights = np.histogram(drawn, bins)[0]
        ax.stairs(heights / max(heights.max(), 1), bins, fill=True, color=colour, alpha=0.45)
        ax.axvline(top, **TRUTH_LINE)
        ax.axvline(below, color=INK, linestyle=":", linewidth=1.4)
        ax.plot(drawn.mean(), 0.06, "^", color=INK, markersize=7)
        text = f"S = {sizes[row]:,}\nmean {drawn.mean():.3f}\nsd {drawn.std(ddof=1):.3f}"
        place = {"xycoords": "axes fraction", "va": "top", "fontsize": 8.5}
        ax.annotate(text.replace("-", "−"), (0.015, 0.92), **place)
        ax.set(yticks=[], ylim=(0, 1.08), xlim=(bins[0], bins[-1]))
        ax.spines["left"].set_visible(False)
    heads = ("log of the average, log (1/S) Σ w", "average of the logs, (1/S) Σ log w")
    ends = {"xycoords": ("data", "axes fraction"), "fontsize": 8.5, "va": "bottom", "ha": "right"}
    for ax, last, title in zip(axes[:2], axes[-2:], heads, strict=True):
        ax.set_title(title, loc="left", fontsize=10.5, color=INK)
        ax.annotate("log p(x) ", (top, 0.98), bbox=plotting.LABEL_BOX, **ends)
        ax.annotate("ELBO ", (below, 0.98), bbox=plotting.LABEL_BOX, **ends)
        last.set_xlabel("nats (each histogram scaled to height 1)", fontsize=9.5)
    return figure


def energy_alone(result: Result) -> Any:
    """q and the terms during gradient ascent on the energy alone and on the ELBO."""
    figure, axes = plotting.new_figure(2, 2, width=5.6, height=4.0)
    for ax, (name, ascent), shade in zip(
        axes[:2], result.ascents.items(), (ENERGY, ELBO), strict=True
    ):
        plotting.gaussian(ax, result.truth.mean, result.truth.covariance, "posterior")
        last = len(ascent.energy) - 1
        steps, drawn = sorted({min(step, last) for step in (0, 15, 30, 60, last)}), {"color": shade}
        for step, alpha in zip(steps, np.linspace(0.3, 1, len(steps)), strict=True):
            curve = plotting.ellipse(ascent.mean[step], ascent.covariance[step], 0.5)
            label = f"q, holds 50%, at steps {', '.join(map(str, steps))}" if step == last else None
            ax.plot(*curve.T, alpha=alpha, linewidth=1.8, label=label, **drawn)
        ax.plot(*ascent.mean[last], "x", color=KL, markersize=7, markeredgewidth=1.8)
        ax.set_aspect("equal", adjustable="datalim")
        ax.margins(0.05, 0.22)
        plotting.finish(ax, f"Maximising {name}", Z_LABELS, "lower right")
        axes[2].plot(ascent.elbo, label=f"ELBO, maximising {name}", **drawn)
        axes[2].plot(ascent.energy, ":", label=f"energy, maximising {name}", **drawn)
        axes[3].plot(ascent.entropy, label=f"maximising {name}", **drawn)
    top = result.truth.log_evidence
    axes[2].axhline(top, label="log p(x)", **TRUTH_LINE)
    axes[2].set_ylim(top - 6.0, top + 0.8)
    plotting.finish(axes[2], "ELBO (and energy, dotted)", ("step of Adam", "nats"), "best")
    plotting.finish(axes[3], "Entropy of q", ("step of Adam", "entropy [nats]"), "best")
    return figure
