"""How well inference works: the tail of the weights, log p(x) by method, and the gap's parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Average, Estimate
from lvm_jax.plotting.figures import (
    GREY,
    INK,
    LABEL_BOX,
    PALETTE,
    STYLES,
    axis_or_new,
    colour,
    finish,
)
from lvm_jax.plotting.learning import two_errors
from lvm_jax.typing import Array, ArrayLike, Float, Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lvm_jax.decomposition import Gaps
    from lvm_jax.evidence import Annealed, Certificate, Evidence, Sandwich, Sequential, Summary

    Found = Evidence | Annealed | Sequential | Sandwich | Certificate | Summary | Estimate

LIMITS = (0.5, 0.7)  # of k-hat, as `evidence` has them: of the interval, and of the estimate


class Tail(NamedTuple):
    """The largest weights, relative to their mean, and the generalised Pareto law of the tail."""

    log_ratio: Float[np.ndarray, " n"]  # log w - log mean w, descending
    share: Float[np.ndarray, " n"]  # of the S weights that are at least as large
    k_hat: float
    threshold: float  # log-ratio beyond which the law is fitted
    scale: float  # of w - threshold, over the mean weight: the law has the tail's median
    mass: float  # share of the weights beyond the threshold

    def survival(self, log_ratio: np.ndarray, k: float) -> np.ndarray:
        """The share of weights above these log-ratios by a law of shape k and the tail's median."""
        median = self.scale * _median(self.k_hat)
        excess = np.exp(log_ratio) - np.exp(self.threshold)
        y = np.maximum(excess, 0.0) * _median(k) / median
        return self.mass * (np.exp(-y) if abs(k) < 1e-6 else np.maximum(1 + k * y, 0) ** (-1 / k))


def weight_tail(log_weights: ArrayLike | Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Any:
    """The largest importance weights and the Pareto law whose shape is k-hat; returns the figure.

    Points: the share of the weights at least as large as each, for the largest fifth. Lines: the
    generalised Pareto law of shape k-hat from the threshold of the tail on, through the tail's
    median. A line that falls slowly is a heavy tail: above k-hat = 0.5 the weights have no variance
    and intervals are too short, above 0.7 the mean of the weights is not reliable. Of one set of
    weights the law of k = 0.7 is drawn too: points above it are a tail that is too heavy.

        plotting.weight_tail({"wide q": log_w, "narrow q": other})

    log_weights: [S] of one data point, in nats, or several by name; S >= 25.

    Raises ValueError for another shape, S < 25, NaN or +inf, or weights that are all zero.
    """
    several = isinstance(log_weights, Mapping)
    every = dict(log_weights) if several else {"weights": log_weights}
    figure, ax = axis_or_new(ax, width=6.6, height=4.4)
    lowest = 1.0
    for place, (name, values) in enumerate(every.items()):
        tail = tail_of(values, f"log_weights[{name!r}]" if several else "log_weights")
        shade = colour(place)
        k_hat = f"{tail.k_hat:.2f}".replace("-", "−")
        label = f"{name}: k-hat {k_hat}, {k_hat_in_words(tail.k_hat)}"
        ax.plot(tail.log_ratio, tail.share, "os^Dv"[place % 5], color=shade, ms=3.5, label=label)
        lowest = min(lowest, 0.3 * tail.share[0])
        if not np.isfinite([tail.k_hat, tail.threshold]).all():
            continue
        far = tail.log_ratio[0] + 0.5
        x = np.linspace(tail.threshold, far, 200)
        ax.plot(x, tail.survival(x, tail.k_hat), STYLES[place % 4], color=shade, linewidth=1.6)
        if not several:
            limit: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.6}
            label = f"law of k = {LIMITS[1]}, the limit"
            ax.plot(x, tail.survival(x, LIMITS[1]), label=label, **limit)
    labels = ("log w − log of the mean weight [nats]", "share of weights at least as large")
    finish(ax, "", labels, "upper right", yscale="log", ylim=(lowest, None))
    return figure


