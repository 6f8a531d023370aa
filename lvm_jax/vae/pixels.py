"""Images in the units of a likelihood: in [0, 1], binarised, or as integer levels."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lvm_jax import data
from lvm_jax._core import checks
from lvm_jax.likelihoods import LIKELIHOODS
from lvm_jax.typing import Array, Float, Int, Key

PARTS = ("train", "validation", "test")
LEVELS = {"digits": 17, "mnist": 256, "fashion_mnist": 256}  # grey levels of a pixel
COUNTS = ("categorical", "poisson", "negative_binomial")  # likelihoods of 0, 1, ..., levels - 1
WITH_LEVELS = ("discretized_logistic", "categorical")  # likelihoods with the option num_levels


class Chosen(NamedTuple):
    """A random subset of the images of each part, by the name of the part."""

    rows: dict[str, Float[np.ndarray, "n D"]]
    indices: dict[str, Int[np.ndarray, " n"]]  # of the rows in the part
    out_of: dict[str, int]  # size of the part


class Pixels(NamedTuple):
    """Images in the units of a likelihood, with pixels between 0 and `high`."""

    images: data.ImageData  # in [0, 1], as `data.binarized` returns them
    binarization: str
    levels: int  # number of possible values of a pixel
    high: float
    train: Float[np.ndarray, "N D"]  # grey if every training step draws new bits
    train_fixed: Float[np.ndarray, "N D"]  # `train` with bits drawn once
    validation: Float[np.ndarray, "M D"]
    test: Float[np.ndarray, "T D"]
    transform: Callable[[Key[Array, ""], Array], Array] | None  # for `training.fit`

    def choose(self, most: int, seed: int) -> Chosen:
        """At most `most` random images of each part."""
        found = Chosen({}, {}, {})
        for number, name in enumerate(PARTS):
            x = self.train_fixed if name == "train" else getattr(self, name)
            chosen = np.random.default_rng([seed, number]).permutation(len(x))[:most]
            found.rows[name], found.indices[name], found.out_of[name] = x[chosen], chosen, len(x)
        return found


def load_pixels(
    name: str | Path,
    split: str | None = None,
    *,
    likelihood: str = "bernoulli",
    binarization: str | None = None,
    levels: int | None = None,
    seed: int = 0,
) -> Pixels:
    """The images of `data.load_images(name, split)` in the units of a likelihood.

    binarization: a key of `data.BINARIZATIONS`. None is "dynamic" for grey levels with a bernoulli
    likelihood and "none" otherwise. levels: the number of grey levels, for likelihoods that need
    it. None is the published number, or 256 for a file whose pixels are multiples of 1/255.

    Raises ValueError, naming the argument, for an unknown likelihood or binarisation, fewer than 2
    images for validation or test, and unknown levels that the likelihood needs.
    """
    likelihood = checks.choice(likelihood, "likelihood", list(LIKELIHOODS))
    raw = data.load_images(name, split)
    _check_parts(raw)
    bits = likelihood == "bernoulli" and not raw.fixed_bits
    method = binarization or ("dynamic" if bits else "none")
    images = data.binarized(raw, method, seed)
    way = data.BINARIZATIONS[method]
    transform = None if raw.fixed_bits else way.transform
    if images.fixed_bits or transform is not None:
        levels = 2
    elif levels is None:
        levels = LEVELS.get(str(name)) or _bytes(images, likelihood)
    high = float(levels - 1) if likelihood in COUNTS else 1.0
    fixed = images.train if transform is None else way.heldout((seed, 0), images.train)
    parts = (images.train, fixed, images.validation, images.test)
    train, fixed, validation, test = (
        x if high == 1 else np.round(x * np.float32(high)) for x in parts
    )
    method = "none" if raw.fixed_bits else method
    return Pixels(images, method, levels, high, train, fixed, validation, test, transform)


def _check_parts(images: data.ImageData) -> None:
    """Raise ValueError for fewer than 2 images for validation or test."""
    for part in PARTS[1:]:
        number = len(getattr(images, part))
        if number < 2:
            raise ValueError(
                f"split: expected at least 2 images for {part}, got {number}; give "
                "train/validation/test"
            )


def _bytes(images: data.ImageData, likelihood: str) -> int:
    """256; ValueError if the likelihood needs the levels and the pixels are not bytes / 255."""
    as_bytes = images.train * np.float32(255)
    needed = likelihood in (*COUNTS, *WITH_LEVELS)
    if needed and np.abs(as_bytes - np.round(as_bytes)).max() > 1e-3:
        raise ValueError(
            f"levels: expected the number of grey levels of {images.name} for the likelihood "
            f"{likelihood}, got None and pixels that are not multiples of 1/255"
        )
    return 256
