"""Padding of rows and components to a few sizes, so that data of many sizes share programs.

Padded rows copy the last row and have weight 0. Padded components copy the first component and
have log pi = -inf: their responsibilities are 0, and an M-step does not change them.
"""

from functools import lru_cache
from typing import Any

import jax
import numpy as np

from lvm_jax.compiling import bucket, pad_rows
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.statistics import Data, MixtureParameters
from lvm_jax.typing import Params

# Larger data are not padded: a fit takes longer than its compilation, and a copy takes memory.
MAX_BYTES = 2**25
# Components are padded up to this many products and exponentials a pass: about 1 ms on two cores.
CHEAP = 2_000_000
FEWEST = 8  # components of the smallest bucket


@lru_cache
def num_features(family: ExponentialFamily, dim: int, dtype: Any) -> int:
    """F, the number of the family's features in D dimensions."""
    return jax.eval_shape(family.features, jax.ShapeDtypeStruct((1, dim), dtype)).shape[1]


def data(x: np.ndarray, weight: np.ndarray | None, origin: np.ndarray) -> Data:
    """Rows, weights and origin on the device; small data are padded to a bucket size."""
    rows, size = (x, weight), None
    if x.nbytes <= MAX_BYTES:
        rows, size = pad_rows(rows, bucket(len(x))), np.int32(len(x))
    return Data(*jax.device_put((*rows, origin, size)))


def num_components(
    family: ExponentialFamily, rows: Data, number: int, num_restarts: int = 1, most: int = 0
) -> int:
    """The padded number of components, 8, 16, 32, ...; `number` where a pass would cost more.

    A search of up to `most` components shares one size, where that is as cheap.
    """
    if rows.size is None:
        return number
    n, dim = rows.x.shape
    for largest in (max(most, number), number):
        padded = FEWEST
        while padded < largest:
            padded *= 2
        work = n * padded * num_restarts * (num_features(family, dim, rows.x.dtype) + 8)
        if work <= CHEAP:
            return padded
    return number


def pad(family: ExponentialFamily, parameters: MixtureParameters, size: int) -> MixtureParameters:
    """Pad one mixture to `size` components, as NumPy arrays."""
    number = parameters.log_weights.shape[0]
    if number == size:
        return parameters
    index = np.concatenate([np.arange(number), np.zeros(size - number, int)])
    log_weights: Any = np.full(size, -np.inf, parameters.log_weights.dtype)
    log_weights[:number] = parameters.log_weights
    return MixtureParameters(log_weights, _select(family, parameters.components, index))


def cut(family: ExponentialFamily, parameters: MixtureParameters, number: int) -> MixtureParameters:
    """The first `number` components of one mixture, as NumPy arrays; the inverse of `pad`."""
    log_weights: Any = np.asarray(parameters.log_weights)[:number]
    return MixtureParameters(log_weights, _select(family, parameters.components, np.arange(number)))


def each(
    function: Any, family: ExponentialFamily, parameters: MixtureParameters, size: int
) -> MixtureParameters:
    """Apply `pad` or `cut` to R mixtures whose leaves have a leading axis R."""
    num_restarts = parameters.log_weights.shape[0]
    host: MixtureParameters = jax.tree.map(np.asarray, parameters)
    one = [jax.tree.map(lambda leaf, r=r: leaf[r], host) for r in range(num_restarts)]
    done = [function(family, each, size) for each in one]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *done)


@lru_cache
def blank(
    family: ExponentialFamily, num_restarts: int, number: int, dim: int, dtype: Any
) -> MixtureParameters:
    """Parameters of zeros, with the shapes that `family.start` returns."""
    centres = np.zeros((num_restarts, number, dim), dtype)
    start = jax.vmap(family.start, in_axes=(0, None))
    components = jax.eval_shape(start, centres, centres[0, 0])
    shapes: Any = (jax.ShapeDtypeStruct(centres.shape[:2], dtype), components)
    return MixtureParameters(*jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))


def _select(family: ExponentialFamily, components: Params, index: Any) -> Params:
    """The components at an array of indices, as NumPy arrays."""
    return family.select(jax.tree.map(np.asarray, components), index)
