"""Figures and words of the marginal-likelihood experiment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.marginal_likelihood import BOX, METHODS, NUM_VALUES
from lvm_jax import plotting
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.marginal_likelihood import Estimates, Result

NAMES = {
    "prior": "draws from the prior",
    "uniform": "uniform draws",
    "importance": "importance sampling",
}
CLOSE = 0.1  # nats


def summary(estimates: "Estimates") -> dict[str, float]:
    """What results.json and the tables say of R estimates.

    coverage: the share of estimates within two of their own standard errors of the truth.
    """
    error = estimates.error
    within = np.abs(error) <= 2 * estimates.standard_error
    return {
        "median_error": float(np.median(error)),
        "low": float(np.quantile(error, 0.05)),
        "high": float(np.quantile(error, 0.95)),
        "rms_error": float(np.sqrt(np.mean(error**2))),
        "share_close": float(np.mean(np.abs(error) <= CLOSE)),
        "coverage": float(np.mean(within)),
        "median_standard_error": float(np.median(estimates.standard_error)),
        "median_ess": float(np.median(estimates.ess)),
        "median_k_hat": float(np.median(estimates.k_hat)),
    }


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    return {
        "dimension": plotting.png(dimension(result)),
        "honesty": plotting.png(honesty(result)),
        "samples": plotting.png(samples(result)),
        "weights": plotting.png(weights(result)),
    }


def band(ax: Any, found: Mapping[int, Mapping[str, "Estimates"]]) -> None:
    """Median and 5% to 95% range of the error of each method, and the truth at 0."""
    sizes = list(found)
    for index, name in enumerate(METHODS):
        rows = [summary(found[size][name]) for size in sizes]
        low, middle, high = ([row[k] for row in rows] for k in ("low", "median_error", "high"))
        color = plotting.colour(index)
        ax.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(sizes, middle, "o-", color=color, markersize=4, label=NAMES[name])
    ax.axhline(0, color=plotting.INK, linewidth=1)
    ax.set_yscale("symlog", linthresh=0.1)
    ax.grid(alpha=0.25)


def dimension(result: "Result") -> Any:
    """Error against the size of z: continuous and discrete."""
    figure, (left, right) = plotting.new_figure(2, width=5.6, height=4.6)
    said = f"S = {result.config.num_samples:,}"
    error = "log p-hat − log p [nats]: median and 90% range"
    band(left, result.continuous)
    left.set_xscale("log", base=2)
    plotting.caption_axes(left, f"Continuous z, {said}", ("dimensions of z", error))
    band(right, result.discrete)
    labels = (f"variables K of {NUM_VALUES} values each", error)
    plotting.caption_axes(right, f"Discrete z, {said}", labels)
    plotting.legend(left, loc="lower left")
    return figure


def honesty(result: "Result") -> Any:
    """The real error against the one that the estimate reports."""
    figure, (left, right) = plotting.new_figure(2, width=5.6, height=4.6)
    dims = list(result.continuous)
    for index, name in enumerate(METHODS):
        rows = [summary(result.continuous[d][name]) for d in dims]
        color = plotting.colour(index)
        real, told = ([row[k] for row in rows] for k in ("rms_error", "median_standard_error"))
        left.plot(dims, real, "o-", color=color, markersize=4, label=f"{NAMES[name]}: real")
        left.plot(
            dims, told, "s--", color=color, markersize=4, fillstyle="none", label="  reported"
        )
        covered = [row["coverage"] for row in rows]
        right.plot(dims, covered, "o-", color=color, markersize=4, label=NAMES[name])
    left.set(xscale="log", yscale="log")
    left.set_xscale("log", base=2)
    labels = ("dimensions of z", "error of log p-hat [nats]")
    plotting.caption_axes(left, "Real (root mean square) and reported error", labels)
    right.axhline(0.954, color=plotting.INK, linestyle=":", label="95.4%, as it should be")
    right.set_xscale("log", base=2)
    right.set_ylim(-0.03, 1.03)
    labels = ("dimensions of z", "share of the estimates")
    plotting.caption_axes(right, "Within two reported standard errors of the truth", labels)
    for ax in (left, right):
        ax.grid(alpha=0.25)
        plotting.legend(ax)
    return figure


def samples(result: "Result") -> Any:
    """Error against S at one dimension."""
    figure, (ax,) = plotting.new_figure(width=7.5, height=4.2)
    band(ax, result.growing)
    ax.set_xscale("log")
    labels = ("number of draws S", "log p-hat − log p [nats]: median and 90% range")
    plotting.caption_axes(ax, f"Continuous z in {result.config.closely} dimensions", labels)
    plotting.legend(ax, loc="lower right")
    return figure


def weights(result: "Result") -> Any:
    """The share of the estimate that the largest weights carry."""
    figure, (ax,) = plotting.new_figure(width=7.5, height=4.2)
    for index, name in enumerate(METHODS):
        share = np.cumsum(result.shares[name])
        x = np.arange(1, len(share) + 1) / len(share)
        ax.plot(x, share, color=plotting.colour(index), linewidth=1.8, label=NAMES[name])
    ax.plot(x, x, ":", color=plotting.INK, label="equal weights (q is the posterior)")
    ax.set_xscale("log")
    ax.grid(alpha=0.25)
    labels = ("share of the draws, largest weights first", "share of the estimate")
    plotting.caption_axes(ax, f"One estimate, {result.config.closely} dimensions", labels)
    plotting.legend(ax, loc="center left", bbox_to_anchor=(0.02, 0.35))
    return figure


def page(result: "Result", figures: dict[str, bytes]) -> tuple[str, str, list[Fact], list[Section]]:
    """Title, lead, facts and sections."""
    config = result.config
    dim = max(result.continuous)
    last = {name: summary(found) for name, found in result.continuous[dim].items()}
    facts = [
        Fact(
            f"{last[name]['median_error']:+.2f}", f"median error [nats] of {NAMES[name]}, D = {dim}"
        )
        for name in METHODS
    ]
    told = last["prior"]["median_standard_error"]
    facts.append(Fact(f"{told:.2f}", "what the draws from the prior report as their error there"))
    lead = (
        "The marginal likelihood is an expectation, and any expectation can be averaged from draws. "
        "Whether the average is of any use depends on where the draws land."
    )
    sections = [
        Section("Three averages", method_blocks(result)),
        Section("As z grows", dimension_blocks(result, figures)),
        Section("Why", why_blocks(result, figures)),
        Section("Would more draws help?", sample_blocks(result, figures)),
    ]
    return f"Estimating p(x) with {config.num_samples:,} draws", lead, facts, sections


def method_blocks(result: "Result") -> list[Block]:
    """The three estimators and the models."""
    config = result.config
    return [
        Equation(
            r"p(x) = \mathbb{E}_{z \sim p(z)}\left[p(x\,|\,z)\right] "
            r"= |\mathcal{Z}|\; \mathbb{E}_{z \sim U(\mathcal{Z})}\left[p(x, z)\right] "
            r"= \mathbb{E}_{z \sim q}\left[\dfrac{p(x, z)}{q(z)}\right]"
        ),
        Text(
            "Continuous: z ~ N(0, I) in D dimensions, x | z ~ N(W z, 0.3² I) with W a rotation, and "
            "x drawn from the model. Uniform draws come from the box "
            f"[−{BOX:g}, {BOX:g}]^D, so |Z| = {2 * BOX:g}^D. The q of importance sampling is the "
            f"posterior, {config.widen:g} times as wide and moved by {config.shift:g} standard "
            "deviations in every dimension: a guess, and not a perfect one. "
            f"Discrete: K variables of {NUM_VALUES} values, so |Z| = {NUM_VALUES}^K, with x the sum "
            "of one vector for each; q is mean-field with the right marginals, a tenth of it "
            "uniform. The truth is a closed form in the one, a sum over all values in the other."
        ),
    ]


def dimension_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The figure of failure, what the methods say of themselves, and the numbers."""
    caption = (
        f"Error of {result.config.num_repeats} estimates of log p(x): median, and the range of the "
        "middle 90%. The scale is linear within ±0.1 nats and logarithmic beyond. All three average "
        "to p(x) exactly; but where hardly any draw finds the region that matters, nearly every "
        "estimate lacks its mass, and the average is kept up by estimates too rare to be seen."
    )
    honest = (
        "Left: the error that the estimates really have (solid), and the standard error that they "
        "report (dashed), from the spread of the weights that they saw. Right: how often the truth "
        "lies within two reported errors. A method that has never seen the large weights cannot know "
        "that they exist; Pareto's k-hat, in the table, is a warning, but an imperfect one."
    )
    return [
        Picture(figures["dimension"], caption),
        Picture(figures["honesty"], honest),
        table(result.continuous, "D", "Continuous z."),
        table(result.discrete, "K", "Discrete z."),
    ]


