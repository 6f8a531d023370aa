"""The figures of the bounds experiment."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.importance_bounds_exact import LogMean, iwae_coefficients, jackknife
from experiments.importance_bounds_measure import IWAE, JACKKNIFE, LAWS, SIGNIFICANT, UPPER
from lvm_jax import plotting

if TYPE_CHECKING:
    from experiments.importance_bounds import Found, Result

POWER = {1: "1/S", 2: "1/S²", 3: "1/S³", 4: "1/S⁴"}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {
        "weights": weights(result),
        "bounds": bounds(result),
        "laws": laws(result),
        "noise": noise(result),
    }
    return {name: plotting.png(figure) for name, figure in figures.items()}


def samples_axis(ax: Any) -> None:
    """S on a logarithmic axis to the base 2."""
    ax.set_xscale("log", base=2)
    ax.grid(alpha=0.25)


def weights(result: "Result") -> Any:
    """The distribution of log w - log p(x) under q and under the posterior."""
    figure, axes = plotting.new_figure(3, width=4.2, height=3.6)
    for ax, found in zip(axes, result.found, strict=True):
        both = (found.log_weights, found.posterior_log_weights)
        low = np.quantile(both[0], 0.002)
        high = max(part.max() for part in both)
        bins = np.linspace(low - 0.1, high + 0.1, 80)
        for part, name, shade in zip(both, ("q", "posterior"), plotting.PALETTE, strict=False):
            share = np.histogram(part, bins)[0] / len(part)
            ax.stairs(
                np.maximum(share, 1e-5),
                bins,
                baseline=1e-5,
                fill=True,
                color=shade,
                alpha=0.45,
                label=f"z from {'the ' * (name != 'q')}{name}",
            )
        ax.axvline(0, color=plotting.INK, linestyle="--", linewidth=1.2)
        ax.set(yscale="log", ylim=(1e-5, 2))
        labels = ("log w − log p(x) [nats]", "share of the draws, per bin")
        plotting.caption_axes(ax, found.bed.name, labels)
    plotting.legend(axes[0], loc="upper left")
    return figure


def bounds(result: "Result") -> Any:
    """Every bound less log p(x) against S: draws with error bars on exact curves."""
    figure, axes = plotting.new_figure(3, width=4.8, height=5.4)
    for ax, found in zip(axes, result.found, strict=True):
        names = [name for name in found.curves if not name.startswith("jackknife")]
        for index, name in enumerate([*names, "jackknife 1"]):
            curve, shade = found.curves[name], plotting.colour(index)
            ax.plot(curve.num_samples, curve.exact, color=shade, linewidth=1.3)
            if np.isnan(curve.exact).all():
                ax.plot(curve.num_samples, curve.gap, ":", color=shade, linewidth=1.2)
            ax.errorbar(
                curve.num_samples,
                curve.gap,
                2 * curve.standard_error,
                fmt=MARKS[index],
                markersize=4.5,
                color=shade,
                label=name,
            )
            if np.isfinite(curve.limit) and curve.limit != 0:
                ax.plot(curve.num_samples[-1] * 2.2, curve.limit, "_", color=shade, markersize=11)
        sumo = found.sumo
        style = {"fmt": "o", "color": plotting.INK, "fillstyle": "none", "capsize": 2.5}
        label = "SUMO, at its mean cost"
        ax.errorbar([sumo.mean_cost], [sumo.gap], [2 * sumo.standard_error], label=label, **style)
        ax.axhline(0, color=plotting.INK, linewidth=1.1)
        samples_axis(ax)
        ax.set_yscale("symlog", linthresh=0.1, linscale=1.0)
        ticks = [-3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3]
        ax.set_ylim(-3, 3)
        ax.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
        labels = ("number of weights in one draw, S", "E[bound] − log p(x) [nats]")
        plotting.caption_axes(ax, found.bed.name, labels)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    return figure


def laws(result: "Result") -> Any:
    """Above: |gap| against S with the fits. Below: the local slope of the exact gap."""
    figure, axes = plotting.new_figure(3, 2, width=4.8, height=4.3)
    for column, found in enumerate(result.found):
        above, below = axes[column], axes[3 + column]
        sizes = 2.0 ** np.arange(1, 15)
        log_mean = LogMean(found.bed.atoms)
        for index, (name, law) in enumerate(LAWS.items()):
            shade = plotting.colour(index)
            exact = exact_gaps(log_mean, name, sizes)
            above.plot(sizes, np.abs(exact), color=shade, linewidth=1.3)
            measured(above, found, name, shade)
            with np.errstate(divide="ignore", invalid="ignore"):
                local = np.diff(np.log(np.abs(exact))) / np.log(2)
            middle = np.sqrt(sizes[1:] * sizes[:-1])
            below.plot(middle, local, color=shade, marker=MARKS[index], markersize=3.5)
            below.axhline(law, color=shade, linestyle="--", linewidth=1)
        a, _ = iwae_coefficients(found.bed.atoms)
        label = "Var(w) / (2 S p²)"
        above.plot(sizes, a / sizes, ":", color=plotting.INK, linewidth=1.3, label=label)
        samples_axis(above)
        above.set_yscale("log")
        above.set_ylim(1e-7, 30)
        is_slow = exact_gaps(log_mean, IWAE, sizes[-1:])[0] < -1e-3  # then the corner is crossed
        corner = "lower left" if is_slow else "upper right"
        above.legend(fontsize=8, edgecolor="none", loc=corner, handlelength=1.2)
        labels = ("number of weights, S", "|E[bound] − log p(x)| [nats]")
        plotting.caption_axes(above, found.bed.name, labels)
        samples_axis(below)
        below.set_ylim(-5.5, 0.6)
        plotting.caption_axes(
            below,
            "Exact slope between neighbours; dashed: the law",
            ("number of weights, S", "d log |gap| / d log S"),
        )
    return figure


def exact_gaps(log_mean: LogMean, name: str, sizes: np.ndarray) -> np.ndarray:
    """Exact gaps of IWAE or a jackknife; NaN where the combination has lost its digits."""
    order = JACKKNIFE.get(name, 0)
    gaps = [jackknife(log_mean, order, int(s)) if s > order else np.nan for s in sizes]
    rounding = 1e-14 * sizes**order  # of an IWAE gap, times the coefficients
    return np.where(np.abs(gaps) > 30 * rounding, gaps, np.nan)


def measured(ax: Any, found: "Found", name: str, shade: str) -> None:
    """Gaps from draws: filled where they entered the slope, hollow where noise begins."""
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


def noise(result: "Result") -> Any:
    """The spread of ONE draw of a bound against S, beside its bias: what an unbiased bound costs."""
    figure, axes = plotting.new_figure(3, width=4.2, height=3.9)
    for ax, found in zip(axes, result.found, strict=True):
        for index, name in enumerate((IWAE, "jackknife 1", "jackknife 2", UPPER)):
            curve, shade = found.curves[name], plotting.colour(index)
            ax.plot(curve.num_samples, curve.sd, color=shade, marker="o", markersize=4, label=name)
            ax.plot(curve.num_samples, np.abs(curve.exact), "--", color=shade, linewidth=1.1)
        sumo = found.sumo
        ax.plot(sumo.mean_cost, sumo.sd, "*", color=plotting.INK, markersize=11, label="SUMO")
        samples_axis(ax)
        ax.set(yscale="log", ylim=(1e-4, 30))
        labels = ("weights spent on one draw", "sd (solid), |bias| (dashed) [nats]")
        plotting.caption_axes(ax, found.bed.name, labels)
    plotting.legend(axes[2], loc="lower left")
    return figure
