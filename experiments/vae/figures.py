"""The figures of the VAE experiment."""

from typing import Any

import numpy as np

from experiments.vae.measure import Result
from lvm_jax import plotting

SHOWN = 8  # marginals of the aggregate posterior


def training(result: Result) -> Any:
    """The bound after every epoch, for training and validation images."""
    fit, name = result.fit, result.config.bound.upper()
    return plotting.learning_curve(
        fit.history, name=name, best_step=fit.best_step, unit="nats per image"
    )


def sheet(ax: Any, result: Result, pixels: np.ndarray, columns: int, title: str) -> None:
    """Images [M, D], white at 0 and black at the largest pixel value."""
    high, shape = result.prepared.pixels.high, result.prepared.architecture.shape
    plotting.tiles(ax, pixels.reshape(-1, *shape), columns, high)
    plotting.caption_axes(ax, title, ("", ""))


def reconstructions(result: Result) -> Any:
    """Test images, and the means of p(x | z) for draws of q(z | x)."""
    made = result.pictures.reconstructions
    figure, (left, right) = plotting.new_figure(2, 1, width=4.8, height=1.3)
    sheet(left, result, result.test[: len(made)], 10, "Test images")
    sheet(right, result, made, 10, "Their reconstructions")
    return figure


def samples(result: Result) -> Any:
    """Test images, and images for z drawn from the prior."""
    draws, means = result.pictures.draws, result.pictures.means
    figure, axes = plotting.new_figure(3, 1, width=3.5, height=3.7)
    sheet(axes[0], result, result.test[-len(draws) :], 8, "Test images")
    sheet(axes[1], result, draws, 8, "x drawn from the model")
    sheet(axes[2], result, means, 8, "Means of p(x | z), same z")
    return figure


def frame(ax: Any, low: np.ndarray, high: np.ndarray, title: str) -> None:
    """A window of the plane with a margin."""
    margin = 0.05 * (high - low)
    (left, bottom), (right, top) = low - margin, high + margin
    ax.set(xlim=(left, right), ylim=(bottom, top))
    plotting.caption_axes(ax, title, ("z1", "z2"))


def latent(result: Result) -> Any:
    """The plane of z if z is one layer of two dimensions, else traversals."""
    return traversals(result) if result.pictures.plane is None else plane(result)


def plane(result: Result) -> Any:
    """The posterior means of test images in the plane of z, and images for its points."""
    pictures, (low, high) = result.pictures, result.pictures.window
    figure, (left, right) = plotting.new_figure(2, 1, width=5.2, height=5.1)
    plotting.classes(left, pictures.codes, result.points.get("label"))
    frame(left, low, high, "Posterior means of test images")
    title, side = "Means of p(x | z) over the same window", round(len(pictures.plane) ** 0.5)
    sheet(right, result, pictures.plane, side, title)
    right.set(xlabel="z1", ylabel="z2")
    return figure


def traversals(result: Result) -> Any:
    """Images for one varying unit of z_1 in each row."""
    pictures = result.pictures
    units, steps = pictures.traversals.shape[:2]
    figure, (ax,) = plotting.new_figure(1, 1, width=6.8, height=0.3 + 0.59 * units)
    high, shape = result.prepared.pixels.high, result.prepared.architecture.shape
    names = [result.names[unit] for unit in pictures.moved]
    plotting.named_tiles(ax, pictures.traversals.reshape(units, steps, *shape), names, high)
    title = "One z over the middle 99% of its aggregate posterior"
    plotting.caption_axes(ax, title, ("", ""))
    return figure


def aggregate(result: Result) -> Any:
    """The aggregate posterior and the prior, in the plane or as marginals."""
    pictures = result.pictures
    if pictures.plane is not None:
        return aggregate_plane(result)
    units = np.argsort(-result.variances)[:SHOWN]
    columns = min(len(units), 4)
    figure, axes = plotting.new_figure(columns, -(-len(units) // columns), width=2.7, height=2.2)
    for place, ax in enumerate(axes):
        if place >= len(units):
            ax.set_visible(False)
            continue
        marginal(ax, result, int(units[place]))
        label = "density" if place % columns == 0 else ""
        plotting.caption_axes(ax, "", (result.names[units[place]], label))
    axes[0].set_ylim(0, 1.45 * axes[0].get_ylim()[1])
    plotting.legend(axes[0], loc="upper left")
    return figure


def marginal(ax: Any, result: Result, unit: int) -> None:
    """One unit of z: the aggregate posterior as bars, the prior as a line."""
    posterior, prior = result.pictures.aggregate[:, unit], result.pictures.prior[:, unit]
    edges = np.linspace(*np.quantile(np.concatenate([posterior, prior]), [0.001, 0.999]), 36)
    style = {"color": plotting.colour(0), "alpha": 0.55, "label": "aggregate posterior"}
    ax.hist(posterior, edges, density=True, **style)
    heights, _ = np.histogram(prior, edges, density=True)
    ax.stairs(heights, edges, color=plotting.INK, lw=1.2, label="prior")


def aggregate_plane(result: Result) -> Any:
    """Draws of both in the same window."""
    drawn, prior = result.pictures.aggregate, result.pictures.prior
    figure, axes = plotting.new_figure(2, 1, width=4.6, height=4.4, sharex=True, sharey=True)
    low, high = np.quantile(np.concatenate([drawn, prior]), [0.001, 0.999], axis=0)
    plotting.classes(axes[0], drawn, result.points.get("label"))
    plotting.scatter(axes[1], prior[: len(drawn)])
    frame(axes[0], low, high, "Aggregate posterior: a draw for each test image")
    frame(axes[1], low, high, f"Prior: {len(drawn):,} draws")
    return figure
