"""The figures of the infinite-mixture experiment."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.infinite_mixture.deep import make_models
from experiments.infinite_mixture.measure import WATCHED, Density, Result
from lvm_jax import plotting


def densities(result: Result) -> Any:
    """The data, the true density, and every fitted density, with 50% and 90% regions."""
    figure, below = panels(result, shades)
    if below is not None and result.truth is not None:
        below.clear()
        shades(below, result, result.truth)
    return figure


def samples(result: Result) -> Any:
    """The data, and equally many draws from every fitted density."""
    return panels(result, draws)[0]


def panels(result: Result, draw: Callable[[Any, Result, Density], None]) -> tuple[Any, Any]:
    """Columns for the data above the held-out points, and each deep model above its mixture.

    Returns the figure and the axes of the held-out points. One deep model has a single row, without
    held-out points.
    """
    plane, (deep, mixtures) = result.plane, zip(*result.pairs, strict=True)
    columns, rows = (1 + len(deep), 2) if len(deep) > 1 else (3, 1)
    figure, (first, *axes) = plotting.new_figure(columns, rows, width=3.6, height=3.4)
    plotting.scatter(first, plane.train)
    window(first, result, f"Data to fit, {len(plane.train):,} points")
    below = axes.pop(columns - 1) if rows > 1 else None
    if below is not None:
        plotting.scatter(below, plane.test)
        window(below, result, f"Held out, {len(plane.test):,} points")
    for ax, density in zip(axes, [*(one.density for one in deep), *mixtures], strict=True):
        draw(ax, result, density)
    return figure, below


def window(ax: Any, result: Result, title: str) -> None:
    """Set the common window and labels of a panel."""
    (left, bottom), (right, top) = result.plane.low, result.plane.high
    ax.set(xlim=(left, right), ylim=(bottom, top))
    plotting.caption_axes(ax, title, result.dataset.axis_labels[:2])


def draws(ax: Any, result: Result, density: Density) -> None:
    """Draws from a density."""
    plotting.scatter(ax, density.samples)
    window(ax, result, f"Draws from: {density.name}")


def shades(ax: Any, result: Result, density: Density) -> None:
    """One density as shades, with contours of its 50% and 90% regions."""
    x, y = np.linspace(result.plane.low, result.plane.high, len(density.grid)).T
    ax.pcolormesh(x, y, np.exp(density.grid), cmap="Greys", shading="gouraud")
    drawn = {"colors": [plotting.PALETTE[0]], "linestyles": ["--", "-"], "linewidths": 1}
    ax.contour(x, y, density.grid, density.heights, **drawn)
    size = f", {density.num_parameters} numbers" if density.num_parameters else ""
    window(ax, result, f"{density.name}{size}: {density.log_p.mean():.3f} nats")


def maps(result: Result) -> Any:
    """A square grid in the plane of z, and its images in the plane of x under each deep model."""
    figure, (first, *axes) = plotting.new_figure(1 + len(result.deep), width=3.7, height=4.3)
    lines, spots = latent_lines(), np.random.default_rng(0).normal(size=(16, 2))
    grid_lines(first, lines)
    plotting.gaussian(first, np.zeros(2), np.eye(2), "the prior")
    first.plot(*spots.T, "o", color=plotting.INK, markersize=4, label="the z of the Gaussians")
    first.set(aspect="equal", ylim=(-2.7, 5.0))
    plotting.caption_axes(first, "The plane of z", ("z1 [prior sd]", "z2 [prior sd]"))
    plotting.legend(first, loc="upper left")
    for ax, deep, model in zip(axes, result.deep, make_models(result.config).values(), strict=True):
        z, places = np.float32([*lines.reshape(-1, 2), *spots]), (len(lines), -1, 2)
        means, sds = conditional(model, deep.theta, z)
        means, sds = result.plane.restore(means), sds * result.plane.sd
        plotting.scatter(ax, result.plane.train)
        grid_lines(ax, means[: -len(spots)].reshape(places), named=False)
        for mean, sd in zip(means[-len(spots) :], sds[-len(spots) :], strict=True):
            around = plotting.ellipse(mean, np.diag(sd**2), 0.5)
            ax.plot(*around.T, color=plotting.INK, linewidth=1)
        ax.plot([], [], color=plotting.INK, label=f"{len(spots)} of its Gaussians: 50%")
        window(ax, result, f"μ(z), {deep.density.name}")
        plotting.legend(ax, loc="lower left")
    return figure


def conditional(model: Any, theta: Any, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of x | z at every row of z, [n, 2]."""

    def one(z: Any) -> tuple[Any, Any]:
        x = model.likelihood(theta, z)
        return x.mean(), x.stddev()

    return jax.device_get(jax.jit(jax.vmap(one))(z))


def latent_lines(reach: float = 2.5, num: int = 21, fine: int = 121) -> np.ndarray:
    """Lines of a square grid in the z plane, [2 num, fine, 2]: first those of constant z1."""
    at, along = np.linspace(-reach, reach, num), np.linspace(-reach, reach, fine)
    upright = np.stack(np.meshgrid(at, along, indexing="ij"), axis=-1)
    return np.concatenate([upright, upright[:, :, ::-1]])


def grid_lines(ax: Any, lines: np.ndarray, named: bool = True) -> None:
    """The images of lines of constant z1, then as many of constant z2, in two colours."""
    half = len(lines) // 2
    for index, line in enumerate(lines):
        label = f"constant z{1 + index // half}" if named and index % half == 0 else None
        color = plotting.PALETTE[index // half]
        ax.plot(*line.T, color=color, linewidth=0.8, alpha=0.75, label=label)


def training(result: Result) -> Any:
    """Learning curves of the bound and of held-out log p."""
    size = {"width": 5.4 if len(result.deep) > 1 else 9, "height": 4}
    figure, axes = plotting.new_figure(len(result.deep), sharey=True, **size)
    level = {density.name: density.log_p[:WATCHED].mean() for density in result.densities}
    lowest = []
    for ax, (deep, mixture) in zip(axes, result.pairs, strict=True):
        step, *curves = deep.curve[:4]
        names = ("bound, on minibatches of the fitted points", "ELBO, held out", "log p, held out")
        for name, values, color in zip(names, curves, plotting.PALETTE, strict=False):
            ax.plot(step, values - result.plane.log_volume, color=color, label=name)
        label = f"log p, {mixture.name}"
        ax.axhline(level[mixture.name], color=plotting.INK, linestyle="--", label=label)
        if result.truth is not None:
            label = "log p, true density"
            ax.axhline(level["truth"], color=plotting.GREY, linestyle=":", label=label)
        plotting.finish(ax, deep.density.name, ("step of Adam", "nats per point"), "best")
        later = len(step) // 4  # the first quarter is not used for the axis limits
        lowest += [curves[0][later:].min(), curves[2][later:].min()]
    low = min(lowest) - result.plane.log_volume
    axes[0].set_ylim(low - 0.1, max(level.values()) + 0.1)
    return figure
