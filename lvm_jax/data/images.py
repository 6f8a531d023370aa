"""Image data sets by name, or from a user's array, split into train, validation and test.

An image is a row of D = H W numbers in [0, 1], line by line from the top: grey levels divided by
the highest grey level, or bits 0.0 and 1.0.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from lvm_jax._core.nearest import suggestion
from lvm_jax.data.levels import NAMED_IMAGES
from lvm_jax.data.tables import check_file, read_npy

Counts = tuple[int, int, int]  # numbers of images for train, validation, test
LabelParts = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


class ImageData(NamedTuple):
    """Images of one shape (H, W) in three parts; validation and test may have no rows.

    All are float32 in [0, 1]. `fixed_bits`: every pixel is 0.0 or 1.0 and is not binarised again.
    Labels are classes, which fits do not use, or None.
    """

    name: str
    source: str
    shape: tuple[int, int]
    train: Float[np.ndarray, "N D"]
    validation: Float[np.ndarray, "M D"]
    test: Float[np.ndarray, "T D"]
    train_labels: Int[np.ndarray, " N"] | None
    validation_labels: Int[np.ndarray, " M"] | None
    test_labels: Int[np.ndarray, " T"] | None
    fixed_bits: bool


def load_images(name: str | Path, split: str | None = None) -> ImageData:
    """Load images of a data set by its name, or of a user's .npy file by its path.

    - "digits": 1,797 images of 8x8, split "1297/200/300"; needs no files and no internet.
    - "mnist", "fashion_mnist": 28x28, split "60000/10000" (train/test, the default), or as
      train/validation/test "59600/400/10000" (as Burda et al., 2016) or "50000/10000/10000".
    - "binarized_mnist": MNIST with the published bits of Larochelle and Murray (2011), split
      "50000/10000/10000" as published (the default) or like "mnist". Its test images are sorted by
      class, starting with 980 zeros: use all of them, never the first few.

    The 28x28 sets are split in file order: validation is the end of the 60,000 training images. The
    digits and a user's file are split after one fixed permutation. For a file any split is valid
    that adds up to its number of images; the default is that of `from_array`.

    Files are read from $LVM_JAX_DATA/<name>, the user's cache or the system's folder, or downloaded
    (see `lvm_jax.data.store`); checksums are verified at each load.

    Raises ValueError for an unknown name or split and for a file that is not the published one;
    FileNotFoundError, with instructions, for a file that is not found and cannot be downloaded.
    """
    if str(name) in NAMED_IMAGES:
        return _load_named(str(name), split)
    path = Path(name)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return _load_file(path, split)
    raise ValueError(_unknown("name", str(name), [*NAMED_IMAGES], " or the path of a .npy file"))


def from_array(
    x: np.ndarray,
    shape: tuple[int, int] | None = None,
    *,
    labels: np.ndarray | None = None,
    validation: int | None = None,
    test: int | None = None,
    seed: int | None = 0,
    name: str = "array",
) -> ImageData:
    """Split a user's images [N, H, W], or rows [N, D] of images (H, W), into three parts.

    Without `shape` rows are square images if D is a square number, otherwise one line of D pixels.
    Unsigned bytes are divided by 255, unless all of them are 0 or 1; booleans become 0.0 and 1.0;
    other numbers must be in [0, 1]. `validation` and `test` are numbers of images (default: N // 10
    each), taken from the end after a permutation by `seed`; None keeps the order.

    Raises TypeError or ValueError for images that are not finite real numbers in [0, 1], that do
    not match `shape`, or that are too few for the parts.
    """
    rows, shape = _rows(np.asarray(x), shape)
    tenth = len(rows) // 10
    counts = _counts(len(rows), *(tenth if n is None else n for n in (validation, test)))
    images = _unit_interval(rows)
    if labels is not None and np.shape(labels) != (len(rows),):
        raise ValueError(f"labels: expected shape [{len(rows)}], got {np.shape(labels)}")
    classes = None if labels is None else np.asarray(labels)
    if seed is not None:
        order = np.random.RandomState(seed).permutation(len(images))
        images, classes = images[order], None if classes is None else classes[order]
    bits = bool(((images == 0) | (images == 1)).all())
    source = f"{name}: {len(images):,} images of {shape[0]}x{shape[1]}"
    parts = *_cut(images, counts), *_cut_labels(classes, counts)
    return ImageData(name, source, shape, *parts, fixed_bits=bits)


def _load_named(name: str, split: str | None) -> ImageData:
    read, splits = NAMED_IMAGES[name]
    split = splits[0] if split is None else split
    if split not in splits:
        raise ValueError(_unknown("split", split, list(splits), f" for {name}"))
    source, shape, levels, highest, labels = read()
    images = np.divide(levels, np.float32(highest), dtype=np.float32)
    counts = read_split(split, len(images))
    meaning = "train/validation/test" if counts[1] else "train/test"
    parts = *_cut(images, counts), *_cut_labels(labels, counts)
    return ImageData(name, f"{source}; {meaning} {split}", shape, *parts, fixed_bits=highest == 1)


def _load_file(path: Path, split: str | None) -> ImageData:
    check_file(path, [".npy"])
    x = read_npy(path)
    if split is None:
        return from_array(x, name=path.stem)
    _, validation, test = read_split(split, len(np.atleast_1d(x)))
    return from_array(x, validation=validation, test=test, name=path.stem)


def read_split(split: str, num_images: int) -> Counts:
    """The numbers in "train/test" or "train/validation/test"; ValueError if they do not add up."""
    parts = [int(p) if p.strip().isdecimal() and p.isascii() else -1 for p in split.split("/")]
    if len(parts) not in (2, 3) or min(parts) < 0 or parts[0] == 0 or sum(parts) != num_images:
        raise ValueError(
            "split: expected train/test or train/validation/test, numbers of images that add up "
            f"to {num_images}, got {split!r}"
        )
    return parts[0], sum(parts[1:-1]), parts[-1]


def _cut(array: np.ndarray, counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, validation and test, as views."""
    train, validation, test = np.split(array, np.cumsum(counts)[:2])
    return train, validation, test


