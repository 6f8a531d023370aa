"""The plane in which D-dimensional data are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np

from lvm_jax import em
from lvm_jax._core import checks
from lvm_jax.data.dataset import Dataset
from lvm_jax.data.embedded import pca
from lvm_jax.typing import ArrayLike, Float


class Plane(NamedTuple):
    """A plane to look at D-dimensional data in: coordinates (x - origin) axes^T."""

    axes: Float[np.ndarray, "2 D"]
    origin: Float[np.ndarray, " D"]
    labels: tuple[str, str]

    def points(self, x: ArrayLike) -> Float[np.ndarray, "N 2"]:
        """Where the points x [N, D] lie in the plane."""
        return (np.asarray(x) - self.origin) @ self.axes.T

    def mixture(self, mixture: em.Mixture) -> em.Mixture:
        """What the mixture is in the plane: N(mu, Sigma) becomes N(A (mu - o), A Sigma A^T)."""
        covariances = self.axes @ np.asarray(mixture.covariances) @ self.axes.T
        return em.gaussian_mixture(mixture.weights, self.points(mixture.means), covariances)


def coordinate_plane(dataset: Dataset, columns: tuple[int, int] = (0, 1)) -> Plane:
    """The plane of two columns of the data."""
    dim = dataset.x.shape[1]
    if dim < 2:
        raise ValueError(f"dataset: expected at least 2 columns to draw a plane, got {dim}")
    first, second = (dataset.axis_labels[j] for j in columns)
    return Plane(np.eye(dim)[list(columns)], np.zeros(dim), (first, second))


def principal_plane(dataset: Dataset) -> Plane:
    """The plane of the two main principal axes."""
    main = pca(dataset.x, 2)
    unit = f" [{dataset.units[0]}]" if len(set(dataset.units)) == 1 and dataset.units[0] else ""
    first, second = (
        f"principal axis {i + 1}{unit}, {share:.0%} of the variance"
        for i, share in enumerate(main.shares)
    )
    return Plane(main.axes, main.mean, (first, second))


Projection = str | tuple[int, int] | Plane  # "principal", two columns, or a plane


def column_names(names: Sequence[str] | None, dim: int, letter: str = "x") -> tuple[str, ...]:
    """The names of `dim` columns; x1, x2, ... unless given. ValueError for another number."""
    if names is None:
        return tuple(f"{letter}{place + 1}" for place in range(dim))
    if isinstance(names, str) or len(names) != dim:
        raise ValueError(f"names: expected {dim} names, one for each column, got {names!r}")
    return tuple(names)


def find_plane(x: np.ndarray, projection: Projection | None, names: Sequence[str]) -> Plane:
    """The plane of `projection` for the data x [N, D]; D = 2 needs none.

    Raises ValueError for D < 2, D > 2 without a projection, or columns that x does not have.
    """
    dim = x.shape[1]
    if isinstance(projection, Plane):
        return projection
    if dim < 2:
        raise ValueError(f"x: expected at least 2 dimensions to draw a plane, got {dim}")
    dataset = Dataset("", "", x, tuple(names), ("",) * dim)
    if projection is None and dim == 2:
        return coordinate_plane(dataset)
    if isinstance(projection, str):
        checks.choice(projection, "projection", ("principal",))
        return principal_plane(dataset)
    found = tuple(projection or ())
    known = all(isinstance(column, Integral) and 0 <= column < dim for column in found)
    if len(found) != 2 or found[0] == found[1] or not known:
        raise ValueError(
            f'projection: expected "principal", a Plane, or two of the {dim} columns, such as '
            f"(0, 1), got {projection!r}"
        )
    return coordinate_plane(dataset, (int(found[0]), int(found[1])))
