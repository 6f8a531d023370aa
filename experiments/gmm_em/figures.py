"""The figures of the mixture experiment; one-dimensional data have histograms."""

from typing import Any

import jax
import numpy as np

from experiments.gmm_em import refits as refitted
from experiments.gmm_em.measure import Result
from lvm_jax import em, plotting


def view(result: Result) -> plotting.Plane:
    """The plane of the figures: the two columns of the data, or two principal axes."""
    if result.dataset.x.shape[1] == 2 or result.pca is not None:
        return plotting.coordinate_plane(result.shown)
    return plotting.principal_plane(result.shown)


def panels(result: Result, shown: list[tuple[str, np.ndarray, Any]]) -> tuple[Any, np.ndarray]:
    """Panels of (title, points, components); histograms with the density in one dimension."""
    on_line = result.dataset.x.shape[1] == 1
    plane = None if on_line else view(result)
    size = {"width": 8, "height": 4.2 if len(shown) == 1 else 3} if on_line else {}
    shape = (1, len(shown)) if on_line else (len(shown), 1)
    figure, axes = plotting.new_figure(*shape, sharex=True, sharey=True, **size)
    for ax, (title, x, component) in zip(axes, shown, strict=True):
        if on_line:
            plotting.histogram(ax, x[:, 0], result.fit.mixture)
            plotting.caption_axes(ax, title, (result.dataset.axis_labels[0], "density"))
        else:
            plotting.scatter(ax, plane.points(x), component)
            plotting.caption_axes(ax, title, plane.labels)
    return figure, axes


def clusters(result: Result) -> Any:
    """The data, and the clusters with the ellipses of their components."""
    x, mixture, config = result.shown.x, result.fit.mixture, result.config
    title = f"Fitted mixture, K = {config.num_components}, {config.covariance}"
    fitted = (title, x, np.asarray(mixture.assign(result.dataset.x)))
    if x.shape[1] == 1:
        return panels(result, [fitted])[0]
    figure, axes = panels(result, [(f"Data, {len(x):,} points", x, None), fitted])
    plotting.ellipses(axes[1], view(result).mixture(mixture))
    return figure


def convergence(result: Result) -> Any:
    """The objective of the best restart, and the final objective of every restart."""
    info = result.fit.info
    figure, (left, right) = plotting.new_figure(2)
    plotting.trace(left, info.trace)
    title = f"Best restart, number {info.best_restart + 1}"
    plotting.caption_axes(left, title, ("EM step", "log-likelihood [nats per point]"))
    order = np.argsort(-info.restart_objectives)
    for outcome in np.unique(info.restart_outcomes):
        rank = np.flatnonzero(info.restart_outcomes[order] == outcome)
        name = em.Outcome(int(outcome)).name.lower().replace("_", " ")
        style = {"label": name, "color": plotting.colour(int(outcome) - 1)}
        right.plot(rank + 1, info.restart_objectives[order][rank], "o", **style)
    plotting.whole_numbers(right)
    right.ticklabel_format(axis="y", useOffset=False)
    labels = ("restart, by rank", "log-likelihood at the end [nats per point]")
    plotting.finish(right, f"All {len(order)} restarts", labels, "best")
    for ax, values in ((left, info.trace), (right, info.restart_objectives)):
        values = values[np.isfinite(values)]
        if np.ptp(values) < 1e-4:  # do not magnify rounding
            ax.set_ylim(values.mean() - 0.01, values.mean() + 0.01)
    return figure


def criteria(result: Result) -> Any:
    """AIC, BIC and ICL of the mixture's own covariance type, and BIC of every type, against K."""
    fitted = {(c.covariance, c.num_components): c for c in result.candidates}
    sizes = sorted(k for covariance, k in fitted if covariance == result.config.covariance)
    own = [fitted[result.config.covariance, k].criteria for k in sizes]
    figure, (left, right) = plotting.new_figure(2)
    names = ("AIC", "BIC", "ICL")
    plotting.curves(left, sizes, {n: [getattr(c, n.lower()) for c in own] for n in names})
    title = f"{result.config.covariance} covariances"
    plotting.caption_axes(left, title, ("number of components K", "criterion (lower is better)"))
    kept = {cell: c.criteria.bic for cell, c in fitted.items() if not c.is_collapsed}
    types = dict.fromkeys(covariance for covariance, _ in fitted)
    by_type = {name: [kept.get((name, k), np.nan) for k in sizes] for name in types}
    plotting.curves(right, sizes, by_type)
    for index, name in enumerate(types):  # a cross at the bottom of the axis
        bad = [k for k in sizes if (name, k) in fitted and (name, k) not in kept]
        if bad:
            style = {"color": plotting.colour(index), "transform": right.get_xaxis_transform()}
            right.plot(bad, [0.03] * len(bad), "x", label=f"{name}, collapsed", **style)
    values = [c.bic for c in own]
    if np.isfinite([*values, *kept.values()]).all():  # other types may be far worse
        low, top = min([*values, *kept.values()]), max(values)
        margin = 0.06 * (top - low) or 1.0
        right.set_ylim(low - margin, top + margin)
    labels = ("number of components K", "BIC (lower is better)")
    plotting.finish(right, "BIC of every covariance type", labels, "best")
    return figure


