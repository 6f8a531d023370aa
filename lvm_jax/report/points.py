"""Ids of data points, which `compare` uses to pair runs."""

from collections import Counter
from hashlib import blake2b

import numpy as np

from lvm_jax.typing import ArrayLike


def point_ids(x: ArrayLike) -> np.ndarray:
    """A 64-bit hash of the bytes of each row of x [N, ...].

    Equal rows of two arrays have equal ids; repeated rows within an array have different ids.
    """
    seen: Counter[bytes] = Counter()
    ids = []
    for content in (row.tobytes() for row in np.asarray(x)):
        digest = blake2b(content + bytes(seen[content]), digest_size=8).digest()
        ids.append(int.from_bytes(digest))
        seen[content] += 1
    return np.array(ids, np.uint64)
