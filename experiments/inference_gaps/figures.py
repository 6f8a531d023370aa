"""The figures of the inference-gap experiment."""

from typing import Any

import numpy as np
from matplotlib.patches import Patch

from experiments.inference_gaps.measure import Result, estimated, mean, part_of, rows_of
from experiments.inference_gaps.models import FAMILIES, Trained
from lvm_jax import plotting
from lvm_jax.estimate import Estimate

COLOURS = {"train": plotting.colour(0), "test": plotting.colour(1)}  # blue, and orange
APPROXIMATION, AMORTISATION = plotting.colour(0), plotting.colour(4)
ALPHA = {"train": 0.45, "test": 1.0}
SHIFT = {"train": -0.2, "test": 0.2}
MARKERS = {"train": "o", "test": "s"}


def panels(result: Result, height: float, **kwargs: Any) -> tuple[Any, Any]:
    """A panel for each model; a single panel is wider."""
    width = 3.7 if len(result.trained) > 1 else 5.5
    return plotting.new_figure(len(result.trained), width=width, height=height, **kwargs)


def words(one: Trained) -> str:
    """The name of a model in titles."""
    return one.name.replace("_", " ")


def gaps(result: Result) -> Any:
    """The gap of the guide as a bar, divided by the best q of each family."""
    figure, axes = panels(result, 4.0, sharey=True)
    for ax, one in zip(axes, result.trained, strict=True):
        found = result.found[one.name].gaps
        for part, rows in rows_of(result.is_train).items():
            for place, name in enumerate(FAMILIES):
                family = part_of(found.families[name], rows)
                bar(ax, place + SHIFT[part], part, family.approximation, family.amortization)
            at = np.arange(len(FAMILIES)) + SHIFT[part]
            error_bar(ax, at, part_of(found.inference, rows), color=plotting.INK)
        ax.axhline(0, color=plotting.INK, lw=0.8)
        ax.set_xticks(range(len(FAMILIES)), ("mean-\nfield", "full\ncovariance", "flow"))
        plotting.caption_axes(ax, f"guide: {words(one)}", ("family of q*", "nats per image"))
    handles = [
        Patch(color=AMORTISATION, label="amortisation gap"),
        Patch(color=APPROXIMATION, label="approximation gap"),
        Patch(fill=False, edgecolor=AMORTISATION, hatch="////", label="amortisation gap below 0"),
        Patch(color=plotting.GREY, alpha=ALPHA["train"], label="pale: training images"),
    ]
    axes[-1].set_ylim(top=1.4 * axes[-1].get_ylim()[1])
    plotting.legend(axes[-1], handles=handles, loc="upper right")
    return figure


def bar(ax: Any, x: float, part: str, approximation: Estimate, amortisation: Estimate) -> None:
    """Both gaps as a stacked bar; a negative amortisation gap is hatched."""
    low, step = float(approximation.value.mean()), float(amortisation.value.mean())
    ax.bar(x, low, 0.36, color=APPROXIMATION, alpha=ALPHA[part], lw=0)
    hatched = {"fill": False, "edgecolor": AMORTISATION, "hatch": "////", "lw": 0.8}
    plain = {"color": AMORTISATION, "alpha": ALPHA[part], "lw": 0}
    ax.bar(x, step, 0.36, low, **(plain if step >= 0 else hatched))


def error_bar(ax: Any, x: Any, found: Estimate, **style: Any) -> None:
    """A mean with its interval over the images."""
    numbers = mean(found)
    low, high = numbers["interval"]
    x = np.atleast_1d(x)
    kept = {"ls": "", "elinewidth": 1.2, "capsize": 2.5} | style
    ax.errorbar(x, np.full(len(x), numbers["value"]), 0.5 * (high - low), **kept)


def own_gaps(result: Result, one: Trained) -> dict[str, Estimate]:
    """The gap and its two parts, for the guide's own family."""
    found = result.found[one.name].gaps
    return {
        "inference gap, log p − ELBO": found.inference,
        "approximation gap": found.families[one.own].approximation,
        "amortisation gap": found.families[one.own].amortization,
    }


def parts(result: Result) -> Any:
    """The gaps of training images and of test images."""
    figure, axes = plotting.new_figure(3, width=3.7, height=3.6)
    for place, one in enumerate(result.trained):
        for ax, (name, gap) in zip(axes, own_gaps(result, one).items(), strict=True):
            for part, rows in rows_of(result.is_train).items():
                label = f"{part} images" if place == 0 else None
                style = {"color": COLOURS[part], "marker": MARKERS[part], "label": label}
                error_bar(ax, place + 0.6 * SHIFT[part], part_of(gap, rows), **style)
            plotting.finish(ax, name, ("guide", "nats per image" if ax is axes[0] else ""))
    for ax in axes:
        ax.set_xticks(range(len(result.trained)), [words(one) for one in result.trained])
        ax.set(xlim=(-0.5, len(result.trained) - 0.5), ylim=(min(0.0, ax.get_ylim()[0]), None))
    plotting.legend(axes[-1])
    return figure


def points(ax: Any, result: Result, x: Estimate, y: Estimate) -> None:
    """Every image with error bars of two standard errors."""
    bars = {"ls": "", "elinewidth": 0.8, "alpha": 0.3}
    for part, rows in rows_of(result.is_train).items():
        a, b = part_of(x, rows), part_of(y, rows)
        errors = 2 * b.standard_error, 2 * a.standard_error
        ax.errorbar(a.value, b.value, *errors, color=COLOURS[part], **bars)
        style = {"color": COLOURS[part], "marker": MARKERS[part], "ms": 4, "ls": "", "mec": "white"}
        ax.plot(a.value, b.value, label=f"{part} images", mew=0.5, zorder=3, **style)
    ax.axhline(0, color=plotting.INK, lw=0.6)


def images(result: Result) -> Any:
    """Both gaps of every image, for the guide's own family."""
    figure, axes = panels(result, 3.7, sharex=True, sharey=True)
    for ax, one in zip(axes, result.trained, strict=True):
        _, approximation, amortisation = own_gaps(result, one).values()
        points(ax, result, approximation, amortisation)
        ax.axvline(0, color=plotting.INK, lw=0.6)
        title = f"guide: {words(one)}; best {one.own} q"
        plotting.caption_axes(ax, title, ("approximation gap [nats]", "amortisation gap [nats]"))
    plotting.legend(axes[0])
    return figure


def reference(result: Result) -> Any:
    """log p by importance sampling minus log p by annealed chains, for every image."""
    figure, axes = panels(result, 3.5, sharey=True)
    for ax, one in zip(axes, result.trained, strict=True):
        found = result.found[one.name]
        chains, plain = estimated(found.annealed.evidence), estimated(found.importance)
        error = np.hypot(chains.standard_error, plain.standard_error)
        exact = chains._replace(standard_error=np.zeros_like(error))
        points(ax, result, exact, Estimate(plain.value - chains.value, error))
        labels = ("log p, annealed [nats]", "importance − annealed [nats]")
        plotting.caption_axes(ax, f"guide: {words(one)}", labels)
    plotting.legend(axes[0])
    return figure
