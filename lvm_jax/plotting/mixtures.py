"""Mixtures and their data: points, ellipses, densities, entropies, and all of it in one call.

Every ellipse and contour states the probability that it holds. An ellipse at Mahalanobis radius r
holds 1 - exp(-r^2 / 2) of a two-dimensional Gaussian, so one that holds p has r^2 = -2 ln(1 - p):
the familiar "two standard deviations" hold 86%, not 95%.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lvm_jax import em
from lvm_jax._core import checks
from lvm_jax.plotting.figures import (
    GREY,
    INK,
    LABEL_BOX,
    LEVELS,
    STYLES,
    axis_or_new,
    caption_axes,
    colour,
    legend,
)
from lvm_jax.plotting.planes import Projection, column_names, find_plane
from lvm_jax.typing import ArrayLike, Float, Int, PRNGKeyArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def mixture(
    fitted: em.Mixture,
    x: ArrayLike,
    *,
    projection: Projection | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Data and the Gaussian mixture that was fitted to them; returns the figure.

    One dimension: a histogram with the density and its weighted components. Two: each point in the
    colour of its most probable component, and ellipses that hold 50% and 90% of each component.
    More: the same in the plane of `projection`, "principal" (the two main principal axes), two
    columns such as (0, 3), or a `Plane`; the components there are the exact marginals.

        plotting.mixture(em.fit(key, x, 3).mixture, x)

    x: [N, D]. names: of the D columns, with units, as `Dataset.axis_labels` has them; x1 to xD
    unless given. ax: the axis to draw on; None makes a figure.

    Raises ValueError for an x of another dimension than the mixture, names that are not D, and
    D > 2 without a `projection`; TypeError for a mixture that is not of Gaussians.
    """
    x = np.asarray(checks.points(x, "x"))
    dim = fitted.origin.shape[-1]
    if x.shape[1] != dim:
        raise ValueError(f"x: expected {dim} columns, as the mixture has, got {x.shape[1]}")
    if dim == 1:
        (label,) = column_names(names, 1)
        figure, ax = axis_or_new(ax, width=6.4, height=3.8)
        histogram(ax, x[:, 0], fitted)
        caption_axes(ax, "", (label, "density"))
        return figure
    plane = find_plane(x, projection, column_names(names, dim))
    shown = plane.mixture(fitted)
    figure, ax = axis_or_new(ax, width=6.4, height=5.0)
    scatter(ax, plane.points(x), np.asarray(fitted.assign(x)))
    ellipses(ax, shown)
    caption_axes(ax, "", plane.labels)
    return figure


def confidence_radius(probability: float) -> float:
    """Mahalanobis radius of the ellipse that holds this probability of a 2-D Gaussian."""
    if not 0 < probability < 1:
        raise ValueError(f"probability: expected a number between 0 and 1, got {probability}")
    return float(np.sqrt(-2 * np.log1p(-probability)))


def ellipse(
    mean: Float[np.ndarray, " 2"],
    covariance: Float[np.ndarray, "2 2"],
    probability: float,
    num_points: int = 121,
) -> Float[np.ndarray, "num_points 2"]:
    """The closed curve mu + r L (cos t, sin t), L L^T = Sigma, that holds the probability."""
    angle = np.linspace(0.0, 2 * np.pi, num_points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return mean + confidence_radius(probability) * circle @ np.linalg.cholesky(covariance).T


def gaussian(
    ax: Axes,
    mean: Float[np.ndarray, " 2"],
    covariance: Float[np.ndarray, "2 2"],
    label: str,
    levels: Sequence[float] = LEVELS,
) -> None:
    """A Gaussian in the plane as the ellipses that hold `levels` of it; `label` is its name."""
    for level, style in zip(levels, itertools.cycle(STYLES), strict=False):
        curve, name = ellipse(mean, covariance, level), f"{label}, holds {level:.0%}"
        ax.plot(*curve.T, style, color=INK, linewidth=1.7, label=name, zorder=3)


def density_level(log_density: Float[np.ndarray, " S"], probability: float) -> float:
    """The log-density above which this probability lies, from log p(x_s) of samples x_s ~ p."""
    return float(np.quantile(log_density, 1 - probability))


def scatter(
    ax: Axes, points: Float[np.ndarray, "N 2"], component: Int[np.ndarray, " N"] | None = None
) -> None:
    """Points, coloured by their component if that is given."""
    check_plane(points)
    size = float(np.clip(4000 / len(points), 4, 16))
    colours = GREY if component is None else [colour(int(k)) for k in component]
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colours, alpha=0.65, linewidths=0)


def classes(ax: Axes, points: Float[np.ndarray, "N 2"], labels: np.ndarray | None) -> None:
    """Points, each class in its colour with its name at its median; plain ones without labels.

    A whole number n has colour(n) in every figure; other labels have colours in their order.
    """
    if labels is None:
        scatter(ax, points)
        return
    names, place = np.unique(labels, return_inverse=True)
    shades = names.astype(int) if names.dtype.kind in "iu" else np.arange(len(names))
    scatter(ax, points, shades[place])
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10.5, "weight": "bold"}
    for index, name in enumerate(names):
        at, own = np.median(points[place == index], axis=0), colour(int(shades[index]))
        ax.annotate(str(name), at, color=own, bbox=LABEL_BOX | {"alpha": 0.85}, **style)


