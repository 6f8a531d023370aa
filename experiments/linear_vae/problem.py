"""The data of the linear VAE with its closed form, and the noise variances of the trainings."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.linear_vae.config import Config
from lvm_jax import data, models
from lvm_jax.models import LinearGaussian
from lvm_jax.problems import linear_vae


class Problem(NamedTuple):
    """Rows x = (original rows - mean) / scale, with one scale, and mean variance 1 of columns."""

    dataset: data.Dataset  # the original rows
    shape: tuple[int, int] | None  # of an image
    scale: float
    x: np.ndarray  # [N, D] float32
    spectrum: linear_vae.Spectrum  # of x, whose mean is 0 to rounding
    latent_dim: int  # L
    noises: list[float | None]  # None: s2 is learned; then the given s2, falling, of x

    @property
    def moments(self) -> np.ndarray:
        """A few points with the same averages of quadratic functions as all rows."""
        return self.spectrum.moment_points()

    @property
    def log_volume(self) -> float:
        """log p of x minus log p of the original rows, in nats."""
        return float(self.x.shape[1] * np.log(self.scale))

    @property
    def middle(self) -> int:
        """The index of the middle given s2; 0, the learned one, if none is given."""
        return (1 + len(self.noises)) // 2 if len(self.noises) > 1 else 0

    @property
    def eigenvalues(self) -> np.ndarray:
        """The eigenvalues of the covariance of the original rows, [D]."""
        return self.spectrum.values * self.scale**2

    def closed_form(self, given: float | None) -> LinearGaussian:
        """The maximum of the likelihood at the s2 of a training, or over s2 too; float64."""
        if given is not None:
            rounded = float(np.exp(2 * np.float64(np.float32(0.5 * np.log(given)))))  # in training
            return self.spectrum.stationary(self.latent_dim, rounded)
        with jax.enable_x64(True):
            best = models.ppca(np.asarray(self.x, np.float64), self.latent_dim)
        return jax.tree.map(np.asarray, best)


def read(config: Config) -> tuple[data.Dataset, tuple[int, int] | None]:
    """The training images of a named data set and their shape, or a table."""
    name, path, shape = config.data, Path(config.data), None
    if name in data.NAMED_IMAGES:
        if config.columns is not None:
            raise ValueError(f"columns: expected none, {name} is taken as whole images")
        images = data.load_images(name)
        shape, source = images.shape, f"{images.source}: the images for training"
        pixels = tuple(f"pixel {row},{column}" for row, column in np.ndindex(shape))
        dataset = data.Dataset(
            name, source, images.train, pixels, ("grey level / highest",) * len(pixels)
        )
    elif name in data.NAMED or path.suffix or len(path.parts) > 1 or path.exists():
        dataset = data.load(name, config.columns)
    else:
        known = ", ".join(sorted({*data.NAMED_IMAGES, *data.NAMED}))
        raise ValueError(f"data: expected {known} or the path of a table, got {name!r}")
    return dataset.standardized() if config.standardize else dataset, shape


def noise_variances(
    given: tuple[float, ...] | None, scale: float, values: np.ndarray, latent_dim: int
) -> list[float | None]:
    """None for the learned s2, then the given ones, falling, in the units of x.

    The defaults are geometric means of neighbouring eigenvalues, with 0, 1/4, 1/2, 3/4 and all of
    the units' eigenvalues above them.
    """
    if given is not None:
        return [None, *sorted({value / scale**2 for value in given}, reverse=True)]
    noises: list[float | None] = [None]
    for count in sorted({0, *(latent_dim * part // 4 for part in (1, 2, 3, 4))}):
        upper = values[count - 1] if count else 1.6 * values[0]
        noises.append(float(np.sqrt(upper * max(values[count], upper / 4))))
    return noises
