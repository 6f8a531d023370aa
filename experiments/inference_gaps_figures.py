"""The figures of the `inference_gaps` experiment."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.inference_gaps_measure import mean, measured, part_of, parts
from experiments.inference_gaps_models import FAMILIES
from lvm_jax import plotting

if TYPE_CHECKING:
    from experiments.inference_gaps import Result
    from experiments.inference_gaps_measure import Found
    from experiments.inference_gaps_models import Trained
    from lvm_jax.decomposition import Measured

TRAIN, TEST = plotting.colour(5), plotting.colour(1)  # light blue, and orange
COLOURS = {"train": TRAIN, "test": TEST}
APPROXIMATION, AMORTISATION = plotting.colour(0), plotting.colour(4)
ALPHA = {"train": 0.45, "test": 1.0}
SHIFT = {"train": -0.2, "test": 0.2}


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    made = {
        "gaps": gaps(result),
        "parts": train_and_test(result),
        "images": images(result),
        "reference": reference(result),
    }
    return {name: plotting.png(figure) for name, figure in made.items()}


def panels(result: "Result", height: float, **kwargs: Any) -> tuple[Any, np.ndarray]:
    """A panel for each model; a lone one is wider."""
    width = 3.7 if len(result.trained) > 1 else 5.5
    return plotting.new_figure(len(result.trained), width=width, height=height, **kwargs)


def gaps(result: "Result") -> Any:
    """The gap of the guide as a bar, split by the best q of each family."""
    figure, axes = panels(result, 4.0, sharey=True)
    for ax, one in zip(axes, result.trained, strict=True):
        found = result.found[one.name].gaps
        for part, rows in parts(result.is_train).items():
            for place, name in enumerate(FAMILIES):
                family = part_of(found.families[name], rows)
                bar(ax, place + SHIFT[part], part, family.approximation, family.amortization)
            total = mean(part_of(found.inference, rows))
            at = np.arange(len(FAMILIES)) + SHIFT[part]
            error_bar(ax, at, total, plotting.INK)
        ax.axhline(0, color=plotting.INK, lw=0.8)
        ax.set_xticks(range(len(FAMILIES)), ("mean-\nfield", "full\ncovariance", "flow"))
        label = "nats per image" if ax is axes[0] else ""
        plotting.caption_axes(ax, f"guide: {one.name}", ("family of q*", label))
    explain(axes[-1])
    return figure


def bar(ax: Any, x: float, part: str, approximation: "Measured", amortisation: "Measured") -> None:
    """Both gaps on top of each other; one below 0 is hatched, and takes from the other."""
    low, step = float(approximation.value.mean()), float(amortisation.value.mean())
    ax.bar(x, low, 0.36, color=APPROXIMATION, alpha=ALPHA[part], lw=0)
    if step >= 0:
        ax.bar(x, step, 0.36, low, color=AMORTISATION, alpha=ALPHA[part], lw=0)
    else:
        ax.bar(x, step, 0.36, low, fill=False, edgecolor=AMORTISATION, hatch="////", lw=0.8)


def explain(ax: Any) -> None:
    """What the colours of `gaps` mean, above the bars."""
    from matplotlib.patches import Patch

    handles = [
        Patch(color=AMORTISATION, label="amortisation gap"),
        Patch(color=APPROXIMATION, label="approximation gap"),
        Patch(color=plotting.GREY, alpha=ALPHA["train"], label="pale: training images"),
    ]
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    plotting.legend(ax, handles=handles, loc="upper right")


def error_bar(ax: Any, x: Any, found: dict[str, Any], colour: str, **kwargs: Any) -> None:
    """A mean with its interval over the images."""
    low, high = found["interval"]
    half = 0.5 * (high - low)
    x = np.atleast_1d(x)
    value = np.full(len(x), found["value"])
    ax.errorbar(x, value, half, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5)
    if kwargs:
        ax.plot(x, value, color=colour, ls="", **kwargs)


def own_gaps(one: "Trained", found: "Found") -> dict[str, "Measured"]:
    """The gap and both of its parts, by the family of the guide itself."""
    family = found.gaps.families[one.own]
    return {
        "inference gap, log p − ELBO": found.gaps.inference,
        "approximation gap": family.approximation,
        "amortisation gap": family.amortization,
    }


def train_and_test(result: "Result") -> Any:
    """The gaps on images that the models saw, and on those that they did not."""
    figure, axes = plotting.new_figure(3, width=3.7, height=3.6)
    markers = {"train": "o", "test": "s"}
    for place, one in enumerate(result.trained):
        for ax, (name, gap) in zip(
            axes, own_gaps(one, result.found[one.name]).items(), strict=True
        ):
            for part, rows in parts(result.is_train).items():
                label = f"{part} images" if place == 0 else None
                told = mean(part_of(gap, rows))
                at = place + 0.6 * SHIFT[part]
                error_bar(ax, at, told, COLOURS[part], marker=markers[part], label=label)
            plotting.caption_axes(ax, name, ("guide", "nats per image"))
    for ax in axes:
        ax.set_xticks(range(len(result.trained)), [one.name for one in result.trained])
        ax.set_xlim(-0.5, len(result.trained) - 0.5)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.grid(alpha=0.25, axis="y")
    plotting.legend(axes[-1])
    return figure


def images(result: "Result") -> Any:
    """Both gaps of every image, by the family of the guide itself."""
    figure, axes = panels(result, 3.7, sharex=True, sharey=True)
    for ax, one in zip(axes, result.trained, strict=True):
        _, approximation, amortisation = own_gaps(one, result.found[one.name]).values()
        for part, rows in parts(result.is_train).items():
            x, y = part_of(approximation, rows), part_of(amortisation, rows)
            ax.errorbar(
                x.value, y.value, 2 * y.standard_error, 2 * x.standard_error, fmt="o", ms=3.5,
                color=COLOURS[part], elinewidth=0.6, alpha=0.8, label=f"{part} images",
            )  # fmt: skip
        for line in (ax.axhline, ax.axvline):
            line(0, color=plotting.INK, lw=0.6)
        label = "amortisation gap [nats]" if ax is axes[0] else ""
        title = f"{one.name}, by the best {one.own} q"
        plotting.caption_axes(ax, title, ("approximation gap [nats]", label))
    plotting.legend(axes[0])
    return figure


def reference(result: "Result") -> Any:
    """How far importance sampling of the guide lies from the annealed chains, image by image."""
    figure, axes = panels(result, 3.5, sharey=True)
    for ax, one in zip(axes, result.trained, strict=True):
        found = result.found[one.name]
        annealed, plain = measured(found.annealed.evidence), measured(found.importance)
        error = 2 * np.hypot(annealed.standard_error, plain.standard_error)
        for part, rows in parts(result.is_train).items():
            ax.errorbar(
                annealed.value[rows], (plain.value - annealed.value)[rows], error[rows], fmt="o",
                ms=3.5, color=COLOURS[part], elinewidth=0.6, alpha=0.8, label=f"{part} images",
            )  # fmt: skip
        ax.axhline(0, color=plotting.INK, lw=0.8)
        label = "importance − annealed [nats]" if ax is axes[0] else ""
        plotting.caption_axes(ax, f"guide: {one.name}", ("log p, annealed [nats]", label))
    plotting.legend(axes[0])
    return figure
