"""The figures of the mixture experiment, each as the bytes of a PNG file."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lvm_jax import em, plotting

if TYPE_CHECKING:
    from experiments.gmm_em import Result


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure that the data allow, by name, in the order of the report."""
    in_plane = result.dataset.x.shape[1] > 1
    figures = {
        "clusters": clusters(result) if in_plane else clusters_on_line(result),
        "convergence": convergence(result),
        "criteria": criteria(result),
        "samples": samples(result) if in_plane else samples_on_line(result),
        "uncertainty": uncertainty(result) if in_plane else uncertainty_on_line(result),
    }
    if is_images(result):
        figures["images"] = images(result)
    return {name: plotting.png(figure) for name, figure in figures.items()}


def view(result: "Result") -> plotting.Plane:
    """The plane to look at the data in: their two columns, or the two main principal axes."""
    if result.dataset.x.shape[1] == 2 or result.pca is not None:
        return plotting.coordinate_plane(result.dataset)
    return plotting.principal_plane(result.dataset)


def is_images(result: "Result") -> bool:
    """Whether the points are 8x8 images that the PCA can lead back to."""
    return result.original.name == "digits" and result.original.x.shape[1] == 64


def pixels(result: "Result", x: np.ndarray) -> np.ndarray:
    """Points [N, D] of the fit as images [N, 8, 8]."""
    if result.pca is not None:
        x = result.pca.inverse(x)
    return np.asarray(x).reshape(-1, 8, 8)


def clusters(result: "Result") -> Any:
    """The data, and beside them the clusters with their components' ellipses."""
    plane = view(result)
    points = plane.points(result.dataset.x)
    figure, (left, right) = plotting.new_figure(2, sharex=True, sharey=True)
    plotting.scatter(left, points)
    plotting.scatter(right, points, np.asarray(result.fit.mixture.assign(result.dataset.x)))
    plotting.ellipses(right, plane.mixture(result.fit.mixture))
    plotting.caption_axes(left, f"Data, {len(points):,} points", plane.labels)
    title = f"Fitted mixture, K = {result.config.num_components}, {result.config.covariance}"
    plotting.caption_axes(right, title, plane.labels)
    return figure


def clusters_on_line(result: "Result") -> Any:
    """The histogram of one-dimensional data with the mixture's density."""
    figure, (ax,) = plotting.new_figure(width=8)
    plotting.histogram(ax, result.dataset.x[:, 0], result.fit.mixture)
    labels = (result.dataset.axis_labels[0], "density")
    plotting.caption_axes(ax, "Data and fitted mixture, with its weighted components", labels)
    return figure


def convergence(result: "Result") -> Any:
    """The objective of the best restart, and where every restart ended."""
    info = result.fit.info
    figure, (left, right) = plotting.new_figure(2)
    plotting.trace(left, info.trace)
    room_for_rounding(left, info.trace)
    labels = ("EM step", "log-likelihood [nats per point]")
    plotting.caption_axes(left, f"Best restart, number {info.best_restart + 1}", labels)
    order = np.argsort(-info.restart_objectives)
    for outcome in np.unique(info.restart_outcomes):
        rank = np.flatnonzero(info.restart_outcomes[order] == outcome)
        name = em.Outcome(int(outcome)).name.lower().replace("_", " ")
        ends = info.restart_objectives[order][rank]
        right.plot(rank + 1, ends, "o", color=plotting.colour(int(outcome) - 1), label=name)
    plotting.whole_numbers(right)
    right.ticklabel_format(axis="y", useOffset=False)
    room_for_rounding(right, info.restart_objectives)
    right.grid(alpha=0.25)
    plotting.legend(right)
    labels = ("restart, by rank", "log-likelihood at the end [nats per point]")
    plotting.caption_axes(right, f"All {len(order)} restarts", labels)
    return figure