def check_mixture(mixture: em.Mixture, dim: int) -> None:
    """Refuse a mixture of more or fewer dimensions than the axis shows."""
    own = mixture.origin.shape[-1]
    if own != dim:
        cure = "plotting.histogram draws one dimension"
        if own > 2:
            cure = (
                "project it with Plane.mixture, as principal_plane(dataset).mixture(mixture), or "
                "call plotting.mixture with a projection"
            )
        elif own == 2:
            cure = "plotting.ellipses and plotting.density draw two"
        raise ValueError(f"mixture: expected dimension {dim}, got {own}; {cure}")


def check_plane(points: ArrayLike) -> None:
    """Refuse points that do not lie in a plane."""
    if np.ndim(points) != 2 or np.shape(points)[1] != 2:
        raise ValueError(
            f"points: expected shape [N, 2], got {list(np.shape(points))}; take two columns, or "
            "project them with Plane.points, as of principal_plane(dataset)"
        )


def ellipses(ax: Axes, mixture: em.Mixture, levels: Sequence[float] = LEVELS) -> None:
    """The components of a 2-D mixture as ellipses that hold `levels` of each, numbered from 1."""
    check_mixture(mixture, 2)
    means, covariances = np.asarray(mixture.means), np.asarray(mixture.covariances)
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        for style, level in zip(itertools.cycle(STYLES), levels, strict=False):
            curve = ellipse(mean, covariance, level)
            ax.plot(curve[:, 0], curve[:, 1], style, color=colour(k), linewidth=1.6)
        ax.plot(*mean, marker="+", color=INK, markersize=9, markeredgewidth=1.6)
        number = ax.annotate(str(k + 1), mean, (5, 4), textcoords="offset points", fontsize=10.5)
        number.set(color=INK, weight="bold", bbox=LABEL_BOX)
    for style, level in zip(itertools.cycle(STYLES), levels, strict=False):
        label = f"holds {level:.0%} of its component"
        ax.plot([], [], style, color=GREY, linewidth=1.6, label=label)
    legend(ax)


def grid(ax: Axes, num: int = 160) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The axis' present window as a grid: x [num, num], y [num, num] and points [num^2, 2]."""
    x, y = np.meshgrid(np.linspace(*ax.get_xlim(), num), np.linspace(*ax.get_ylim(), num))
    return x, y, np.stack([x.ravel(), y.ravel()], axis=1)


def density(
    key: PRNGKeyArray, ax: Axes, mixture: em.Mixture, levels: Sequence[float] = (0.5, 0.9, 0.99)
) -> None:
    """Contours of a 2-D mixture's density, around its highest-density regions of mass `levels`.

    Each is a quantile of log p over 20,000 samples: the mass has a standard error below 0.4%.
    """
    checks.key(key)
    check_mixture(mixture, 2)
    x, y, points = grid(ax)
    samples, _ = mixture.sample(key, 20_000)
    own = np.asarray(mixture.log_prob(samples))
    heights = [density_level(own, level) for level in sorted(levels, reverse=True)]
    field = np.asarray(mixture.log_prob(points)).reshape(x.shape)
    styles = STYLES[: len(levels)]
    ax.contour(x, y, field, levels=heights, colors=INK, linewidths=1.2, linestyles=styles[::-1])
    for style, level in zip(styles, sorted(levels), strict=True):
        ax.plot([], [], style, color=INK, linewidth=1.2, label=f"holds {level:.0%} of the density")
    legend(ax)


def assignment_entropy(responsibilities: ArrayLike) -> Float[np.ndarray, " N"]:
    """Entropy of p(z | x) in nats: 0 where the component is certain, ln K where all are equal."""
    r = np.asarray(responsibilities)
    return -np.sum(r * np.log(np.where(r > 0, r, 1.0)), axis=1)


def entropy_map(ax: Axes, mixture: em.Mixture) -> Any:
    """The assignment entropy over the window of the axis, from 0 to ln K nats, for a colour bar."""
    check_mixture(mixture, 2)
    x, y, points = grid(ax)
    field = assignment_entropy(mixture.responsibilities(points)).reshape(x.shape)
    scale = {"vmin": 0.0, "vmax": np.log(max(len(mixture.weights), 2))}
    return ax.pcolormesh(x, y, field, cmap="Purples", shading="gouraud", **scale)


def entropy_points(
    ax: Axes, points: Float[np.ndarray, "N 2"], entropy: Float[np.ndarray, " N"], components: int
) -> Any:
    """Points from grey to purple and larger by their assignment entropy, the uncertain on top."""
    from matplotlib.colors import LinearSegmentedColormap

    check_plane(points)
    most = np.log(max(components, 2))
    order = np.argsort(entropy)
    shades = LinearSegmentedColormap.from_list("entropy", ["#d5d8dc", "#8a63b8", "#3f007d"])
    (x, y), shade = points[order].T, entropy[order]
    size = 7 + 30 * shade / most
    return ax.scatter(x, y, size, shade, cmap=shades, vmin=0.0, vmax=most, linewidths=0)


def histogram(ax: Axes, x: Float[np.ndarray, " N"], mixture: em.Mixture) -> None:
    """One-dimensional data as a normalised histogram, with the mixture and its weighted parts."""
    check_mixture(mixture, 1)
    ax.hist(x, bins="fd", density=True, color=GREY, alpha=0.45)
    points = np.linspace(*ax.get_xlim(), 400)[:, None]
    total = np.exp(np.asarray(mixture.log_prob(points)))
    parts = np.asarray(mixture.responsibilities(points)) * total[:, None]
    for k, part in enumerate(parts.T):
        style = STYLES[1 + k % 3]
        ax.plot(points, part, style, color=colour(k), linewidth=1.6, label=f"component {k + 1}")
    ax.plot(points, total, color=INK, linewidth=3.5, alpha=0.35, label="mixture", zorder=1.5)
    legend(ax)
