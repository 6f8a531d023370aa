"""The images of the `vae` experiment, in the units that its likelihood takes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lvm_jax import checks, data, likelihoods
from lvm_jax.data import BINARIZATIONS, ImageData
from lvm_jax.typing import Array, Key

if TYPE_CHECKING:
    from experiments.vae import Config

LEVELS = {"digits": 17, "mnist": 256, "fashion_mnist": 256}  # grey levels of a pixel
INTEGERS = ("categorical", "poisson", "negative_binomial")  # pixels 0, 1, ..., levels - 1
SPLITS = {"mnist": "59600/400/10000", "fashion_mnist": "59600/400/10000"}  # have a validation


class Pixels(NamedTuple):
    """What is trained on and evaluated; every pixel lies between 0 and `high`."""

    images: ImageData  # in [0, 1], binarised where that was asked for
    binarization: str
    levels: int  # values that a pixel can have
    high: float
    train: np.ndarray  # [N, D]; grey where bits are drawn afresh in every step
    seen: np.ndarray  # [N, D], the same as the model sees them: bits drawn once
    validation: np.ndarray  # [M, D]
    test: np.ndarray  # [T, D]
    transform: Callable[[Key[Array, ""], Array], Array] | None


def load(config: "Config") -> Pixels:
    """Images by name or file, binarised, scaled and checked against the likelihood's support."""
    checks.choice(config.likelihood, "likelihood", tuple(likelihoods.LIKELIHOODS))
    raw = data.load_images(config.dataset, config.split or SPLITS.get(config.dataset))
    for part in ("validation", "test"):
        if len(getattr(raw, part)) < 2:
            raise ValueError(
                f"split: expected at least 2 images for {part}, got {len(getattr(raw, part))}; "
                "give train/validation/test"
            )
    method = config.binarization or default_binarization(raw, config.likelihood)
    images = data.binarized(raw, method, config.seed)
    way = BINARIZATIONS[method]
    transform = None if raw.fixed_bits else way.transform
    levels = count_levels(images, config, is_bits=images.fixed_bits or transform is not None)
    high = float(levels - 1) if config.likelihood in INTEGERS else 1.0
    grey = images.train if transform is None else way.heldout((config.seed, 0), images.train)
    parts = (images.train, grey, images.validation, images.test)
    scaled = [x if high == 1 else np.round(x * np.float32(high)) for x in parts]
    return Pixels(images, "none" if raw.fixed_bits else method, levels, high, *scaled, transform)


def default_binarization(images: ImageData, likelihood: str) -> str:
    """Bits drawn afresh in every step for a Bernoulli of grey images, else the images as they are."""
    return "dynamic" if likelihood == "bernoulli" and not images.fixed_bits else "none"


def count_levels(images: ImageData, config: "Config", is_bits: bool) -> int:
    """How many values a pixel can have; of a file, bytes if the pixels are on their grid."""
    if is_bits:
        return 2
    if config.levels is not None:
        return checks.integer(config.levels, "levels", 2)
    if config.dataset in LEVELS:
        return LEVELS[config.dataset]
    bytes_of = images.train * np.float32(255)
    if np.abs(bytes_of - np.round(bytes_of)).max() > 1e-3 and config.likelihood in (
        *INTEGERS,
        "discretized_logistic",
    ):
        raise ValueError(
            f"levels: expected how many grey levels a pixel of {config.dataset} has, for it has "
            f"not the 256 of bytes and {config.likelihood} counts them"
        )
    return 256


def check_support(pixels: Pixels, likelihood: likelihoods.Likelihood) -> None:
    """Refuse images that have probability zero, naming the binarisation that would do."""
    for name in ("seen", "validation", "test"):
        likelihoods.check_support(likelihood, getattr(pixels, name), f"{name} images")
