"""Ids of data points, by which the runs of `compare` are paired."""

from collections import Counter
from hashlib import blake2b

import numpy as np

from lvm_jax.typing import ArrayLike


def point_ids(x: ArrayLike) -> np.ndarray:
    """A number for each row of x [N, ...]: 64 bits of a hash of its bytes.

    Equal rows of two arrays have equal ids; the second, third, ... copy of a row within an array
    has an id of its own.
    """
    seen: Counter[bytes] = Counter()
    ids = []
    for content in (row.tobytes() for row in np.asarray(x)):
        digest = blake2b(content + bytes(seen[content]), digest_size=8).digest()
        ids.append(int.from_bytes(digest))
        seen[content] += 1
    return np.array(ids, np.uint64)
