"""Real data sets in the package, and principal component analysis."""

from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lvm_jax.data.dataset import Dataset


def old_faithful() -> Dataset:
    """272 eruptions of the Old Faithful geyser: duration and waiting time to the next, in minutes.

    Source: Azzalini and Bowman (1990), "A look at some data on the Old Faithful geyser", Applied
    Statistics 39, as shipped with R under the name `faithful`.
    """
    with resources.files("lvm_jax.data").joinpath("faithful.csv").open(encoding="utf-8") as file:
        x = np.loadtxt(file, delimiter=",", skiprows=1)
    return Dataset(
        name="old_faithful",
        source="272 eruptions of the Old Faithful geyser, Yellowstone (Azzalini and Bowman, 1990)",
        x=x,
        columns=("eruption", "waiting"),
        units=("min", "min"),
    )


def digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels, grey levels 0 to 16, with their labels.

    These are the values and the order of scikit-learn's `load_digits`, the test part of the source.

    Source: Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits", UCI machine
    learning repository, doi:10.24432/C50P49, under CC BY 4.0.
    """
    path = resources.files("lvm_jax.data").joinpath("digits.npz")
    with path.open("rb") as file, np.load(file) as arrays:
        levels, labels = arrays["levels"], arrays["labels"]
    return Dataset(
        name="digits",
        source="1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, 1998; UCI)",
        x=levels.astype(float),
        columns=tuple(f"pixel {row},{column}" for row in range(8) for column in range(8)),
        units=("grey level",) * 64,
        labels=labels.astype(int),
    )


class PCA(NamedTuple):
    """The principal axes of a data set: scores = (x - mean) axes^T."""

    mean: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "dim D"]
    shares: Float[np.ndarray, " dim"]  # of the total variance, one per axis, largest first

    @property
    def share(self) -> float:
        """The share of the total variance along all kept axes, in [0, 1]."""
        return float(self.shares.sum())

    def transform(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N dim"]:
        """The scores of x on the kept axes."""
        return (x - self.mean) @ self.axes.T

    def inverse(self, scores: Float[np.ndarray, "N dim"]) -> Float[np.ndarray, "N D"]:
        """The points of the kept subspace with these scores."""
        return scores @ self.axes + self.mean


def reduce(dataset: Dataset, dim: int) -> tuple[Dataset, PCA]:
    """The scores of the data on their first `dim` principal axes, and the PCA."""
    main = pca(dataset.x, dim)
    unit = dataset.units[0] if len(set(dataset.units)) == 1 else ""
    reduced = dataset._replace(
        x=main.transform(dataset.x),
        columns=tuple(
            f"principal axis {i + 1} ({share:.0%} of the variance)"
            for i, share in enumerate(main.shares)
        ),
        units=(unit,) * dim,
        truth=None,
    )
    return reduced, main


def pca(x: Float[np.ndarray, "N D"], dim: int) -> PCA:
    """The first `dim` principal axes of x, by a singular value decomposition of the centred data.

    The largest entry of each axis is positive, so that signs do not differ between machines.

    Raises ValueError for a `dim` larger than min(N, D), or rows that are all equal.
    """
    limit = min(x.shape)
    if not 1 <= dim <= limit:
        raise ValueError(f"dim: expected 1 to {limit} for data of shape {x.shape}, got {dim}")
    if (x == x[0]).all():
        raise ValueError(
            "x: expected data that vary, got all rows equal: there are no principal axes"
        )
    mean = x.mean(axis=0)
    _, singular, axes = np.linalg.svd(x - mean, full_matrices=False)
    variances = singular**2
    axes = axes[:dim]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return PCA(mean, axes * np.sign(largest), variances[:dim] / variances.sum())
