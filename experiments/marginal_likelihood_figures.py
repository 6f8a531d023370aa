"""The figures of the marginal-likelihood experiment."""

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.marginal_likelihood_beds import GOOD, MEAN_FIELD, PRIOR, UNIFORM, gaussian
from experiments.marginal_likelihood_measure import WITHIN
from lvm_jax import plotting, weights

if TYPE_CHECKING:
    from experiments.marginal_likelihood import Result
    from experiments.marginal_likelihood_measure import Cell

COLOUR = {
    PRIOR: plotting.PALETTE[4],
    UNIFORM: plotting.PALETTE[1],
    GOOD: plotting.PALETTE[0],
    MEAN_FIELD: plotting.PALETTE[3],
}
MARKER = {PRIOR: "s", UNIFORM: "^", GOOD: "o", MEAN_FIELD: "D"}
SIZE = {"gaussian": "dimensions of z, D", "discrete": "discrete variables, K"}
TITLE = {"gaussian": "Gaussian z in D dimensions", "discrete": "Discrete z in {1, ..., L}^K"}


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {
        "errors": errors(result),
        "concentration": concentration(result),
        "needed": needed(result),
        "honesty": honesty(result),
        "diagnostics": diagnostics(result),
        "samples": samples(result),
    }
    return {name: plotting.png(figure) for name, figure in figures.items()}


def sizes(result: "Result", kind: str) -> np.ndarray:
    """The sizes of the models of a kind."""
    return np.array([bed.size for bed in result.beds[kind]])


def last(result: "Result", kind: str, method: str, field: str) -> np.ndarray:
    """A number of every model, at the largest S."""
    return np.array([getattr(cells[method][-1], field) for cells in result.cells[kind]])


def is_exact(result: "Result", kind: str, method: str) -> np.ndarray:
    """Where q is the posterior, so that every error is of rounding alone."""
    moments = [bed.log_second_moment[method] for bed in result.beds[kind]]
    return np.array(moments) < 1e-9


def size_axis(ax: Any, result: "Result", kind: str) -> None:
    """Sizes on x: powers of two for dimensions, plain for variables."""
    shown = sizes(result, kind)
    if kind == "gaussian":
        ax.set_xscale("log", base=2)
    ax.set_xticks(shown, [f"{size}" for size in shown])
    ax.minorticks_off()
    ax.grid(alpha=0.25)


def lines(ax: Any, result: "Result", kind: str, field: str, **kwargs: Any) -> None:
    """A number of every method against the size."""
    for method in result.cells[kind][0]:
        style = {"color": COLOUR[method], "marker": MARKER[method], "markersize": 5, **kwargs}
        values = np.where(is_exact(result, kind, method), np.nan, last(result, kind, method, field))
        ax.plot(sizes(result, kind), values, label=method, **style)


def errors(result: "Result") -> Any:
    """Median error of the estimates and where 80% of them lie."""
    figure, axes = plotting.new_figure(2, width=5.6, height=4.4)
    for ax, kind in zip(axes, result.beds, strict=True):
        methods = list(result.cells[kind][0])
        for place, method in enumerate(methods):
            low, middle, high = last(result, kind, method, "quantiles").T
            x = sizes(result, kind).astype(float)
            nudge = (place - (len(methods) - 1) / 2) * 0.05
            x = x * 2**nudge if kind == "gaussian" else x + 2.2 * nudge
            reach = np.stack([middle - low, high - middle])
            style = {"color": COLOUR[method], "marker": MARKER[method], "markersize": 5}
            ax.errorbar(x, middle, reach, capsize=2.5, linewidth=1.3, label=method, **style)
        ax.axhspan(-WITHIN, WITHIN, color=plotting.GREY, alpha=0.25, linewidth=0)
        ax.axhline(0, color=plotting.INK, linewidth=1, linestyle="--")
        size_axis(ax, result, kind)
        signed_log(ax)
        plotting.caption_axes(ax, TITLE[kind], (SIZE[kind], "log p̂(x) − log p(x) [nats]"))
    plotting.legend(axes[0], loc="lower left")
    return figure


def signed_log(ax: Any) -> None:
    """Linear within WITHIN of zero and logarithmic beyond, where the errors differ that much."""
    low, high = ax.get_ylim()
    if max(-low, high) < 3:
        return
    ax.set_yscale("symlog", linthresh=WITHIN, linscale=0.6)
    ax.set_ylim(1.6 * low, 1.6 * high)
    low, high = ax.get_ylim()
    ticks = [-1000, -100, -10, -1, -0.1, 0, 0.1, 1, 10, 100]
    shown = [tick for tick in ticks if low <= tick <= high]
    ax.set_yticks(shown, [f"{tick:g}".replace("-", "−") for tick in shown])


