"""Initial mixtures from clusters: given labels, or those of other columns than the data's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.em import inputs, priors, sources, starts
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily, Settings, divide
from lvm_jax.em.labels import check_labels
from lvm_jax.em.mixture import Mixture, read
from lvm_jax.em.statistics import Data, MixtureParameters, mass
from lvm_jax.typing import Array, Key


def clusters(
    key: Key[Array, ""],
    points: np.ndarray,
    num_components: int,
    num_restarts: int,
    weight: np.ndarray | None,
) -> np.ndarray:
    """The nearest of K centres for each point [N, E], by R runs of k-means: [R, N]."""
    data = read(points, weight, np.zeros(points.shape[1]))
    sizes = (num_components, num_restarts, min(len(data.x), 4096))
    centres = np.asarray(starts.centres(key, data, np.int32(num_components), "kmeans", *sizes))
    lengths = 0.5 * (centres**2).sum(2)
    return np.stack([
        (points @ c.T - length[None]).argmax(1) for c, length in zip(centres, lengths, strict=True)
    ])  # fmt: skip


def attach(request: Any) -> Any:
    """The request of a fit with the mixture of its labels `start`, integers [N], as its start.

    In the M-step of the start a missing entry is the mean of its column.
    """
    if sources.as_source(request.x) is not None:
        raise TypeError("start: expected x as an array in memory with labels, got data that stream")
    x, _ = checks.points_or_nan(request.x, "x")
    number = checks.integer(request.num_components, "num_components", 1)
    if np.ndim(request.start) != 1:
        raise TypeError(
            f"start: expected a method, an em.Mixture or labels of shape ({len(x)},), got an array "
            f"of shape {np.shape(request.start)}; em.gaussian_mixture makes a mixture from means"
        )
    family, weight = inputs.as_family(request.family), request.sample_weight
    labels = check_labels(request.start, len(x), number, weight, "start")
    counts = np.bincount(labels[labels >= 0], minlength=number)
    if (labels < 0).any() or (counts == 0).any():
        raise ValueError(
            f"start: expected a label 0 to {number - 1} for each row, and a row for each label, "
            f"got {np.unique(labels).tolist()}"
        )
    if np.isnan(x).any():
        x = np.where(np.isnan(x), np.nanmean(x, 0)[None], x)
    weight = None if weight is None else checks.weights(weight, len(x))
    start = assigned(family, x, labels[None], number, weight, request.regularization)
    return request._replace(start=start)


def assigned(
    family: ExponentialFamily,
    x: np.ndarray,
    components: np.ndarray,
    num_components: int,
    weight: np.ndarray | None,
    regularization: float,
) -> Mixture:
    """R mixtures by an M-step in which row n is of component `components` [R, N], one for each R.

    Families that keep zeros get softened responsibilities, as in `starts.softened`. NaN is for
    families whose features accept it, such as `Categorical`.
    """
    origin = inputs.centre(x, weight, family)
    data = read(x, weight, origin)
    hot = components[:, :, None] == np.arange(num_components)[None, None]
    share = starts.SHARE if family.keeps_zeros else 1.0
    resp = share * hot + (1 - share) / num_components
    resp = np.pad(resp, ((0, 0), (0, data.x.shape[0] - len(x)), (0, 0))).astype(origin.dtype)
    settings = priors.cast(Settings(regularization), origin.dtype)
    log_weights, parts = _assigned(family, data, resp, settings)
    return Mixture(log_weights, parts, jax.device_put(origin), family)


@over_data(0)
def _assigned(
    family: ExponentialFamily, data: Data, resp: Array, settings: Settings
) -> MixtureParameters:
    x, weight = data.x - data.shift[None], mass(data)

    def one(resp: Array) -> Any:
        resp = resp * weight[:, None]
        centres = divide(resp.T @ jnp.where(jnp.isnan(x), 0, x), resp.sum(0))
        if family.has_fast_path:
            previous = family.start(centres, jnp.ones_like(x[0]))
            summary = family.summarize_assigned(x, resp)
        else:
            previous = family.start(centres, starts.spread(data))
            expected = family.expectation(previous, x)
            summary = family.summarize_expected(previous, x, expected, resp)
        return starts.maximize(family, summary, previous, settings)

    return jax.vmap(one)(resp)