def search(result: Result) -> Any:
    """The data with the best mixture of the search, and BIC of every covariance model against K."""
    found = result.search
    plane = view(result)
    figure, (left, right) = plotting.new_figure(2, width=5.2)
    plotting.scatter(
        left, plane.points(result.shown.x), np.asarray(found.mixture.assign(result.dataset.x))
    )
    plotting.ellipses(left, plane.mixture(found.mixture))
    title = f"{found.family}, K = {found.num_components}: the lowest BIC"
    plotting.caption_axes(left, title, plane.labels)
    plotting.selection(found.values("bic"), ax=right)
    right.set_title(f"BIC of {len(found.values())} covariance models", loc="left", fontsize=10.5)
    return figure


def refits(result: Result) -> Any:
    """The data with the ellipses of the refits, and intervals of the means in two columns."""
    found, means = result.refits, np.asarray(result.fit.mixture.means)
    names = [*result.dataset.axis_labels][:2]
    if means.shape[1] == 1:
        figure, axes = plotting.new_figure(width=8, height=2.5)
        refitted.intervals(axes, found, means, names)
        return figure
    figure, (left, *rest) = plotting.new_figure(3)
    plane = view(result)
    plotting.scatter(left, plane.points(result.shown.x))
    refitted.draw(left, found, plane)
    plotting.caption_axes(left, "90% ellipses of the refits", plane.labels)
    refitted.intervals(rest, found, means, names)
    return figure


def samples(result: Result) -> Any:
    """The data, and equally many points drawn from the fitted mixture."""
    x, count = result.shown.x, f"{len(result.samples):,} points"
    data = (f"Data, {count}", x, np.asarray(result.fit.mixture.assign(result.dataset.x)))
    drawn = (f"Samples from the mixture, {count}", result.samples, result.samples_z)
    return panels(result, [data, drawn])[0]


def uncertainty(result: Result) -> Any:
    """Density contours of the mixture, and the entropy of its assignment."""
    x, mixture, title = result.shown.x, result.fit.mixture, "Uncertainty of the component"
    label = "entropy of p(z | x) [nats]"
    if x.shape[1] == 1:
        figure, (ax,) = plotting.new_figure(width=8, height=3)
        line = np.linspace(x.min(), x.max(), 400)[:, None]
        ax.plot(line, entropy(result, line), color=plotting.PALETTE[0])
        plotting.caption_axes(ax, title, (result.dataset.axis_labels[0], label))
        return figure
    plane = view(result)
    points = plane.points(x)
    figure, (left, right) = plotting.new_figure(2, sharex=True, sharey=True)
    plotting.scatter(left, points)
    margin = 0.15 * np.ptp(points, axis=0)  # space for the contours
    (left_end, bottom), (right_end, top) = points.min(0) - margin, points.max(0) + margin
    left.set(xlim=(left_end, right_end), ylim=(bottom, top))
    plotting.density(jax.random.key(result.config.seed), left, plane.mixture(mixture))
    if x.shape[1] == 2:
        shown = plotting.entropy_map(right, plane.mixture(mixture))
        right.scatter(*points.T, s=2, color=plotting.GREY, linewidths=0)
    else:
        shown = plotting.entropy_points(
            right, points, entropy(result, result.dataset.x), len(mixture.weights)
        )
    figure.colorbar(shown, ax=right).set_label(label, fontsize=9.5)
    plotting.caption_axes(left, "Density of the mixture", plane.labels)
    plotting.caption_axes(right, title, plane.labels)
    return figure


def entropy(result: Result, x: np.ndarray) -> np.ndarray:
    """The assignment entropy of points, in nats."""
    return plotting.assignment_entropy(result.fit.mixture.responsibilities(x))


def images(result: Result) -> Any:
    """Component means, digits, the same after PCA, and samples, as rows of images."""
    mixture, x, pca = result.fit.mixture, result.dataset.x, result.pca
    columns = min(len(mixture.weights), 12)
    chosen = np.linspace(0, len(x) - 1, columns).astype(int)
    rows = {
        "component\nmean": pca.inverse(np.asarray(mixture.means)),
        "real digit": result.original.x[chosen],
        f"the same,\n{result.config.pca_dim} components": pca.inverse(x[chosen]),
        "sample": pca.inverse(result.samples),
    }
    figure, axes = plotting.new_figure(columns, len(rows), width=1.0, height=1.15)
    for line, (name, pictures) in zip(axes.reshape(-1, columns), rows.items(), strict=True):
        for ax, picture in zip(line, pictures, strict=False):
            plotting.image(ax, picture.reshape(8, 8), 0, 16)
        line[0].set_ylabel(name, fontsize=8.5, rotation=0, ha="right", va="center")
    for ax, (label, share) in zip(axes, result.majority, strict=False):
        ax.set_title(f"class\n{label} ({share:.0%})", fontsize=8)
    return figure
