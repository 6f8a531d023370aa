"""Fits with known components of some rows: the labels are one more column of the data.

The column has the family `Labels`, so that the responsibilities of a labelled row are 1 for its
component and 0 for others, and the objective is the likelihood of rows and labels,
sum_n w_n log p(x_n, y_n) over labelled rows and sum_n w_n log p(x_n) over the others.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from lvm_jax._core import checks
from lvm_jax.em import inputs
from lvm_jax.em.categorical import Labels
from lvm_jax.em.families import Settings
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.product import Product
from lvm_jax.em.result import MixtureFit
from lvm_jax.em.sources import as_source

UNKNOWN = -1


def attach(request: Any, y: Any, initialize: Callable[[Any], Mixture]) -> Any:
    """The request of a fit with a column of labels; initialize(request) makes the starts.

    The components of each start are matched to the labels so that the labelled rows have the
    largest likelihood.
    """
    if as_source(request.x) is not None:
        raise TypeError("y: expected x as an array in memory, got data that stream")
    x, _ = checks.points_or_nan(request.x, "x")
    number = checks.integer(request.num_components, "num_components", 1)
    y = check_labels(y, len(x), number, request.sample_weight)
    family, dim = inputs.as_family(request.family), x.shape[1]
    start = request.start
    inputs.check_start(start, family)
    if not isinstance(start, Mixture):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the fit itself warns
            start = matched(initialize(request), x, y, request.sample_weight)
    product = Product(((family, range(dim)), (Labels(number), (dim,))))
    codes = np.where(y == UNKNOWN, number, y).astype(x.dtype)
    return request._replace(
        x=np.concatenate([x, codes[:, None]], 1),
        family=product,
        start=with_labels(start, product),
    )


def with_labels(mixture: Mixture, product: Product) -> Mixture:
    """A mixture with a block of labels: component k has label k."""
    weights, origin = mixture.log_weights, mixture.origin
    codes = jnp.broadcast_to(jnp.arange(weights.shape[-1], dtype=weights.dtype), weights.shape)
    origin = jnp.concatenate([origin, jnp.zeros_like(origin[..., :1])], -1)
    return Mixture(weights, (mixture.components, codes), origin, product)


def detach(result: MixtureFit, settings: Settings) -> MixtureFit:
    """The result of a fit without its block of labels."""
    mixture = result.mixture.family.marginal(result.mixture, 0)  # type: ignore[attr-defined]
    boundary = mixture.family.boundary(mixture.components, settings)
    return MixtureFit(mixture, result.info._replace(boundary=boundary))


def check_labels(y: Any, size: int, number: int, sample_weight: Any, name: str = "y") -> np.ndarray:
    """Labels [N] of 0 to K - 1, or -1; ValueError for others and for a label without weight."""
    labels = np.asarray(y)
    checks.shape(labels, (size,), name)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, -1 for an unknown label, got {labels.dtype}")
    bad = (labels < UNKNOWN) | (labels >= number)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{name}: expected labels 0 to {number - 1}, one for each component, or -1 for an "
            f"unknown label, got {labels[row]} at row {row}"
        )
    if sample_weight is not None:
        live = checks.weights(sample_weight, size) > 0
        lost = np.setdiff1d(labels[~live], labels[live])
        lost = lost[lost != UNKNOWN]
        if lost.size:
            raise ValueError(
                f"{name}: expected a row of positive weight for each label, got none for "
                f"{lost[0]}; set its rows to -1, or raise their weights"
            )
    return labels


def matched(starts: Mixture, x: np.ndarray, y: np.ndarray, sample_weight: Any) -> Mixture:
    """R starts with their components in the order of the labels."""
    rows = np.flatnonzero(y != UNKNOWN)
    if not rows.size:
        return starts
    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    hot = (y[rows][:, None] == np.arange(starts.log_weights.shape[-1])[None]) * weight[rows, None]
    kept = []
    for r in range(len(starts.log_weights)):
        weights, components = jax.tree.map(lambda leaf, r=r: leaf[r], starts.parameters)
        one = Mixture(weights, components, starts.origin, starts.family)
        log_p = np.asarray(one._map("log_joint", x[rows]), np.float64)
        score = hot.T @ (log_p - np.asarray(weights, np.float64)[None])
        order = linear_sum_assignment(score, maximize=True)[1]
        kept.append((weights[order], starts.family.select(components, order)))
    log_weights, components = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
    return Mixture(log_weights, components, starts.origin, starts.family)
