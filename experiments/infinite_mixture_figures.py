"""The figures of the infinite-mixture experiment, each as the bytes of a PNG file."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.infinite_mixture_evaluation import Density, conditional, latent_grid
from experiments.infinite_mixture_training import WATCHED
from lvm_jax import plotting

if TYPE_CHECKING:
    from experiments.infinite_mixture import Result


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {
        "densities": densities(result),
        "samples": samples(result),
        "maps": maps(result),
        "training": training(result),
    }
    return {name: plotting.png(figure) for name, figure in figures.items()}


def fitted(result: "Result") -> list[Density]:
    """The deep models, each followed by the mixture of its size."""
    pairs = zip(result.deep, result.mixtures, strict=True)
    return [density for deep, mixture in pairs for density in (deep.density, mixture)]


def window(ax: Any, result: "Result", title: str) -> None:
    """The same window, labels and aspect on every panel."""
    frame = result.frame
    ax.set(xlim=(frame.low[0], frame.high[0]), ylim=(frame.low[1], frame.high[1]))
    plotting.caption_axes(ax, title, result.dataset.axis_labels[:2])


def arrange(result: "Result") -> tuple[Any, tuple[Any, Any], list[tuple[Any, Density]]]:
    """A column for the data and one for each deep model, the mixture of its size below it.

    Of one deep model all three stand in a row. Gives the figure, the two panels of the left column
    (the lower one is None in a row), and the panel of each fitted density.
    """
    shown, several = fitted(result), len(result.deep) > 1
    columns, rows = (1 + len(result.deep), 2) if several else (3, 1)
    figure, axes = plotting.new_figure(columns, rows, width=4.4, height=4)
    if not several:
        return figure, (axes[0], None), list(zip(axes[1:], shown, strict=True))
    places = [*axes[1:columns], *axes[columns + 1 :]]
    pairs = list(zip(places, shown[::2] + shown[1::2], strict=True))
    return figure, (axes[0], axes[columns]), pairs


def densities(result: "Result") -> Any:
    """The data, their true density, and every fitted one, with its 50% and 90% regions."""
    figure, (above, below), pairs = arrange(result)
    plotting.scatter(above, result.train)
    window(above, result, f"Data to fit, {len(result.train):,} points")
    for ax, density in pairs:
        panel(ax, result, density)
    if below is not None and result.truth is not None:
        panel(below, result, result.truth)
    elif below is not None:
        held_out(below, result)
    return figure


def held_out(ax: Any, result: "Result") -> None:
    """The points that no fit saw."""
    plotting.scatter(ax, result.test)
    window(ax, result, f"Held out, {len(result.test):,} points")


def panel(ax: Any, result: "Result", density: Density) -> None:
    """One density as shades, with the borders of the regions of highest density."""
    frame = result.frame
    num = density.grid.shape[0]
    x, y = (np.linspace(frame.low[i], frame.high[i], num) for i in (0, 1))
    ax.pcolormesh(x, y, np.exp(density.grid), cmap="Greys", shading="gouraud")
    low, high = density.heights
    color = plotting.PALETTE[0]
    ax.contour(
        x, y, density.grid, [low, high], colors=[color], linestyles=["--", "-"], linewidths=1
    )
    size = f", {density.num_parameters} numbers" if density.num_parameters else ""
    window(ax, result, f"{density.name}{size}: {density.log_p.mean():.3f} nats")


def samples(result: "Result") -> Any:
    """The data beside as many draws from every fitted density."""
    figure, (above, below), pairs = arrange(result)
    plotting.scatter(above, result.train)
    window(above, result, f"Data to fit, {len(result.train):,} points")
    for ax, density in pairs:
        plotting.scatter(ax, density.samples)
        window(ax, result, f"Draws from: {density.name}")
    if below is not None:
        held_out(below, result)
    return figure


def maps(result: "Result") -> Any:
    """A square grid in the plane of z, and what each deep model makes of it in the plane of x."""
    figure, (first, *axes) = plotting.new_figure(1 + len(result.deep), width=4.6, height=4.6)
    lines = latent_grid()
    spots = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    grid_lines(first, lines)
    for level, style in zip(plotting.LEVELS, plotting.STYLES, strict=False):
        circle = plotting.ellipse(np.zeros(2), np.eye(2), level)
        label = f"holds {level:.0%} of the prior"
        first.plot(*circle.T, style, color=plotting.INK, linewidth=1.6, label=label)
    first.plot(*spots.T, "o", color=plotting.INK, markersize=4, label="the z of the Gaussians")
    first.set(aspect="equal", ylim=(-2.7, 4.2))
    plotting.caption_axes(first, "The plane of z", ("z1 [prior sd]", "z2 [prior sd]"))
    plotting.legend(first, loc="upper left")
    for ax, deep in zip(axes, result.deep, strict=True):
        plotting.scatter(ax, result.train)
        images = [conditional(deep.model, deep.theta, line.astype(np.float32))[0] for line in lines]
        grid_lines(ax, [result.frame.restore(np.asarray(image)) for image in images], named=False)
        means, sds = conditional(deep.model, deep.theta, spots)
        for mean, sd in zip(np.asarray(means), np.asarray(sds), strict=True):
            around = result.frame.restore(plotting.ellipse(mean, np.diag(sd**2), 0.5))
            ax.plot(*around.T, color=plotting.INK, linewidth=1)
        ax.plot([], [], color=plotting.INK, label=f"{len(spots)} of its Gaussians: 50%")
        window(ax, result, f"μ(z), {deep.density.name}")
        plotting.legend(ax, loc="lower left")
    return figure


def grid_lines(ax: Any, lines: list[np.ndarray], named: bool = True) -> None:
    """The images of lines of constant z1, then as many of constant z2, in two colours."""
    half = len(lines) // 2
    for index, line in enumerate(lines):
        label = f"constant z{1 + index // half}" if named and index % half == 0 else None
        color = plotting.PALETTE[index // half]
        ax.plot(*line.T, color=color, linewidth=0.8, alpha=0.75, label=label)


def training(result: "Result") -> Any:
    """The bound and the log-likelihood of held-out points against the step of the optimiser."""
    width = 6 if len(result.deep) > 1 else 9
    figure, axes = plotting.new_figure(len(result.deep), width=width, height=4, sharey=True)
    shift, known = result.frame.log_volume, [*fitted(result)]
    if result.truth is not None:
        known.append(result.truth)
    for ax, deep, mixture in zip(axes, result.deep, result.mixtures, strict=True):
        curve, color = deep.curve, plotting.PALETTE
        lines = {
            "bound, on minibatches of the fitted points": curve.bound,
            "ELBO, held out": curve.elbo,
            "log p, held out": curve.log_evidence,
        }
        for index, (name, values) in enumerate(lines.items()):
            ax.plot(curve.step, values - shift, color=color[index], label=name)
        level = mixture.log_p[:WATCHED].mean()
        ax.axhline(level, color=plotting.INK, linestyle="--", label=f"log p, {mixture.name}")
        if result.truth is not None:
            level = result.truth.log_p[:WATCHED].mean()
            ax.axhline(level, color=plotting.GREY, linestyle=":", label="log p, true density")
        ax.grid(alpha=0.25)
        plotting.caption_axes(ax, deep.density.name, ("step of Adam", "nats per point"))
        plotting.legend(ax)
    first = len(result.deep[0].curve.step) // 4  # the first steps would flatten the rest
    shown = [(deep.curve.bound, deep.curve.log_evidence) for deep in result.deep]
    low = min(values[first:].min() for pair in shown for values in pair) - shift
    high = max(density.log_p[:WATCHED].mean() for density in known)
    axes[0].set_ylim(low - 0.1, high + 0.1)
    return figure
