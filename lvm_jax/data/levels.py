"""The named image data sets as integer grey levels, before the split."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from lvm_jax.data import idx, store
from lvm_jax.data.embedded import digits
from lvm_jax.data.published import BINARIZED_MNIST, FASHION_MNIST, MNIST, Collection, PublishedFile

ORDER_SEED = 0  # of the permutation of the digits


class Levels(NamedTuple):
    """All images of a data set, training before test; `levels` are 0 .. highest."""

    source: str
    shape: tuple[int, int]
    levels: UInt8[np.ndarray, "N D"]
    highest: int
    labels: Int[np.ndarray, " N"] | None


class NamedImages(NamedTuple):
    """The reader of a named data set, and its canonical splits, the default first."""

    read: Callable[[], Levels]
    splits: tuple[str, ...]


def read_mnist() -> Levels:
    """60,000 + 10,000 handwritten digits of 28x28 pixels."""
    return _read_idx_pairs(MNIST, "MNIST, 70,000 handwritten digits of 28x28 (LeCun et al., 1998)")


def read_fashion_mnist() -> Levels:
    """60,000 + 10,000 pieces of clothing of 28x28 pixels."""
    title = "Fashion-MNIST, 70,000 pieces of clothing, 28x28 (Xiao, Rasul and Vollgraf, 2017)"
    return _read_idx_pairs(FASHION_MNIST, title)


def read_binarized_mnist() -> Levels:
    """MNIST with published bits, without labels.

    The order differs from MNIST: the 60,000 are shuffled, and the test images are sorted by class.
    """
    parts = []
    for file in BINARIZED_MNIST.files:
        path = store.find(BINARIZED_MNIST, file)
        content = idx.read_bytes(path)
        parts.append(idx.parse_amat(content, path, dim=28 * 28))
        store.check_content(content, file, path)
    title = "MNIST with fixed bits, 70,000 digits of 28x28 (Larochelle and Murray, 2011)"
    return Levels(title, (28, 28), np.concatenate(parts), 1, None)


def read_digits() -> Levels:
    """1,797 handwritten digits of 8x8 pixels, in one fixed random order.

    The order of the file is not random: its labels repeat the sequence 0 to 9.
    """
    data = digits()
    # RandomState's stream is frozen, so that the split is the same for all versions of NumPy.
    order = np.random.RandomState(ORDER_SEED).permutation(len(data.x))
    levels = data.x[order].astype(np.uint8)
    return Levels(data.source, (8, 8), levels, 16, np.asarray(data.labels)[order].astype(np.int32))


def _read_idx_pairs(collection: Collection, title: str) -> Levels:
    """Train and test images of a data set, with labels, from four files."""
    files = collection.files
    train, train_labels = _read_pair(collection, files[:2])
    test, test_labels = _read_pair(collection, files[2:])
    levels = np.concatenate([train, test])
    labels = np.concatenate([train_labels, test_labels]).astype(np.int32)
    height, width = train.shape[1:]
    return Levels(title, (height, width), levels.reshape(-1, height * width), 255, labels)


def _read_pair(
    collection: Collection, files: tuple[PublishedFile, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Images and their labels; ValueError with the path for a wrong structure or checksum."""
    paths = [store.find(collection, file) for file in files]
    contents = [idx.read_bytes(path) for path in paths]
    images, labels = (idx.parse_idx(c, path) for c, path in zip(contents, paths, strict=True))
    idx.check_pair(images, labels, *paths)
    for content, file, path in zip(contents, files, paths, strict=True):
        store.check_content(content, file, path)
    return images, labels


CANONICAL = ("60000/10000", "59600/400/10000", "50000/10000/10000")

NAMED_IMAGES = {
    "digits": NamedImages(read_digits, ("1297/200/300",)),
    "mnist": NamedImages(read_mnist, CANONICAL),
    "binarized_mnist": NamedImages(read_binarized_mnist, CANONICAL[::-1]),
    "fashion_mnist": NamedImages(read_fashion_mnist, CANONICAL),
}
