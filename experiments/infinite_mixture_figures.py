"""The figures of the infinite-mixture experiment, each as the bytes of a PNG file."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.infinite_mixture_evaluation import Density, conditional, latent_grid
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


def densities(result: "Result") -> Any:
    """The data or their true density, and every fitted density, with its 50% and 90% regions."""
    shown = fitted(result)
    columns = 1 + len(shown) // 2 if len(shown) > 2 else 3
    figure, axes = plotting.new_figure(columns, 2 if len(shown) > 2 else 1, width=4.4, height=4)
    first, *others = axes
    plotting.scatter(first, result.train)
    window(first, result, f"Data to fit, {len(result.train):,} points")
    if len(shown) > 2:  # the left column: data above, truth below
        left = others.pop(columns - 1)
        panel(left, result, result.truth) if result.truth else left.set_axis_off()
    order = shown[::2] + shown[1::2] if len(shown) > 2 else shown
    for ax, density in zip(others, order, strict=False):
        panel(ax, result, density)
    return figure


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
    shown = fitted(result)
    figure, axes = plotting.new_figure(1 + len(shown), width=3.7, height=3.6)
    plotting.scatter(axes[0], result.train)
    window(axes[0], result, "Data")
    for ax, density in zip(axes[1:], shown, strict=True):
        plotting.scatter(ax, density.samples)
        window(ax, result, density.name)
    return figure


def maps(result: "Result") -> Any:
    """What each deep model makes of a square grid in z, and of the noise around it."""
    figure, axes = plotting.new_figure(len(result.deep), width=6, height=5)
    lines = latent_grid()
    half = len(lines) // 2
    for ax, deep in zip(axes, result.deep, strict=True):
        plotting.scatter(ax, result.train)
        for index, line in enumerate(lines):
            mean, _ = conditional(deep.model, deep.theta, line.astype(np.float32))
            curve = result.frame.restore(np.asarray(mean))
            color = plotting.PALETTE[0] if index < half else plotting.PALETTE[1]
            ax.plot(*curve.T, color=color, linewidth=0.8, alpha=0.75)
        spots = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
        means, sds = conditional(deep.model, deep.theta, spots)
        for mean, sd in zip(np.asarray(means), np.asarray(sds), strict=True):
            around = plotting.ellipse(mean, np.diag(sd**2), 0.5)
            ax.plot(*result.frame.restore(around).T, color=plotting.INK, linewidth=0.8)
        ax.plot([], [], color=plotting.PALETTE[0], label="μ(z) along lines of constant z1")
        ax.plot([], [], color=plotting.PALETTE[1], label="μ(z) along lines of constant z2")
        ax.plot([], [], color=plotting.INK, label="40 of its Gaussians: each ellipse holds 50%")
        window(ax, result, deep.density.name)
        plotting.legend(ax)
    return figure


def training(result: "Result") -> Any:
    """The bound and the log-likelihood of held-out points against the step of the optimiser."""
    figure, axes = plotting.new_figure(len(result.deep), width=6, height=4, sharey=True)
    shift = result.frame.log_volume
    for ax, deep, mixture in zip(axes, result.deep, result.mixtures, strict=True):
        curve, color = deep.curve, plotting.PALETTE
        lines = {
            "bound, on minibatches": curve.bound,
            "ELBO, held out": curve.elbo,
            "log p, held out": curve.log_evidence,
        }
        for index, (name, values) in enumerate(lines.items()):
            ax.plot(curve.step, values - shift, color=color[index], label=name)
        ax.axhline(mixture.log_p.mean(), color=plotting.INK, linestyle="--", label=mixture.name)
        ax.grid(alpha=0.25)
        plotting.caption_axes(ax, deep.density.name, ("step of Adam", "nats per point"))
        plotting.legend(ax, loc="center right")
    first = len(result.deep[0].curve.step) // 4  # the first steps would flatten the rest
    low = min((deep.curve.elbo[first:] - shift).min() for deep in result.deep)
    high = max(density.log_p.mean() for density in fitted(result))
    axes[0].set_ylim(low - 0.1, high + 0.1)
    return figure