def concentration(result: "Result") -> Any:
    """Above: draws in two dimensions, their area the weight. Below: how few hold the weight."""
    figure, axes = plotting.new_figure(3, 2, width=4.1, height=3.9)
    bed = gaussian(2, result.config)
    covariance = bed.posterior.cholesky @ bed.posterior.cholesky.T
    key = jax.random.key(result.config.seed)
    for ax, method in zip(axes[:3], (UNIFORM, PRIOR, GOOD), strict=True):
        q = bed.methods[method]
        drawn = jax.jit(lambda key, q=q: weights.weigh(key, bed.log_joint, q, 300))(key)
        z, log_w = np.asarray(drawn.z), np.asarray(drawn.log_weights)
        w = np.exp(log_w - log_w.max())
        ax.scatter(*z.T, s=4, color=plotting.GREY, linewidths=0)
        ax.scatter(*z.T, s=2500 * w / w.sum(), color=COLOUR[method], alpha=0.5, linewidths=0)
        curve = plotting.ellipse(bed.posterior.mean, covariance, 0.9)
        ax.plot(*curve.T, color=plotting.INK, linewidth=1.3)
        reach = result.config.box + 0.3
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ess = w.sum() ** 2 / (w**2).sum()
        title = f"{method}: ESS {ess:.0f} of 300 draws"
        plotting.caption_axes(ax, title, ("z1 [prior sd]", "z2 [prior sd]"))
    shades = dim_colours(result)
    for ax, method in zip(axes[3:], (UNIFORM, PRIOR, GOOD), strict=True):
        for bed, shares in zip(result.beds["gaussian"], result.shares["gaussian"], strict=True):
            n = np.arange(1, len(shares[method]) + 1)
            ax.semilogx(n, shares[method], color=shades[bed.size], label=f"D = {bed.size}")
        ax.semilogx(n, n / len(n), ":", color=plotting.INK, linewidth=1.2, label="equal weights")
        ax.set(ylim=(0, 1.03), xlim=(0.9, None))
        ax.grid(alpha=0.25)
        labels = ("the n largest weights", "their share of the total weight")
        plotting.caption_axes(ax, f"{method}: S = {len(n):,} draws", labels)
    plotting.legend(axes[5], loc="upper left")
    return figure


def dim_colours(result: "Result") -> dict[int, Any]:
    """From light to dark with the dimension."""
    from matplotlib import colormaps

    shown = sizes(result, "gaussian")
    map_ = colormaps["viridis_r"]
    return {int(d): map_(0.12 + 0.88 * i / max(len(shown) - 1, 1)) for i, d in enumerate(shown)}


def needed(result: "Result") -> Any:
    """Draws for a standard error of WITHIN, from the exact second moment of the weights."""
    figure, axes = plotting.new_figure(2, width=5.6, height=4.2)
    for ax, kind in zip(axes, result.beds, strict=True):
        x, beds = sizes(result, kind), result.beds[kind]
        for method in result.cells[kind][0]:
            y = [log10_needed(bed.log_second_moment[method]) for bed in beds]
            style = {"color": COLOUR[method], "marker": MARKER[method], "markersize": 5}
            ax.plot(x, np.where(np.isfinite(y), y, np.nan), label=method, **style)
        if kind == "discrete":
            terms = x * math.log10(result.config.num_values)
            ax.plot(x, terms, ":", color=plotting.INK, label="terms of the exact sum, L^K")
        most = math.log10(result.config.num_samples[-1])
        ax.axhline(most, color=plotting.INK, linewidth=1, linestyle="--")
        ax.annotate(
            f"S = {result.config.num_samples[-1]:,} of this experiment",
            (0.99 if kind == "gaussian" else 0.02, most),
            (0, 3),
            ha="right" if kind == "gaussian" else "left",
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=8.5,
        )
        ax.set_xticks([size for size in x if size >= x[-1] / 8])
        ax.grid(alpha=0.25)
        ax.set_ylim(0, None)
        ticks = [tick for tick in ax.get_yticks() if tick == int(tick)]
        ax.set_yticks(ticks, [f"$10^{{{int(tick)}}}$" for tick in ticks])
        labels = (SIZE[kind], f"draws for a standard error of {WITHIN:g} nat")
        plotting.caption_axes(ax, TITLE[kind], labels)
        plotting.legend(ax, loc="upper left")
    return figure


def log10_needed(log_second_moment: float) -> float:
    """log10 of S = (E_q[w^2] / p^2 - 1) / WITHIN^2, at least one draw; inf where it diverges."""
    if log_second_moment == math.inf:
        return math.inf
    log_excess = log_second_moment + math.log(max(-math.expm1(-log_second_moment), 1e-300))
    return max((log_excess - 2 * math.log(WITHIN)) / math.log(10), 0.0)


