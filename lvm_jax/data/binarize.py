"""Grey levels into bits: drawn afresh at every use, drawn once, or cut at one half.

The three give different data, and so different log-likelihoods: a number is only comparable with
numbers for the same binarisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lvm_jax.data.images import ImageData

if TYPE_CHECKING:  # reading data needs no jax, and --help is quick without
    from lvm_jax.typing import Array, ArrayLike, Key

ROWS = 1_000  # images at a time: 6 MB of uniforms for MNIST


def dynamic(key: Key[Array, ""], x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """One draw x~_d ~ Bernoulli(x_d) for every pixel, in the dtype of x.

    For an x of any shape with entries in [0, 1]. Called with a new key at every use of an image, it
    trains on grey levels as Burda et al. (2016, section 5) do; 0 and 1 stay. Raises ValueError for
    an x outside [0, 1], where it is not traced.
    """
    import jax

    from lvm_jax._core import checks, keys, support

    checks.key(key)
    if not isinstance(x, jax.core.Tracer):
        support.check(support.UNIT, x)
    return jax.random.bernoulli(keys.unrolled(key), x).astype(x.dtype)


def fixed(seed: int | Sequence[int], x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """One draw for every pixel that is the same for a seed on every machine and for ever.

    Image n gets the uniforms n D .. (n+1) D - 1 of `numpy.random.RandomState(seed)`, a stream that
    NumPy has frozen: the bits of the first images do not depend on how many follow. Raises
    ValueError for an x outside [0, 1].
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
    """1 where x >= 1/2, else 0, in the dtype of x: for bytes, 128 and above."""
    return (x >= 0.5).astype(x.dtype)


class Binarization(NamedTuple):
    """What becomes of the training images and of the others before a run, and at every use.

    `train` and `heldout` are (seed, images) -> images, called once; `transform`, to be given to
    `training.fit`, is (key, one x) -> a fresh x, or None.
    """

    train: Callable[[Sequence[int], np.ndarray], np.ndarray]
    heldout: Callable[[Sequence[int], np.ndarray], np.ndarray]
    transform: Callable[[Key[Array, ""], Array], Array] | None = None


def _keep(seed: Sequence[int], x: np.ndarray) -> np.ndarray:
    return x


def _cut(seed: Sequence[int], x: np.ndarray) -> np.ndarray:
    return np.asarray(threshold(x))


BINARIZATIONS = {
    # the images that measure a model are drawn once even so: evaluations of one run must compare
    "dynamic": Binarization(_keep, fixed, dynamic),
    "fixed": Binarization(fixed, fixed),
    "threshold": Binarization(_cut, _cut),
    "none": Binarization(_keep, _keep),
}


def binarized(images: ImageData, method: str, seed: int) -> ImageData:
    """The images as a run with this binarisation holds them; give its `transform` to the training.

    "dynamic": validation and test are drawn once, and train keeps the grey levels, from which
    BINARIZATIONS["dynamic"].transform draws at every use; "fixed": all are drawn once;
    "threshold": all are cut at 1/2; "none": all stay. Test bits depend on the seed alone, not on
    the split, nor on whether the method is "dynamic" or "fixed". Images that are bits already stay
    as they are under every method.

    Raises ValueError for an unknown method, and TypeError or ValueError for a seed that is no
    integer in 0 .. 2^32 - 1.
    """
    from lvm_jax._core import checks

    way = BINARIZATIONS[checks.choice(method, "method", list(BINARIZATIONS))]
    checks.integer(seed, "seed", minimum=0)
    if images.fixed_bits or method == "none":
        return images
    return images._replace(
        source=f"{images.source}; binarisation {method}",
        train=way.train((seed, 0), images.train),
        validation=way.heldout((seed, 1), images.validation),
        test=way.heldout((seed, 2), images.test),
        fixed_bits=way.transform is None,
    )
