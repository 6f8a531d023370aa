"""Compiled functions of a fitted variational autoencoder, its units, and the keys of its rows."""

import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core.batching import batch_size, map_points
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import gaussian_parts
from lvm_jax.models import Joint
from lvm_jax.typing import Array, ConditionalDensity, Distribution, Float, Key, UInt

CHUNK_SIZE = 1_000  # rows per batch

# Standardisation of x for each Gaussian likelihood; the other likelihoods use x as it is.
MEASURED = {
    "gaussian": "together",
    "gaussian_per_dimension": "each",
    "gaussian_output": "each",
    "gaussian_fixed": "from the mean",
}


class Units(NamedTuple):
    """x = mean + scale u for a model of u, so that log p(x) = log p(u) - sum_d log scale_d."""

    mean: np.ndarray  # [D]
    scale: np.ndarray  # [D]

    def measure(self, x: np.ndarray) -> np.ndarray:
        """u, from x."""
        return (x - self.mean) / self.scale

    def restore(self, u: Array) -> np.ndarray:
        """x, from u."""
        return self.mean + self.scale * np.asarray(u)

    @property
    def log_volume(self) -> float:
        """sum_d log scale_d, in nats."""
        return float(np.log(self.scale.astype(np.float64)).sum())


def units_of(x: np.ndarray, likelihood: str) -> Units:
    """The units in which x has zero mean and unit variance.

    The units do not change the family of densities: the columns have a common scale if they share
    a noise variance, their own scales if they have their own, and scale 1 if the noise is fixed.
    A constant column has scale 1.
    """
    how = MEASURED.get(likelihood)
    if how is None:
        return Units(np.zeros(x.shape[1], x.dtype), np.ones(x.shape[1], x.dtype))
    mean = x.mean(0, dtype=np.float64)
    deviation = x.std(0, dtype=np.float64)
    deviation[x.min(0) == x.max(0)] = 0  # exactly, without rounding error
    if how == "together":
        deviation[:] = np.sqrt(np.mean(deviation**2))
    if how == "from the mean":
        deviation[:] = 1
    scale = np.where(deviation > 0, deviation, 1)
    return Units(mean.astype(x.dtype), scale.astype(x.dtype))


def labels(x: np.ndarray) -> np.ndarray:
    """A hash of each row's bits, [N], to fold into the key of the row's draws.

    The draws of a row then depend neither on its position nor on the other rows.
    """
    rows = np.ascontiguousarray(x) + 0.0  # -0.0 is 0.0
    return np.fromiter((zlib.crc32(row) for row in rows), np.uint32, len(rows))


@bounded_jit(3)
def encode(
    key: Key[Array, ""],
    q: ConditionalDensity,
    rows: tuple[UInt[Array, " N"], Float[Array, "N D"]],
    num_samples: int,
) -> Float[Array, "N L"]:
    """E_q[z | x] of each labelled row, [N, L]; see `mean_of`."""

    def one(pair: tuple[Array, Array]) -> Array:
        return mean_of(jax.random.fold_in(key, pair[0]), q(pair[1]), num_samples)

    return map_points(one, rows, batch_size(CHUNK_SIZE, 1, rows[1].shape[0]))


def mean_of(key: Key[Array, ""], q: Distribution, num_samples: int) -> Array:
    """The mean of q: in closed form for a Gaussian, otherwise the mean of `num_samples` draws."""
    gaussian = gaussian_parts(q)
    if gaussian is not None:
        return gaussian[0]
    return q.sample(seed=key, sample_shape=(num_samples,)).mean(0)


@bounded_jit()
def decode(p: Joint, z: Float[Array, "N L"]) -> Float[Array, "N D"]:
    """E[x | z] of each row, [N, D]."""

    def one(z: Array) -> Array:
        likelihood: Any = p.likelihood(z)
        return likelihood.mean()

    return map_points(one, z, batch_size(CHUNK_SIZE, 1, z.shape[0]))


@bounded_jit(2)
def sample(key: Key[Array, ""], p: Joint, num_samples: int) -> Float[Array, "S D"]:
    """Draws of x from p(x), [num_samples, D]; draw i does not depend on `num_samples`."""
    keys = jax.random.split(key, num_samples)
    return map_points(lambda key: p.sample(key).x, keys, batch_size(CHUNK_SIZE, 1, num_samples))
