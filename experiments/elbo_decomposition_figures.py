"""The figures of the decomposition experiment, each as the bytes of a PNG file."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.elbo_decomposition_terms import Knobs, make_q
from lvm_jax import plotting

if TYPE_CHECKING:
    from experiments.elbo_decomposition import Result

ELBO, KL, ENERGY, ENTROPY, RECONSTRUCTION, KL_PRIOR = plotting.PALETTE[:6]
AXIS = {
    "shift": "mean of q, moved [posterior sd]",
    "scale": "sd of q / sd of the posterior",
    "correlation": "correlation of z1 and z2 under q",
}
TITLE = {"shift": "Location", "scale": "Scale", "correlation": "Correlation"}
Z_LABELS = ("z1 [prior sd]", "z2 [prior sd]")
SHOWN = {  # places of each path whose q is drawn, and how they are named
    "shift": ((-2.0, "−2 sd"), (-1.0, "−1 sd"), (1.0, "+1 sd"), (2.0, "+2 sd")),
    "scale": ((0.3, "× 0.3"), (0.6, "× 0.6"), (1.6, "× 1.6"), (2.3, "× 2.3")),
    "correlation": ((-0.95, "−0.95"), (-0.4, "−0.4"), (0.0, "0"), (0.6, "0.6")),
}
SHADES = ("#7F5A2F", "#E69F00", "#009E73", "#CC79A7")  # of those four


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {
        "decomposition": decomposition(result),
        "terms": terms(result),
        "identity": identity(result),
        "jensen": jensen(result),
        "energy_alone": energy_alone(result),
    }
    return {name: plotting.png(figure) for name, figure in figures.items()}


def decomposition(result: "Result") -> Any:
    """Above: the posterior and some q as ellipses. Below: ELBO and KL stacked up to log p."""
    figure, axes = plotting.new_figure(3, 2, width=4.1, height=4.1)
    for column, name in enumerate(result.paths):
        ellipses(axes[column], result, name)
        stacked(axes[3 + column], result, name)
    return figure


def shown_q(result: "Result", name: str) -> list[tuple[float, str, Any]]:
    """The four q of a path that are drawn: value of the knob, its name, and q."""
    others = Knobs(*(leaf[0] for leaf in result.paths[name]))
    return [
        (value, said, make_q(result.bed, others._replace(**{name: value})))
        for value, said in SHOWN[name]
    ]


def posterior_ellipses(ax: Any, result: "Result") -> None:
    """The ellipses that hold 50% and 90% of the posterior."""
    bed = result.bed
    for level, style in zip(plotting.LEVELS, plotting.STYLES, strict=False):
        curve = plotting.ellipse(bed.mean, bed.covariance, level)
        label = f"posterior, holds {level:.0%}"
        ax.plot(*curve.T, style, color=plotting.INK, linewidth=1.8, label=label, zorder=3)


def ellipses(ax: Any, result: "Result", name: str) -> None:
    """The posterior, and q at four places of one path, the ellipses that hold 50% of each."""
    bed = result.bed
    posterior_ellipses(ax, result)
    for (_, said, q), shade in zip(shown_q(result, name), SHADES, strict=True):
        curve = plotting.ellipse(q.mean, q.cholesky @ q.cholesky.T, 0.5)
        ax.plot(*curve.T, color=shade, linewidth=1.6, label=f"q, {said}, holds 50%")
    ax.plot(*bed.mean, "+", color=plotting.INK, markersize=9)
    reach = 3.4 * np.sqrt(np.diagonal(bed.covariance)).max()
    low, high = bed.mean - reach, bed.mean + reach
    ax.set(
        xlim=(low[0], high[0]), ylim=(low[1] - 0.45 * reach, high[1] - 0.3 * reach), aspect="equal"
    )
    ax.legend(fontsize=7.5, loc="lower left", ncols=2, framealpha=0.85, edgecolor="none")
    plotting.caption_axes(ax, TITLE[name], Z_LABELS)


def stacked(ax: Any, result: "Result", name: str) -> None:
    """The ELBO from below, KL(q || posterior) on top of it, and log p(x)."""
    x, parts = getattr(result.paths[name], name), result.parts[name]
    top = result.log_evidence
    foot = top - 5.0
    shown, upper = np.maximum(parts.elbo, foot), parts.elbo + parts.kl_posterior
    ax.fill_between(x, foot, shown, color=ELBO, alpha=0.25, linewidth=0)
    ax.fill_between(x, shown, upper, color=KL, alpha=0.3, linewidth=0)
    ax.plot(x, parts.elbo, color=ELBO, label="ELBO")
    ax.plot(x, upper, color=KL, linewidth=3.2, alpha=0.6, label="ELBO + KL(q || posterior)")
    ax.axhline(top, color=plotting.INK, linestyle="--", linewidth=1.2, label="log p(x)")
    for (value, _, _), shade in zip(shown_q(result, name), SHADES, strict=True):
        height = float(np.interp(value, x, parts.elbo))
        ax.plot(value, height, "o", color=shade, markersize=7, markeredgecolor="white")
    best = int(np.argmax(parts.elbo))
    ax.plot(
        x[best], parts.elbo[best], "o", color=plotting.INK, markersize=7, markeredgecolor="white"
    )
    knob_axis(ax, name, x)
    ax.set_ylim(foot, top + 0.7)
    corner = {"shift": (0.02, 0.81), "scale": (0.04, 0.82), "correlation": (0.6, 0.66)}[name]
    said = {"xycoords": "axes fraction", "fontsize": 10}
    ax.annotate("KL(q || posterior)", corner, color="#8c3c00", **said)
    ax.annotate("ELBO", (0.44, 0.3), color=ELBO, **said)
    if name == "shift":
        plotting.legend(ax, loc="lower center")
    plotting.caption_axes(ax, "What log p(x) is made of", (AXIS[name], "nats"))


def knob_axis(ax: Any, name: str, x: np.ndarray) -> None:
    """The axis of a knob: logarithmic for the scale."""
    if name == "scale":
        ax.set_xscale("log")
        ax.set_xticks([0.2, 0.5, 1.0, 2.0], ["0.2", "0.5", "1", "2"])
        ax.minorticks_off()
    if name == "correlation":
        ax.set_xticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    ax.set_xlim(x[0], x[-1])


def terms(result: "Result") -> Any:
    """The ELBO as energy + entropy (above) and as reconstruction - KL to the prior (below)."""
    figure, axes = plotting.new_figure(3, 2, width=4.1, height=3.3, sharey="row")
    for column, (name, path) in enumerate(result.paths.items()):
        x, parts = getattr(path, name), result.parts[name]
        halves = (
            (axes[column], "energy + entropy", "energy", parts.energy, "entropy", parts.entropy),
            (
                *(axes[3 + column], "reconstruction − KL(q || prior)", "reconstruction"),
                *(parts.reconstruction, "− KL(q || prior)", -parts.kl_prior),
            ),
        )
        for row, (ax, title, first, one, second, two) in enumerate(halves):
            colours = (ENERGY, ENTROPY) if row == 0 else (RECONSTRUCTION, KL_PRIOR)
            ax.plot(x, one, color=colours[0], label=first)
            ax.plot(x, two, color=colours[1], label=second)
            ax.plot(x, one + two, color=ELBO, linewidth=3.5, alpha=0.4, label="their sum")
            dots = slice(None, None, max(len(x) // 16, 1))
            label = "ELBO = E[log w]"
            ax.plot(x[dots], parts.elbo[dots], "o", color=ELBO, markersize=3.5, label=label)
            knob_axis(ax, name, x)
            ax.grid(alpha=0.25)
            plotting.caption_axes(ax, f"{TITLE[name]}: {title}", (AXIS[name], "nats"))
    for ax in (axes[0], axes[3]):
        plotting.legend(ax, loc="lower center")
    for row in (axes[:3], axes[3:]):
        reach = [line.get_ydata() for ax in row for line in ax.get_lines()]
        low, high = min(map(np.min, reach)), max(map(np.max, reach))
        row[0].set_ylim(low - 0.25 * (high - low), high + 0.1 * (high - low))
    return figure


def identity(result: "Result") -> Any:
    """How far ELBO + KL is from log p for every q, in both precisions."""
    figure, axes = plotting.new_figure(3, width=4.1, height=3.3, sharey=True)
    size = result.config.num_points
    for column, (ax, (name, path)) in enumerate(zip(axes, result.paths.items(), strict=True)):
        x, part = getattr(path, name), slice(column * size, (column + 1) * size)
        for index, (precision, found) in enumerate(result.deviations.items()):
            epsilon = np.finfo(precision).eps
            missed = np.maximum(np.abs(found.identity[part]), 0.1 * epsilon)
            label = f"{precision}, ε = {epsilon:.1e} dotted"
            ax.semilogy(x, missed, ".", color=plotting.colour(index), label=label)
            ax.axhline(epsilon, color=plotting.colour(index), linewidth=0.9, linestyle=":")
        knob_axis(ax, name, x)
        ax.set_ylim(1e-17, 1e-3)
        ax.grid(alpha=0.25)
        labels = (AXIS[name], "|ELBO + KL − log p(x)| [nats]")
        plotting.caption_axes(ax, TITLE[name], labels)
    plotting.legend(axes[0], loc="center left")
    return figure


def jensen(result: "Result") -> Any:
    """Histograms of the log of the average (left) and of the average of the logs (right)."""
    sizes, found, top = result.config.num_samples, result.jensen, result.log_evidence
    below = float(result.named["Jensen's q"][1].elbo)
    figure, axes = plotting.new_figure(2, len(sizes), width=6.1, height=1.25, sharex=True)
    every = np.concatenate([found.log_of_average.ravel(), found.average_of_logs.ravel()])
    low, high = np.quantile(every, 0.004), every.max() + 0.15
    low = min(low, below - 1.0)
    bins = np.linspace(low, max(high, top + 0.3), 121)
    columns = ((found.log_of_average, KL), (found.average_of_logs, ELBO))
    for row, size in enumerate(sizes):
        for column, (values, colour) in enumerate(columns):
            ax = axes[2 * row + column]
            heights = np.histogram(values[row], bins)[0]
            ax.stairs(heights / heights.max(), bins, fill=True, color=colour, alpha=0.45)
            ax.axvline(top, color=plotting.INK, linestyle="--", linewidth=1.2)
            ax.axvline(below, color=plotting.INK, linestyle=":", linewidth=1.4)
            mean = values[row].mean()
            ax.plot(mean, 0.06, "^", color=plotting.INK, markersize=7)
            said = f"S = {size:,}\nmean {mean:.3f}\nsd {values[row].std(ddof=1):.3f}"
            ax.annotate(said, (0.015, 0.92), xycoords="axes fraction", va="top", fontsize=8.5)
            ax.set(yticks=[], ylim=(0, 1.08), xlim=(bins[0], bins[-1]))
            ax.spines["left"].set_visible(False)
    heads = ("log of the average, log (1/S) Σ w", "average of the logs, (1/S) Σ log w")
    for ax, title in zip(axes[:2], heads, strict=True):
        ax.set_title(title, loc="left", fontsize=10.5, color=plotting.INK)
        ends = {"xycoords": ("data", "axes fraction"), "fontsize": 8.5, "va": "bottom"}
        ax.annotate("log p(x) ", (top, 0.98), ha="right", bbox=plotting.LABEL_BOX, **ends)
        ax.annotate("ELBO ", (below, 0.98), ha="right", bbox=plotting.LABEL_BOX, **ends)
    for ax in axes[-2:]:
        ax.set_xlabel("nats (each histogram scaled to height 1)", fontsize=9.5)
    return figure


def energy_alone(result: "Result") -> Any:
    """q on its way up the energy alone and up the ELBO, and the terms on the way."""
    figure, axes = plotting.new_figure(2, 2, width=5.6, height=4.0)
    colours = {"energy alone": ENERGY, "energy + entropy": ELBO}
    for ax, (name, ascent) in zip(axes[:2], result.ascents.items(), strict=True):
        posterior_ellipses(ax, result)
        last = len(ascent.energy) - 1
        steps = sorted({min(step, last) for step in (0, 15, 30, 60, last)})
        for place, step in enumerate(steps):
            curve = plotting.ellipse(ascent.mean[step], ascent.covariance[step], 0.5)
            shade = 0.3 + 0.7 * place / max(len(steps) - 1, 1)
            label = f"q, holds 50%, at steps {', '.join(map(str, steps))}" if step == last else None
            ax.plot(*curve.T, color=colours[name], alpha=shade, linewidth=1.8, label=label)
        ax.plot(*ascent.mean[last], "x", color=KL, markersize=7, markeredgewidth=1.8)
        ax.set_aspect("equal", adjustable="datalim")
        ax.margins(0.05, 0.16)
        plotting.legend(ax, loc="lower right")
        plotting.caption_axes(ax, f"Climbing {name}", Z_LABELS)
    for name, ascent in result.ascents.items():
        drawn, said = {"color": colours[name], "linewidth": 1.8}, f"climbing {name}"
        axes[2].plot(ascent.elbo, label=f"ELBO, {said}", **drawn)
        axes[2].plot(ascent.energy, ":", label=f"energy, {said}", **drawn)
        axes[3].plot(ascent.entropy, label=said, **drawn)
    top = result.log_evidence
    axes[2].axhline(top, color=plotting.INK, linestyle="--", linewidth=1.2, label="log p(x)")
    axes[2].set_ylim(top - 6.0, top + 0.8)
    plotting.caption_axes(axes[2], "ELBO (and energy, dotted)", ("step of Adam", "nats"))
    plotting.caption_axes(axes[3], "Entropy of q", ("step of Adam", "entropy [nats]"))
    for ax in axes[2:]:
        ax.grid(alpha=0.25)
        plotting.legend(ax)
    return figure
