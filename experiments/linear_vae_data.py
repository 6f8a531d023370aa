"""What the linear VAE is trained on: images or a table, centred and brought to one scale."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lvm_jax import data

GREY = "grey level / highest"


class Scaled(NamedTuple):
    """Rows x = (rows as they came - mean) / scale, whose columns have a mean variance of 1.

    One scale for all columns: probabilistic PCA is the same in other units, and W, s and the square
    roots of the eigenvalues only have to be multiplied by it.
    """

    name: str
    source: str
    unit: str  # of the columns as they came; "" where they have none, or several
    columns: tuple[str, ...]
    shape: tuple[int, int] | None  # of an image
    x: np.ndarray  # [N, D] float32
    mean: np.ndarray  # [D], of the rows as they came
    scale: float

    @property
    def log_volume(self) -> float:
        """log p of the rows as they came is log p of the scaled rows less this, in nats."""
        return float(self.x.shape[1] * np.log(self.scale))


def load(name: str, columns: tuple[str, ...] | None, standardize: bool) -> Scaled:
    """The training images of a named set, or a table by its name or path; ValueError if unfit."""
    if name in data.NAMED_IMAGES:
        if columns is not None:
            raise ValueError(f"columns: expected none, {name} is taken as whole images")
        images = data.load_images(name)
        source = f"{images.source}: the {len(images.train):,} images for training"
        rows, columns = images.shape
        pixels = tuple(f"pixel {row},{column}" for row in range(rows) for column in range(columns))
        dataset = data.Dataset(name, source, images.train, pixels, (GREY,) * len(pixels))
        return scaled(dataset, images.shape, standardize)
    path = Path(name)
    if name in data.NAMED or path.suffix or len(path.parts) > 1 or path.exists():
        return scaled(data.load(name, columns), None, standardize)
    known = ", ".join(sorted({*data.NAMED_IMAGES, *data.NAMED}))
    raise ValueError(f"data: expected {known} or the path of a table, got {name!r}")


def scaled(dataset: data.Dataset, shape: tuple[int, int] | None, standardize: bool) -> Scaled:
    """Centre the rows and divide all of them by one number."""
    if standardize:
        dataset = dataset.standardized()
    rows = np.asarray(dataset.x, np.float64)
    if len(rows) < 3 or rows.shape[1] < 2:
        raise ValueError(
            f"data: expected at least 3 rows of at least 2 columns, got shape {rows.shape}"
        )
    mean = rows.mean(axis=0)
    centred = rows - mean
    scale = float(np.sqrt((centred**2).mean()))
    if not scale > 1e-12 * np.abs(rows).max():
        raise ValueError("data: expected rows that differ, got all of them equal")
    units = set(dataset.units)
    return Scaled(
        name=dataset.name,
        source=dataset.source,
        unit=units.pop() if len(units) == 1 else "",
        columns=dataset.columns,
        shape=shape,
        x=(centred / scale).astype(np.float32),
        mean=mean,
        scale=scale,
    )