def room_for_rounding(ax: Any, values: np.ndarray) -> None:
    """Where all values are alike, do not blow their rounding up to the height of the figure."""
    values = values[np.isfinite(values)]
    if values.size and np.ptp(values) < 1e-4:
        ax.set_ylim(values.mean() - 0.01, values.mean() + 0.01)


def criteria(result: "Result") -> Any:
    """AIC, BIC and ICL of the mixture's own covariance type, and BIC of every type, against K."""
    own = [c for c in result.candidates if c.covariance == result.config.covariance]
    own.sort(key=lambda c: c.num_components)
    sizes = [c.num_components for c in own]
    figure, (left, right) = plotting.new_figure(2)
    values = {
        "AIC": [c.criteria.aic for c in own],
        "BIC": [c.criteria.bic for c in own],
        "ICL": [c.criteria.icl for c in own],
    }
    plotting.curves(left, sizes, values)
    labels = ("number of components K", "criterion (lower is better)")
    plotting.caption_axes(left, f"{result.config.covariance} covariances", labels)
    sound = {
        (c.covariance, c.num_components): c.criteria.bic
        for c in result.candidates
        if not c.is_collapsed and np.isfinite(c.criteria.bic)
    }
    types = dict.fromkeys(c.covariance for c in result.candidates)
    by_type = {name: [sound.get((name, k), np.nan) for k in sizes] for name in types}
    plotting.curves(right, sizes, by_type)
    frame_around(right, values["BIC"], by_type)
    mark_collapsed(right, result)
    labels = ("number of components K", "BIC (lower is better)")
    plotting.caption_axes(right, "BIC of every covariance type", labels)
    return figure


def frame_around(ax: Any, own: list[float], by_type: dict[str, list[float]]) -> None:
    """Cut the axis at what the mixture's own type reaches: the best values lie close together."""
    own = [value for value in own if np.isfinite(value)]
    if not own:
        return
    drawn = {name: [v for v in curve if np.isfinite(v)] for name, curve in by_type.items()}
    lowest = {name: min(curve) for name, curve in drawn.items() if curve}
    best, top = min(lowest.values(), default=min(own)), max(own)
    margin = 0.06 * (top - best) or 1.0
    ax.set_ylim(best - margin, top + margin)
    for line in ax.get_lines():
        if lowest.get(str(line.get_label()), best) > top + margin:
            line.set_label(f"{line.get_label()} (above the frame)")


def mark_collapsed(ax: Any, result: "Result") -> None:
    """A cross at the foot of the axis for every fit whose BIC is the artefact of a collapse."""
    foot = ax.get_xaxis_transform()
    for index, name in enumerate(dict.fromkeys(c.covariance for c in result.candidates)):
        bad = [
            c.num_components for c in result.candidates if c.is_collapsed and c.covariance == name
        ]
        if bad:
            style = {"marker": "x", "linestyle": "none", "color": plotting.colour(index)}
            ax.plot(bad, [0.03] * len(bad), transform=foot, label=f"{name}, collapsed", **style)
    plotting.legend(ax)


def samples(result: "Result") -> Any:
    """The data beside as many points drawn from the fitted mixture, on the same axes."""
    plane = view(result)
    figure, (left, right) = plotting.new_figure(2, sharex=True, sharey=True)
    assigned = np.asarray(result.fit.mixture.assign(result.dataset.x))
    plotting.scatter(left, plane.points(result.dataset.x), assigned)
    plotting.scatter(right, plane.points(result.samples), result.samples_z)
    count = f"{len(result.samples):,} points"
    plotting.caption_axes(left, f"Data, {count}, by their cluster", plane.labels)
    title = f"Samples, {count}, by the component drawn from"
    plotting.caption_axes(right, title, plane.labels)
    return figure


