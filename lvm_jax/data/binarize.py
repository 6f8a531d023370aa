"""Binarisation of grey levels: dynamic (new draws at each use), fixed draws, or a threshold.

The three methods give different data, and log-likelihoods are only comparable for the same method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lvm_jax.data.images import ImageData

if TYPE_CHECKING:  # JAX is not imported here, so that --help is quick
    from lvm_jax.typing import Array, ArrayLike, Key

ROWS = 1_000  # images per block: 6 MB of uniforms for MNIST


def dynamic(key: Key[Array, ""], x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """One draw x~_d ~ Bernoulli(x_d) for each pixel, in the dtype of x.

    x has any shape and entries in [0, 1]. With a new key at each use of an image this is the
    dynamic binarisation of Burda et al. (2016, section 5). Raises ValueError for an x outside
    [0, 1] that is not traced.
    """
    import jax

    from lvm_jax._core import checks, keys, support

    checks.key(key)
    if not isinstance(x, jax.core.Tracer):
        support.check(support.UNIT, x)
    return jax.random.bernoulli(keys.unrolled(key), x).astype(x.dtype)


def fixed(seed: int | Sequence[int], x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """One draw for each pixel that depends only on the seed, not on the machine or NumPy's version.

    Image n uses the uniforms n D .. (n+1) D - 1 of `numpy.random.RandomState(seed)`, whose stream
    is frozen, so that its bits do not depend on the number of images. Raises ValueError for an x
    outside [0, 1].
    """
    from lvm_jax._core import support

    support.check(support.UNIT, x)
    uniforms = np.random.RandomState(seed)
    bits = np.empty_like(x)
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        bits[start : start + ROWS] = uniforms.random_sample(rows.shape) < rows
    return bits


def threshold(x: Float[ArrayLike, "*shape"]) -> Float[ArrayLike, "*shape"]:
    """1 where x >= 1/2, otherwise 0, in the dtype of x; this is byte values of at least 128."""
    return (x >= 0.5).astype(x.dtype)


class Binarization(NamedTuple):
    """The binarisation of training images and held-out images before a run, and at each use.

    `train` and `heldout` are (seed, images) -> images, called once. `transform` is (key, one x) ->
    a new draw of x, an argument of `training.fit`, or None.
    """

    train: Callable[[Sequence[int], np.ndarray], np.ndarray]
    heldout: Callable[[Sequence[int], np.ndarray], np.ndarray]
    transform: Callable[[Key[Array, ""], Array], Array] | None = None


def _keep(seed: Sequence[int], x: np.ndarray) -> np.ndarray:
    return x


def _cut(seed: Sequence[int], x: np.ndarray) -> np.ndarray:
    return np.asarray(threshold(x))


BINARIZATIONS = {
    # Held-out images are drawn once, so that the evaluations of a run are comparable.
    "dynamic": Binarization(_keep, fixed, dynamic),
    "fixed": Binarization(fixed, fixed),
    "threshold": Binarization(_cut, _cut),
    "none": Binarization(_keep, _keep),
}


def binarized(images: ImageData, method: str, seed: int) -> ImageData:
    """Binarise the three parts of an image data set.

    "dynamic": validation and test are drawn once; train keeps its grey levels, and
    BINARIZATIONS["dynamic"].transform, an argument of `training.fit`, draws at each use.
    "fixed": all are drawn once. "threshold": all are compared with 1/2. "none": no change. The test
    bits depend only on the seed: "dynamic" and "fixed" give the same bits, for every split. Images
    that are bits already do not change.

    Raises ValueError for an unknown method, and TypeError or ValueError for a seed that is not an
    integer in 0 .. 2^32 - 1.
    """
    from lvm_jax._core import checks

    binarization = BINARIZATIONS[checks.choice(method, "method", list(BINARIZATIONS))]
    checks.integer(seed, "seed", minimum=0)
    if images.fixed_bits or method == "none":
        return images
    return images._replace(
        source=f"{images.source}; binarisation {method}",
        train=binarization.train((seed, 0), images.train),
        validation=binarization.heldout((seed, 1), images.validation),
        test=binarization.heldout((seed, 2), images.test),
        fixed_bits=binarization.transform is None,
    )
