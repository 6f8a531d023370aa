"""Small files in the published formats, and a data set that is published as such."""

import gzip
import hashlib
import struct

import numpy as np

from lvm_jax.data import levels, store
from lvm_jax.data.published import Collection, PublishedFile

RANDOM = np.random.RandomState(0)
TRAIN, TEST = RANDOM.randint(256, size=(6, 3, 2)), RANDOM.randint(256, size=(4, 3, 2))
TRAIN_LABELS, TEST_LABELS = np.array([3, 1, 4, 1, 5, 9]), np.array([2, 6, 5, 3])
BITS = [RANDOM.randint(2, size=(n, 784)) for n in (5, 2, 3)]
TINY = {"mnist": levels.MNIST, "fashion_mnist": levels.FASHION_MNIST}


def as_idx(array):
    """The IDX format from its description: magic number, lengths, bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + bytes(int(n) for n in array.ravel())


def as_amat(bits):
    return "".join(" ".join(map(str, row)) + "\n" for row in bits).encode()


FOUR = [as_idx(a) for a in (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)]
THREE = [as_amat(bits) for bits in BITS]


def publish(monkeypatch, folder, name, contents):
    """A data set of this name whose published files are these, in a folder of one's own."""
    original = {**TINY, "binarized_mnist": levels.BINARIZED_MNIST}[name]
    files = tuple(
        PublishedFile(old.name, old.url, "", f"sha1:{hashlib.sha1(content).hexdigest()}")
        for old, content in zip(original.files, contents, strict=True)
    )
    monkeypatch.setattr(levels, name.upper(), Collection(name, files))
    splits = ("5/2/3",) if name == "binarized_mnist" else ("6/4", "4/2/4")
    monkeypatch.setitem(
        levels.NAMED_IMAGES, name, levels.NAMED_IMAGES[name]._replace(splits=splits)
    )
    monkeypatch.setenv(store.VARIABLE, str(folder))
    (folder / name).mkdir()
    paths = [folder / name / f"{file.name}.gz" for file in files]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(gzip.compress(content))
    return paths