def samples_on_line(result: "Result") -> Any:
    """The histogram of the data above that of as many samples, on the same axes."""
    figure, axes = plotting.new_figure(1, 2, width=8, height=3, sharex=True, sharey=True)
    pairs = (("Data", result.dataset.x), ("Samples from the fitted mixture", result.samples))
    for ax, (title, x) in zip(axes, pairs, strict=True):
        plotting.histogram(ax, x[:, 0], result.fit.mixture)
        plotting.caption_axes(ax, title, (result.dataset.axis_labels[0], "density"))
    return figure


def uncertainty(result: "Result") -> Any:
    """Density contours of the mixture, and the entropy of its assignment."""
    plane = view(result)
    mixture, points = plane.mixture(result.fit.mixture), plane.points(result.dataset.x)
    figure, (left, right) = plotting.new_figure(2, sharex=True, sharey=True)
    plotting.scatter(left, points)
    margin = 0.15 * np.ptp(points, axis=0)  # room for the contours
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    left.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    plotting.density(jax.random.key(result.config.seed), left, mixture)
    if result.dataset.x.shape[1] == 2:
        shown = plotting.entropy_map(right, mixture)
        right.scatter(*points.T, s=2, color=plotting.GREY, linewidths=0)
    else:
        entropy = point_entropy(result)
        shown = plotting.entropy_points(right, points, entropy, len(mixture.weights))
    bar = figure.colorbar(shown, ax=right)
    bar.set_label("entropy of p(z | x) [nats]", fontsize=9.5)
    plotting.caption_axes(left, "Density of the mixture", plane.labels)
    plotting.caption_axes(right, "Where the component is uncertain", plane.labels)
    return figure


def uncertainty_on_line(result: "Result") -> Any:
    """The entropy of the assignment along the line."""
    figure, (ax,) = plotting.new_figure(width=8, height=3)
    x = np.linspace(result.dataset.x.min(), result.dataset.x.max(), 400)[:, None]
    entropy = plotting.assignment_entropy(result.fit.mixture.responsibilities(x))
    ax.plot(x, entropy, color=plotting.PALETTE[0])
    labels = (result.dataset.axis_labels[0], "entropy of p(z | x) [nats]")
    plotting.caption_axes(ax, "Where the component is uncertain", labels)
    return figure


def point_entropy(result: "Result") -> np.ndarray:
    """The assignment entropy of every data point, in nats."""
    return plotting.assignment_entropy(result.fit.mixture.responsibilities(result.dataset.x))


def majority(result: "Result") -> list[str]:
    """Of each component: the class most of its points have, and how many of them."""
    assigned = np.asarray(result.fit.mixture.assign(result.dataset.x))
    said = []
    for k in range(len(result.fit.mixture.weights)):
        counts = np.bincount(result.dataset.labels[assigned == k], minlength=1)
        said.append(f"{counts.argmax()} ({counts.max() / max(counts.sum(), 1):.0%})")
    return said


def images(result: "Result") -> Any:
    """Component means, real digits, the same through the PCA, and samples, as rows of images."""
    mixture, x = result.fit.mixture, result.dataset.x
    columns = min(len(mixture.weights), 12)
    chosen = np.linspace(0, len(x) - 1, columns).astype(int)
    rows = {"component\nmean": pixels(result, np.asarray(mixture.means)[:columns])}
    rows["real digit"] = result.original.x[chosen].reshape(-1, 8, 8)
    if result.pca is not None:
        rows[f"the same,\n{result.config.pca_dim} components"] = pixels(result, x[chosen])
    rows["sample"] = pixels(result, result.samples[:columns])
    figure, axes = plotting.new_figure(columns, len(rows), width=1.0, height=1.15)
    for row, (name, pictures) in enumerate(rows.items()):
        for column, picture in enumerate(pictures):
            plotting.image(axes[row * columns + column], picture, 0, 16)
        axes[row * columns].set_ylabel(name, fontsize=8.5, rotation=0, ha="right", va="center")
    for k, said in enumerate(majority(result)[:columns]):
        axes[k].set_title(f"class\n{said}", fontsize=8)
    return figure
