"""The bootstrap of the fitted mixture: refits to weighted rows, their intervals and their figure."""

from typing import Any

import jax
import numpy as np

from experiments.gmm_em.config import Config
from lvm_jax import em, plotting

SHOWN = 60  # refits in the figure


def refit(key: jax.Array, x: np.ndarray, config: Config, fit: em.MixtureFit) -> em.Bootstrap | None:
    """The refits; None without, or for a fit with an empty component."""
    if not config.num_refits or fit.info.empty_components:
        return None
    names = ("max_steps", "tolerance", "regularization")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    return em.bootstrap(key, fit, x, config.num_refits, **options, throw=False)


def numbers(found: em.Bootstrap) -> dict[str, Any]:
    """Counts of the refits, and the limits of 95% intervals."""
    low, high = found.intervals()
    parts = {"low": low, "high": high, "standard_errors": found.standard_errors()}
    kept = ("weights", "means", "covariances")
    limits = {name: {part: getattr(each, part) for part in kept} for name, each in parts.items()}
    return {"failed": found.failed, "unconverged": found.unconverged, **limits}


def draw(ax: Any, found: em.Bootstrap, plane: plotting.Plane) -> None:
    """The 90% ellipses of the components of SHOWN refits."""
    estimates = found.estimates
    for i in range(min(SHOWN, len(estimates.weights))):
        means = plane.points(estimates.means[i])
        covariances = plane.axes @ estimates.covariances[i] @ plane.axes.T
        for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            curve = plotting.ellipse(mean, covariance, 0.9)
            ax.plot(*curve.T, color=plotting.colour(k), linewidth=0.5, alpha=0.35)


def intervals(axes: Any, found: em.Bootstrap, means: np.ndarray, names: list[str]) -> None:
    """The means of the components in the first columns, with 95% intervals."""
    low, high = (np.asarray(each.means) for each in found.intervals())
    for j, ax in enumerate(axes):
        for k in range(len(means)):
            style = {"color": plotting.colour(k), "linewidth": 2.5}
            ax.plot([low[k, j], high[k, j]], [k + 1, k + 1], **style)
            ax.plot(means[k, j], k + 1, "o", color=plotting.colour(k))
        ax.set_yticks(range(1, len(means) + 1))
        ax.set_ylim(-0.5, len(means) + 1.5)
        plotting.caption_axes(ax, "Means, 95% intervals", (names[j], "component"))
