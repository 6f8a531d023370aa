"""Figures and their axes: a palette, captions, scales, legends, traces, images.

matplotlib is imported inside, through its Figure objects: no global state, no display needed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lvm_jax._core import extras
from lvm_jax.typing import ArrayLike, Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (0.5, 0.9)
STYLES = ("-", "--", "-.", ":")
INK, GREY = "#22272e", "#8a9099"
LABEL_BOX = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
# Okabe and Ito's palette, which survives the common colour blindnesses, and then more hues
PALETTE: tuple[str, ...] = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5A2F", "#6A51A3"),
    *("#B2182B", "#4D9221", "#35978F", "#C51B7D", "#1B4F72", "#8C510A", "#A6761D", "#666666"),
)


def colour(component: int) -> str:
    """The colour of a component, the same in every figure."""
    return PALETTE[component % len(PALETTE)]


def new_figure(
    columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 4.2, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with a flat array of `rows` x `columns` axes, each `width` x `height` inches."""
    with extras.needed("report"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False, **kwargs)).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=INK, labelsize=9)
    return figure, axes


def axis_or_new(ax: Axes | None, **size: float) -> tuple[Any, Axes]:
    """The axis that is given with its figure, or a new figure of this size with one axis."""
    if ax is not None:
        return ax.figure, ax
    figure, (ax,) = new_figure(**size)  # type: ignore[arg-type]
    return figure, ax


def png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def caption_axes(ax: Axes, title: str, labels: Sequence[str]) -> None:
    """Title on the left, and names with units on both axes, shown as written: "$" is no maths.

    Panels that share y have its name on the first of each row.
    """
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, parse_math=False)
    ax.set_xlabel(labels[0], fontsize=9.5, parse_math=False)
    place, sharing = ax.get_subplotspec(), ax.get_shared_y_axes().get_siblings(ax)
    is_inner = len(sharing) > 1 and place is not None and not place.is_first_col()
    ax.set_ylabel("" if is_inner else labels[1], fontsize=9.5, parse_math=False)


def finish(ax: Axes, title: str, labels: Sequence[str], place: str = "", **properties: Any) -> None:
    """Captions and a grid, properties as xscale="log", and a legend where a place is given."""
    ax.set(**properties)
    ax.grid(alpha=0.25)
    caption_axes(ax, title, labels)
    if place:
        legend(ax, loc=place)


def legend(ax: Axes, **kwargs: Any) -> None:
    """A legend in small type, its labels shown as written."""
    for text in ax.legend(fontsize=8.5, framealpha=0.85, edgecolor="none", **kwargs).get_texts():
        text.set_parse_math(False)


def legend_below(figure: Figure, ax: Axes, columns: int) -> None:
    """One legend for all axes, below them, of the curves of one."""
    entries = ax.get_legend_handles_labels()
    style: dict[str, Any] = {"ncols": columns, "fontsize": 9, "frameon": False}
    figure.legend(*entries, loc="outside lower center", **style)


def log_ticks(ax: Axes, ticks: Sequence[float] | np.ndarray, axis: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis that has these ticks only, as plain numbers."""
    from matplotlib.ticker import NullLocator

    ax.set(**{f"{axis}scale": "log"})
    of_axis = {"x": ax.xaxis, "y": ax.yaxis}[axis]
    of_axis.set_ticks(ticks, labels=[f"{tick:,g}" for tick in ticks])
    of_axis.set_minor_locator(NullLocator())


def signed_log(
    ax: Axes, low: float, high: float, axis: Literal["x", "y"] = "x", linear: float = 0.1
) -> None:
    """An axis from low to high: linear within `linear` of 0, logarithmic beyond.

    Its ticks are 0 and the powers of ten, of both signs, from `linear` on.
    """
    scale = {"x": ax.set_xscale, "y": ax.set_yscale}[axis]
    scale("symlog", linthresh=linear, linscale=0.7)
    ax.set(**{f"{axis}lim": (low, high)})
    powers = linear * 10.0 ** np.arange(8)
    ticks = [tick for tick in (*-powers[::-1], 0.0, *powers) if low <= tick <= high]
    of_axis = {"x": ax.xaxis, "y": ax.yaxis}[axis]
    of_axis.set_ticks(ticks, labels=[f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])


def whole_numbers(ax: Axes) -> None:
    """Ticks at integers only on the x axis, also where there is but one value."""
    from matplotlib.ticker import MaxNLocator

    low, high = ax.get_xlim()
    if high - low < 1:
        ax.set_xlim(low - 0.5, high + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def trace(ax: Axes, values: ArrayLike, label: str = "") -> None:
    """An objective against the iteration it was measured at, from 1."""
    values = np.asarray(values)
    marker = "o" if len(values) <= 60 else None
    steps = np.arange(1, len(values) + 1)
    ax.plot(steps, values, color=PALETTE[0], marker=marker, markersize=3, label=label)
    whole_numbers(ax)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(alpha=0.25)


def curves(ax: Axes, x: Sequence[float], values: Mapping[str, Sequence[float]]) -> None:
    """Named curves over the same x, the minimum of each ringed; one of NaN alone is left out."""
    for index, (name, y) in enumerate(values.items()):
        if np.isnan(y).all():
            continue
        style = STYLES[index % len(STYLES)]
        ax.plot(x, y, style, color=colour(index), marker="o", markersize=4, label=name)
        best = int(np.nanargmin(y))
        ax.plot(x[best], y[best], "o", markersize=11, fillstyle="none", color=colour(index))
    whole_numbers(ax)
    ax.grid(alpha=0.25)
    legend(ax)


def image(ax: Axes, pixels: Float[np.ndarray, "H W"], low: float, high: float) -> None:
    """One grey image, dark on light, without ticks."""
    ax.imshow(pixels, cmap="Greys", vmin=low, vmax=high, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def tiles(
    ax: Axes, pixels: Float[np.ndarray, "M H W"], columns: int, high: float, gap: str = "#dbe3ec"
) -> None:
    """M grey images, `columns` in a row, dark on light: white at 0 and black at `high`.

    A line of one pixel in the colour `gap` is between them, and where the last row ends early.
    """
    count, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for index, one in enumerate(np.clip(pixels, 0, high)):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = one
    image(ax, sheet, 0, high)
    ax.set_facecolor(gap)


def named_tiles(
    ax: Axes, pixels: Float[np.ndarray, "R C H W"], names: Sequence[str], high: float
) -> None:
    """R rows of C grey images with a name beside each row; white at 0 and black at `high`."""
    rows, columns, height, width = pixels.shape
    tiles(ax, pixels.reshape(-1, height, width), columns, high)
    middles = [row * (height + 1) + (height - 1) / 2 for row in range(rows)]
    ax.set_yticks(middles, names, fontsize=9, parse_math=False)
    ax.tick_params(length=0)