def tail_of(log_weights: ArrayLike, name: str = "log_weights") -> Tail:
    """The tail of the weights as `weight_tail` draws it. Raises ValueError as it does."""
    from scipy.special import logsumexp

    from lvm_jax.evidence.pareto import tail_size  # a figure of a mixture needs no evidence

    log_w = np.asarray(log_weights, np.float64)
    if log_w.ndim != 1 or log_w.size < 25:
        raise ValueError(f"{name}: expected shape [S] with S >= 25, got {log_w.shape}")
    if np.isnan(log_w).any() or np.isposinf(log_w).any() or np.isneginf(log_w).all():
        raise ValueError(f"{name}: expected log-weights without NaN or +inf, and one above -inf")
    ranked = np.sort(log_w - (logsumexp(log_w) - np.log(log_w.size)))[::-1]
    size, k = tail_size(log_w.size), float(_k_hat(jnp.asarray(log_w)))
    shown = ranked[: max(log_w.size // 5, size + 1)]
    shown = shown[np.isfinite(shown)]
    excess = np.exp(ranked[:size]) - np.exp(ranked[size])
    scale = float(np.median(excess)) / _median(k)
    share = np.arange(1, len(shown) + 1) / log_w.size
    return Tail(shown, share, k, float(ranked[size]), scale, size / log_w.size)


@bounded_jit()
def _k_hat(log_w: Float[Array, " S"]) -> Scalar:
    """Compiled as one program; eager calls would compile about fifty for each S."""
    from lvm_jax.diagnostics import pareto_k

    return pareto_k(log_w)


def k_hat_in_words(k_hat: float) -> str:
    """What k-hat says of an estimate."""
    if not k_hat <= LIMITS[1]:
        return "not reliable"
    return "reliable" if k_hat <= LIMITS[0] else "interval too short"


def _median(k: float) -> float:
    """The median of a generalised Pareto law of shape k and scale 1."""
    return float(np.log(2) if abs(k) < 1e-6 else np.expm1(k * np.log(2)) / k)


def evidence_intervals(
    methods: Mapping[str, Found],
    *,
    truth: float | None = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Figure:
    """log p(x) by method, from above to below, each with its interval; returns the figure.

    A reliable answer has a filled mark and a solid interval. One that failed a check is hollow and
    dashed: the interval drawn is the nominal one, and the true one is unbounded. A `Sandwich` has a
    mark at each of its bounds. `truth`, where it is known, is a vertical line.

        plotting.evidence_intervals({"importance": found, "annealed": chains})

    methods: answers of one data point, or a `Summary` of a data set, whose interval is over the
    draws of z; a `Certificate` of one point. level: of the intervals. In nats.

    Raises ValueError for no methods, an answer of several points, or one that is not finite.
    """
    if not methods:
        raise ValueError("methods: expected at least one, got none")
    level = checks.level(level)
    rows = {name: _row(found, level, f"methods[{name!r}]") for name, found in methods.items()}
    figure, ax = axis_or_new(ax, width=6.8, height=1.3 + 0.42 * len(rows))
    for place, row in enumerate(rows.values()):
        line, shade = ("-", PALETTE[0]) if row.reliable else ("--", PALETTE[1])
        ax.plot([row.low, row.high], [place, place], line, color=shade, linewidth=1.8)
        ax.plot([row.low, row.high], [place, place], "|", color=shade, markersize=9)
        face = shade if row.reliable else "white"
        ax.plot(row.values, [place] * len(row.values), "o", color=shade, mfc=face, markersize=7)
    ax.plot([], [], "o-", color=PALETTE[0], label=f"reliable, {level:.0%} interval")
    if not all(row.reliable for row in rows.values()):
        label = "not reliable, nominal interval"
        ax.plot([], [], "o--", color=PALETTE[1], mfc="white", label=label)
    if truth is not None:
        ax.axvline(
            truth, color=INK, linestyle=":", linewidth=1.4, label="log p(x), exact", zorder=0
        )
    ax.set_yticks(range(len(rows)), list(rows), parse_math=False)
    finish(ax, "", ("log p(x) [nats]", ""), ylim=(len(rows) - 0.5, -0.5))
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


class _Row(NamedTuple):
    """What is drawn of one method."""

    values: list[float]
    low: float
    high: float
    reliable: bool


def _row(found: Found, level: float, name: str) -> _Row:
    from lvm_jax.evidence import Annealed, Certificate, Evidence, Sandwich, Sequential, Summary

    if isinstance(found, Annealed | Sequential):
        found = found.evidence
    reliable = bool(np.all(getattr(found, "reliable", True)))
    values: list[Any]
    ends: tuple[Any, Any]
    if isinstance(found, Sandwich):
        values, ends = [found.lower.log_evidence, found.upper.log_evidence], found.interval(level)
    elif isinstance(found, Evidence):
        values, ends = [found.log_evidence], found.nominal_interval(level)
    elif isinstance(found, Summary):
        values = [found.log_evidence]
        ends = Estimate(found.log_evidence, found.monte_carlo_error).interval(level)
    elif isinstance(found, Estimate):
        values, ends = [found.value], found.interval(level)
    elif isinstance(found, Certificate):
        values, ends = [found.log_evidence], (found.low, found.high)
    else:
        raise TypeError(f"{name}: expected a result of `evidence`, got {type(found).__name__}")
    if any(np.size(value) != 1 for value in (*values, *ends)):
        raise ValueError(
            f"{name}: expected one data point, got shape {np.shape(values[0])}; take one point, or "
            "evidence.summarize of all"
        )
    numbers = [float(np.reshape(value, ())) for value in (*values, *ends)]
    if not np.isfinite(numbers[: len(values)]).all():
        raise ValueError(f"{name}: expected a finite log p(x), got {numbers[0]}")
    return _Row(numbers[: len(values)], numbers[-2], numbers[-1], reliable)


def gap_waterfall(gaps: Gaps, family: str | None = None, *, ax: Axes | None = None) -> Figure:
    """From log p(x) down to the ELBO by its gaps; returns the figure.

        log p(x) - approximation gap = ELBO of the best q;  that - amortisation gap = ELBO of q

    Means over the N points, in nats per data point. Each gap is a bar with both errors of its mean:
    2 Monte Carlo errors thick, 2 sampling errors thin. A gap below 0 is hatched. Without families
    the inference gap is one bar.

        plotting.gap_waterfall(decomposition.gaps(key, p, q, x, families=families), "full rank")

    family: of `gaps.families`; the only one unless given.

    Raises ValueError for a family that is not there, or for several and none chosen.
    """
    names = list(gaps.families)
    if family is None and len(names) > 1:
        raise ValueError(f"family: expected one of {', '.join(names)}, got None")
    parts = {"inference gap": gaps.inference}
    if names:
        one = gaps.families[checks.choice(names[0] if family is None else family, "family", names)]
        parts = {"approximation gap": one.approximation, "amortisation gap": one.amortization}
    levels = [gaps.log_evidence, *([one.elbo] if names else []), gaps.elbo]
    titles = ["log p(x)", *(["ELBO of\nthe best q"] if names else []), "ELBO of q"]
    heights = [float(np.mean(np.asarray(level.value, np.float64))) for level in levels]
    figure, ax = axis_or_new(ax, width=6.8, height=4.4)
    for place, (height, nxt) in enumerate(zip(heights, [*heights[1:], None], strict=True)):
        x = 2 * place
        ax.plot([x - 0.35, x + 0.35], [height, height], color=INK, linewidth=3)
        _write(ax, x, height, f"{height:.2f}")
        if nxt is not None:
            ax.plot([x + 0.35, x + 1.35], [height, height], ":", color=GREY, linewidth=1)
            ax.plot([x + 0.65, x + 1.65], [nxt, nxt], ":", color=GREY, linewidth=1)
    for place, gap in enumerate(parts.values()):
        _gap_bar(ax, 2 * place + 1, heights[place], gap.average(), place)
    ticks = [*titles, *(name.replace(" ", "\n") for name in parts)]
    places = [*range(0, 2 * len(titles), 2), *range(1, 2 * len(parts), 2)]
    ax.set_xticks(places, ticks)
    ax.use_sticky_edges = False  # room above the first bar
    ax.margins(y=0.15)
    finish(ax, "", ("", "nats per data point"))
    return figure


def _gap_bar(ax: Axes, x: float, top: float, gap: Average, place: int) -> None:
    """A bar from `top` down by the gap, with its two errors at the lower end."""
    value, shade = float(gap.value), colour((0, 4)[place])
    hatched: dict[str, Any] = {"fill": False, "edgecolor": shade, "hatch": "////"}
    plain: dict[str, Any] = {"color": shade, "alpha": 0.8}
    ax.bar(x, -value, 0.7, top, **(plain if value >= 0 else hatched))
    two_errors(ax, x, gap._replace(value=top - value), INK)
    _write(ax, x, max(top, top - value), f"{value:.2f} ± {2 * float(gap.sampling_error):.2f}")


def _write(ax: Axes, x: float, y: float, text: str) -> None:
    style: dict[str, Any] = {"ha": "center", "fontsize": 9, "color": INK, "bbox": LABEL_BOX}
    ax.annotate(text.replace("-", "−"), (x, y), (0, 5), textcoords="offset points", **style)
