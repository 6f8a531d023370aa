"""The blocks of columns of a `Product`."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lvm_jax._core import checks
from lvm_jax.em import padding
from lvm_jax.em.covariances import GAUSSIANS
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.typing import Array


class Block(NamedTuple):
    """A family and the columns of the data that it describes."""

    family: ExponentialFamily
    columns: tuple[int, ...]


def take(x: Array, columns: tuple[int, ...]) -> Array:
    """Some entries of the last axis; successive ones without a copy."""
    first, number = columns[0], len(columns)
    if columns == tuple(range(first, first + number)):
        return x[..., first : first + number]
    return x[..., np.array(columns)]


class Expected(NamedTuple):
    """log p(x_observed | z=k), and the posterior of the missing entries of each block."""

    log_prob: Any
    parts: tuple[Any, ...]


def as_block(value: Any) -> Block:
    """A block from a pair of a family and columns."""
    family, columns = value
    if isinstance(family, str):
        family = GAUSSIANS[checks.choice(family, "blocks", tuple(GAUSSIANS))]
    if not isinstance(family, ExponentialFamily):
        raise TypeError(
            "blocks: expected pairs of an em.ExponentialFamily, or a covariance type, and columns, "
            f"got {type(family).__name__}"
        )
    return Block(family, tuple(checks.integer(column, "columns", 0) for column in columns))


@lru_cache
def width(family: ExponentialFamily, dim: int) -> int:
    """The number of features of a block."""
    return padding.num_features(family, dim, np.dtype(np.float32))
