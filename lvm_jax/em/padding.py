"""Rows and components are padded to few numbers, so that data of many sizes share programs.

Padded rows copy the last row and have weight 0. Padded components copy the first component and
have weight 0, log pi = -inf: no point is theirs, and an M-step keeps them as they are.
"""

from functools import lru_cache
from typing import Any

import jax
import numpy as np

from lvm_jax.compiling import bucket, pad_rows
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.statistics import Data, MixtureParameters
from lvm_jax.typing import Params

# Larger data are not padded: their fit takes longer than its compilation, and a copy takes memory.
MAX_BYTES = 2**25
# Products and exponentials of a pass up to which components are padded: some 1 ms on two cores.
CHEAP = 2_000_000
FEWEST = 8  # components of the smallest bucket


@lru_cache
def num_features(family: ExponentialFamily, dim: int, dtype: Any) -> int:
    """F of the family's features in D dimensions."""
    return jax.eval_shape(family.features, jax.ShapeDtypeStruct((1, dim), dtype)).shape[1]


def data(x: np.ndarray, weight: np.ndarray | None, origin: np.ndarray) -> Data:
    """Rows, weights and origin on the device, of a bucket's size where the data are small."""
    rows, size = (x, weight), None
    if x.nbytes <= MAX_BYTES:
        rows, size = pad_rows(rows, bucket(len(x))), np.int32(len(x))
    return Data(*jax.device_put((*rows, origin, size)))


def num_components(
    family: ExponentialFamily, rows: Data, number: int, num_restarts: int = 1
) -> int:
    """What K = `number` components are padded to: 8, 16, 32, ..., where a pass stays cheap."""
    if rows.size is None:
        return number
    n, dim = rows.x.shape
    padded = FEWEST
    while padded < number:
        padded *= 2
    work = n * padded * num_restarts * (num_features(family, dim, rows.x.dtype) + 8)
    return padded if work <= CHEAP else number


def pad(family: ExponentialFamily, parameters: MixtureParameters, size: int) -> MixtureParameters:
    """One mixture with `size` components, as NumPy arrays; see the module's text."""
    number = parameters.log_weights.shape[0]
    if number == size:
        return parameters
    index = np.concatenate([np.arange(number), np.zeros(size - number, int)])
    log_weights: Any = np.full(size, -np.inf, parameters.log_weights.dtype)
    log_weights[:number] = parameters.log_weights
    return MixtureParameters(log_weights, _select(family, parameters.components, index))


def cut(family: ExponentialFamily, parameters: MixtureParameters, number: int) -> MixtureParameters:
    """The first `number` components of one mixture, as NumPy arrays; undoes `pad`."""
    log_weights: Any = np.asarray(parameters.log_weights)[:number]
    return MixtureParameters(log_weights, _select(family, parameters.components, np.arange(number)))


def each(
    function: Any, family: ExponentialFamily, parameters: MixtureParameters, size: int
) -> MixtureParameters:
    """`pad` or `cut` of R mixtures whose leaves carry a leading axis R."""
    num_restarts = parameters.log_weights.shape[0]
    host: MixtureParameters = jax.tree.map(np.asarray, parameters)
    one = [jax.tree.map(lambda leaf, r=r: leaf[r], host) for r in range(num_restarts)]
    done = [function(family, each, size) for each in one]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *done)


@lru_cache
def blank(
    family: ExponentialFamily, num_restarts: int, number: int, dim: int, dtype: Any
) -> MixtureParameters:
    """Zeros in the place of the parameters that a fresh start makes."""
    centres = np.zeros((num_restarts, number, dim), dtype)
    start = jax.vmap(family.start, in_axes=(0, None))
    components = jax.eval_shape(start, centres, centres[0, 0])
    shapes: Any = (jax.ShapeDtypeStruct(centres.shape[:2], dtype), components)
    return MixtureParameters(*jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))


def _select(family: ExponentialFamily, components: Params, index: Any) -> Params:
    """Components by number, on the host: `family.select` takes an array of numbers as well."""
    return family.select(jax.tree.map(np.asarray, components), index)