def honesty(result: "Result") -> Any:
    """Above: what the error is and what the estimate says it is. Below: does its interval hold?"""
    figure, axes = plotting.new_figure(2, 2, width=5.6, height=3.7)
    for column, kind in enumerate(result.beds):
        above, below = axes[column], axes[2 + column]
        lines(above, result, kind, "rmse")
        reported = {"linestyle": ":", "fillstyle": "none", "linewidth": 1.6}
        for line in lines_of(above, result, kind, "reported_error", reported):
            line.set_label("")
        above.set_yscale("log")
        above.axhline(1, color=plotting.INK, linewidth=0.9)
        size_axis(above, result, kind)
        plotting.caption_axes(above, TITLE[kind], (SIZE[kind], "error of log p̂(x) [nats]"))
        for method in result.cells[kind][0]:
            exact = is_exact(result, kind, method)
            share = np.where(exact, np.nan, last(result, kind, method, "coverage"))
            bar = np.sqrt(share * (1 - share) / result.config.num_repeats)
            style = {"color": COLOUR[method], "marker": MARKER[method], "markersize": 5}
            below.errorbar(sizes(result, kind), share, bar, capsize=2.5, label=method, **style)
        below.axhline(0.954, color=plotting.INK, linewidth=1, linestyle="--")
        below.set_ylim(-0.04, 1.04)
        size_axis(below, result, kind)
        title = "Does its own interval hold the truth?"
        plotting.caption_axes(below, title, (SIZE[kind], "share of ± 2 s.e. that hold log p(x)"))
    axes[1].plot([], [], "-", color=plotting.GREY, label="true RMS error")
    axes[1].plot([], [], ":", color=plotting.GREY, label="median standard error it reports")
    handles = axes[1].get_legend_handles_labels()
    axes[1].legend(
        handles[0][-2:], handles[1][-2:], fontsize=8.5, edgecolor="none", loc="lower right"
    )
    plotting.legend(axes[2], loc="center left")
    return figure


def lines_of(ax: Any, result: "Result", kind: str, field: str, style: dict[str, Any]) -> list[Any]:
    """`lines`, returning what was drawn."""
    before = len(ax.get_lines())
    lines(ax, result, kind, field, **style)
    return list(ax.get_lines())[before:]


def diagnostics(result: "Result") -> Any:
    """Share of good estimates on both models, and ESS and k-hat on the Gaussian one."""
    figure, axes = plotting.new_figure(2, 2, width=5.6, height=3.5)
    for ax, kind in zip(axes[:2], result.beds, strict=True):
        lines(ax, result, kind, "share_within")
        size_axis(ax, result, kind)
        title = f"{TITLE[kind]}: share of good estimates"
        plotting.caption_axes(ax, title, (SIZE[kind], f"share within {WITHIN:g} nat of log p(x)"))
    lines(axes[2], result, "gaussian", "ess")
    axes[2].set_yscale("log")
    labels = (SIZE["gaussian"], f"median ESS of S = {result.config.num_samples[-1]:,}")
    plotting.caption_axes(axes[2], "Effective sample size", labels)
    lines(axes[3], result, "gaussian", "k_hat")
    axes[3].axhline(0.7, color=plotting.INK, linewidth=1, linestyle="--")
    axes[3].annotate("0.7", (1.0, 0.7), (2, 2), textcoords="offset points", fontsize=8.5)
    plotting.caption_axes(axes[3], "Pareto k-hat", (SIZE["gaussian"], "median k-hat"))
    for ax in axes[2:]:
        size_axis(ax, result, "gaussian")
    plotting.legend(axes[0], loc="center left")
    return figure


def samples(result: "Result") -> Any:
    """RMS error against S for every dimension, beside 1/sqrt(S) with the exact constant."""
    methods = list(result.cells["gaussian"][0])
    figure, axes = plotting.new_figure(len(methods), width=3.6, height=3.9, sharey=True)
    shades = dim_colours(result)
    for ax, method in zip(axes, methods, strict=True):
        for bed, cells in zip(result.beds["gaussian"], result.cells["gaussian"], strict=True):
            column: list[Cell] = cells[method]
            size = np.array([cell.num_samples for cell in column])
            bar = np.array([error_bar(cell) for cell in column])
            rmse = np.array([cell.rmse for cell in column])
            if bed.log_second_moment[method] < 1e-9:
                continue
            style = {"color": shades[bed.size], "marker": "o", "markersize": 4, "linewidth": 1.4}
            ax.errorbar(size, rmse, bar, label=f"D = {bed.size}", **style)
            excess = math.expm1(min(bed.log_second_moment[method], 700.0))
            law = np.sqrt(excess / size)
            ax.plot(size, np.where(law < 3, law, np.nan), "--", color=shades[bed.size], linewidth=1)
        ax.set(xscale="log", yscale="log")
        ax.grid(alpha=0.25)
        plotting.caption_axes(ax, method, ("number of draws, S", ""))
    axes[0].set_ylabel("RMS error of log p̂(x) [nats]", fontsize=9.5)
    plotting.legend(axes[methods.index(GOOD)], loc="upper left", ncols=2)
    return figure


def error_bar(cell: "Cell") -> float:
    """Standard error of the RMS error over the repeats: sd(e^2) / (2 RMS sqrt(R))."""
    spread = float(np.std(cell.errors**2, ddof=1))
    return spread / (2 * max(cell.rmse, 1e-12) * len(cell.errors) ** 0.5)