def _cut_labels(labels: np.ndarray | None, counts: Counts) -> LabelParts:
    return (None, None, None) if labels is None else _cut(labels, counts)


def _counts(num_images: int, validation: int, test: int) -> Counts:
    from lvm_jax._core import checks

    validation = checks.integer(validation, "validation", minimum=0)
    test = checks.integer(test, "test", minimum=0)
    train = num_images - validation - test
    if train < 1:
        raise ValueError(
            f"validation, test: expected to leave at least one of {num_images} images for "
            f"training, got {validation} and {test}"
        )
    return train, validation, test


def _rows(
    x: np.ndarray, shape: tuple[int, int] | None
) -> tuple[Shaped[np.ndarray, "N D"], tuple[int, int]]:
    """The images as rows, and the shape of one."""
    if x.ndim not in (2, 3) or 0 in x.shape:
        raise ValueError(f"x: expected images [N, H, W] or rows [N, D], got shape {x.shape}")
    dim = math.prod(x.shape[1:])
    if x.ndim == 3:
        found = (x.shape[1], x.shape[2])
    else:
        side = math.isqrt(dim)
        found = (side, side) if side * side == dim else (1, dim)
    if shape is None:
        return x.reshape(len(x), dim), found
    if len(shape) != 2 or math.prod(shape) != dim or (x.ndim == 3 and tuple(shape) != found):
        raise ValueError(f"shape: expected (H, W) of images {x.shape[1:]}, got {tuple(shape)}")
    return x.reshape(len(x), dim), (int(shape[0]), int(shape[1]))


def _unit_interval(x: np.ndarray) -> Float[np.ndarray, "N D"]:
    """Pixels as float32 in [0, 1]; ValueError unless they are bytes or in [0, 1]."""
    from lvm_jax._core import checks

    if x.dtype == np.uint8 and x.max() > 1:
        return np.divide(x, np.float32(255), dtype=np.float32)
    x = np.asarray(checks.float_array(x, "x"))
    checks.finite(x, "x")
    lowest, highest = float(x.min()), float(x.max())
    if lowest < 0 or highest > 1:
        raise ValueError(
            f"x: expected pixels in [0, 1], or unsigned bytes (uint8), got {lowest:g} to "
            f"{highest:g}; subtract the lowest possible level and divide by the range of levels"
        )
    return x.astype(np.float32)


def _unknown(name: str, value: str, allowed: list[str], more: str) -> str:
    hint = suggestion(value, allowed)
    return f"{name}: expected {', '.join(allowed)}{more}, got {value!r}{hint}"
