"""The figures of the `vae` experiment, each as the bytes of a PNG file."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax import plotting

if TYPE_CHECKING:
    from experiments.vae import Result

SHOWN = 8  # marginals of the aggregate posterior
GAP = "#dbe3ec"  # between images


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {
        "training": training(result),
        "reconstructions": reconstructions(result),
        "samples": samples(result),
        "latent": plane(result) if result.pictures.plane is not None else traversals(result),
        "aggregate": aggregate(result),
    }
    return {name: plotting.png(figure) for name, figure in figures.items()}


def tiles(pixels: np.ndarray, shape: tuple[int, int], columns: int) -> np.ndarray:
    """Images [M, D] as one picture, `columns` in a row, a pixel of NaN between them."""
    rows = -(-len(pixels) // columns)
    height, width = shape[0] + 1, shape[1] + 1
    sheet = np.full((rows * height - 1, columns * width - 1), np.nan)
    for index, image in enumerate(np.asarray(pixels, float).reshape(-1, *shape)):
        top, left = (index // columns) * height, (index % columns) * width
        sheet[top : top + shape[0], left : left + shape[1]] = image
    return sheet


def sheet(ax: Any, result: "Result", pixels: np.ndarray, columns: int, title: str) -> None:
    """Tiles without ticks, white at 0, black at the largest value that a pixel can have."""
    high, shape = result.pixels.high, result.description.shape
    plotting.image(ax, tiles(np.clip(pixels, 0, high), shape, columns), 0, high)
    ax.set_facecolor(GAP)
    ax.set_title(title, loc="left", fontsize=10.5, color=plotting.INK)


def training(result: "Result") -> Any:
    """The bound of every epoch, on the images that are fitted and on the validation."""
    figure, (ax,) = plotting.new_figure(1, 1, width=8.5, height=4)
    history, fit = result.fit.history, result.fit
    epochs = 1 + np.arange(len(history.step))
    bound, curves = result.config.bound.upper(), {}
    curves[f"{bound}, images that are fitted"] = (history.bound, plotting.colour(0), "-")
    curves[f"{bound}, validation"] = (history.validation_bound, plotting.colour(1), "-")
    if not np.allclose(history.objective, history.bound, rtol=1e-6):
        curves["what was climbed"] = (history.objective, plotting.colour(2), "--")
    for label, (values, color, style) in curves.items():
        seen = np.isfinite(values)
        marker = "o" if seen.sum() <= 40 else None
        ax.plot(
            epochs[seen], values[seen], style, color=color, lw=1.5, label=label, marker=marker,
            markersize=3.5,
        )  # fmt: skip
    if fit.best_step is not None:
        best = int(np.searchsorted(history.step, fit.best_step))
        value = history.validation_bound[best]
        ax.plot(epochs[best], value, "o", ms=8, fillstyle="none", color=plotting.INK)
        ax.plot([], [], "o", ms=8, fillstyle="none", color=plotting.INK, label="the model kept")
    every = np.concatenate([values[np.isfinite(values)] for values, _, _ in curves.values()])
    settled = np.concatenate([v[len(v) // 20 :] for v, _, _ in curves.values()])
    low, high = np.nanmin(settled), every.max()  # the first epochs would flatten the rest
    ax.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    ax.grid(alpha=0.25)
    plotting.whole_numbers(ax)
    plotting.caption_axes(ax, "", ("epoch", "nats per image"))
    plotting.legend(ax, loc="lower right")
    return figure


def reconstructions(result: "Result") -> Any:
    """Test images, and the mean of p(x | z) at a draw of their posterior."""
    pictures = result.pictures
    figure, (left, right) = plotting.new_figure(2, 1, width=4.8, height=1.3)
    columns = min(10, len(pictures.originals))
    sheet(left, result, pictures.originals, columns, "Test images")
    sheet(right, result, pictures.reconstructions, columns, "Their reconstructions")
    return figure


def samples(result: "Result") -> Any:
    """Test images beside images of z drawn from the prior."""
    pictures = result.pictures
    figure, axes = plotting.new_figure(3, 1, width=3.5, height=3.7)
    shown = {
        "Test images": pictures.data,
        "x drawn from the model": pictures.draws,
        "Means of p(x | z), same z": pictures.means,
    }
    for ax, (title, pixels) in zip(axes, shown.items(), strict=True):
        sheet(ax, result, pixels, 8, title)
    return figure


def scatter(ax: Any, points: np.ndarray, labels: np.ndarray | None) -> None:
    """Points of the plane in the colours of their classes, each class with its name at its median."""
    plotting.scatter(ax, points, labels)
    if labels is None:
        return
    for label in np.unique(labels):
        at = np.median(points[labels == label], axis=0)
        ax.annotate(
            str(label), at, ha="center", va="center", fontsize=10.5, weight="bold",
            color=plotting.colour(int(label)), bbox=plotting.LABEL_BOX | {"alpha": 0.85},
        )  # fmt: skip


def plane(result: "Result") -> Any:
    """Where test images lie in the plane of z, and what the plane decodes to."""
    pictures = result.pictures
    figure, (left, right) = plotting.new_figure(2, 1, width=5.2, height=5.1)
    scatter(left, pictures.codes, pictures.labels)
    low, high = pictures.window
    margin = 0.06 * (high - low)
    for axis, name in ((0, "x"), (1, "y")):
        left.set(**{f"{name}lim": (low[axis] - margin[axis], high[axis] + margin[axis])})
    plotting.caption_axes(left, "Posterior means of test images", ("z1", "z2"))
    side = round(len(pictures.plane) ** 0.5)
    height, width = result.description.shape
    high_value = result.pixels.high
    pixels = tiles(np.clip(pictures.plane, 0, high_value), (height, width), side)
    right.set_facecolor(GAP)
    extent = (low[0], high[0], low[1], high[1])
    right.imshow(pixels, cmap="Greys", vmin=0, vmax=high_value, extent=extent, aspect="auto")
    plotting.caption_axes(right, "Means of p(x | z) over the same window", ("z1", "z2"))
    return figure


def traversals(result: "Result") -> Any:
    """One number of z_1 moves at a time, the others stay where one image put them."""
    pictures = result.pictures
    units, steps = pictures.traversals.shape[:2]
    figure, (ax,) = plotting.new_figure(1, 1, width=6.8, height=0.3 + 0.59 * units)
    flat = pictures.traversals.reshape(units * steps, -1)
    sheet(ax, result, flat, steps, "One z moves through the middle 99% of its aggregate posterior")
    height = result.description.shape[0] + 1
    ax.set_yticks([(i + 0.5) * height - 1 for i in range(units)])
    ax.set_yticklabels([pictures.names[unit] for unit in pictures.moved], fontsize=9)
    ax.tick_params(length=0)
    return figure


def aggregate(result: "Result") -> Any:
    """The aggregate posterior beside the prior: in the plane, or marginal by marginal."""
    pictures = result.pictures
    if pictures.plane is not None:
        return aggregate_plane(result)
    units = pictures.units[:SHOWN]
    columns = min(len(units), 4)
    rows = -(-len(units) // columns)
    figure, axes = plotting.new_figure(columns, rows, width=2.7, height=2.2)
    for place, ax in enumerate(axes):
        if place >= len(units):
            ax.set_visible(False)
            continue
        marginal(ax, result, int(units[place]), first=place == 0)
        label = "density" if place % columns == 0 else ""
        plotting.caption_axes(ax, "", (pictures.names[units[place]], label))
    return figure


def marginal(ax: Any, result: "Result", unit: int, first: bool) -> None:
    """One number of z: the aggregate posterior as bars, the prior as a line."""
    posterior, prior = result.pictures.aggregate[:, unit], result.pictures.prior[:, unit]
    low, high = np.quantile(np.concatenate([posterior, prior]), [0.001, 0.999])
    edges = np.linspace(low, high, 36)
    ax.hist(
        posterior, edges, density=True, color=plotting.colour(0), alpha=0.55,
        label="aggregate posterior",
    )  # fmt: skip
    heights, _ = np.histogram(prior, edges, density=True)
    ax.stairs(heights, edges, color=plotting.INK, lw=1.2, label="prior")
    if first:
        ax.set_ylim(0, 1.45 * ax.get_ylim()[1])
        plotting.legend(ax, loc="upper left")


def aggregate_plane(result: "Result") -> Any:
    """Draws of both in the same window of the plane."""
    pictures = result.pictures
    figure, axes = plotting.new_figure(2, 1, width=4.6, height=4.4, sharex=True, sharey=True)
    both = np.concatenate([pictures.aggregate, pictures.prior])
    low, high = np.quantile(both, [0.001, 0.999], axis=0)
    margin = 0.05 * (high - low)
    scatter(axes[0], pictures.aggregate, pictures.labels)
    prior = pictures.prior[: len(pictures.aggregate)]
    plotting.scatter(axes[1], prior)
    axes[0].set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
    )
    plotting.caption_axes(axes[0], "Aggregate posterior: a draw for each test image", ("z1", "z2"))
    plotting.caption_axes(axes[1], f"Prior: {len(prior):,} draws", ("z1", "z2"))
    return figure