def table(found: Mapping[int, Mapping[str, "Estimates"]], size: str, name: str) -> Table:
    """The numbers of every size and method."""
    rows = []
    for value, methods in found.items():
        for method, estimates in methods.items():
            s = summary(estimates)
            k_hat = "–" if not np.isfinite(s["median_k_hat"]) else f"{s['median_k_hat']:.2f}"
            rows.append(
                [
                    f"{value}",
                    method,
                    f"{s['median_error']:+.3f}",
                    f"{s['low']:+.2f} to {s['high']:+.2f}",
                    f"{s['median_standard_error']:.3f}",
                    f"{s['share_close']:.0%}",
                    f"{s['coverage']:.0%}",
                    f"{s['median_ess']:,.0f}",
                    k_hat,
                ]
            )
    header = (
        size, "draws from", "median error [nats]", "5% to 95%", "reported error", "within 0.1 nat",
        "covered", "ESS", "k-hat",
    )  # fmt: skip
    note = f"{name} k-hat above 0.7 says: do not trust. A dash: too few weights to fit a tail to."
    return Table(header, rows, note)


def why_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Concentration of the weights."""
    half = {n: int(np.searchsorted(np.cumsum(s), 0.5)) + 1 for n, s in result.shares.items()}
    total = f"{result.config.num_samples:,}"
    said = (
        f"Of {total} draws from the prior in {result.config.closely} dimensions, {half['prior']:,} "
        f"carry half of the estimate; of {total} uniform draws, {half['uniform']:,}; of {total} "
        f"draws from q, {half['importance']:,}."
    )
    caption = (
        "Draws sorted by weight, and the share of the estimate that the largest carry. A curve that "
        "is high at the left is an average of few draws, whatever S."
    )
    return [Text(said), Picture(figures["weights"], caption)]


def sample_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """What a larger S does."""
    caption = (
        "The same against the number of draws. Importance sampling gains a digit for a hundred "
        "times the draws, from a start that is already good; the others would need a number of "
        "draws that grows exponentially with the dimension."
    )
    return [Picture(figures["samples"], caption), table(result.growing, "S", "By number of draws.")]
