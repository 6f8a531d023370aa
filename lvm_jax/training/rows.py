"""Rows of data on the device, padded to few sizes, and their order in an epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lvm_jax import parallel
from lvm_jax._core.batching import num_rows
from lvm_jax._core.keys import has_prefixes
from lvm_jax.compiling import bounded_jit, bucket, pad_rows
from lvm_jax.typing import Array, Int, Key

MOST_BITS = 2**32 - 1

Count = Int[Array, ""] | np.int32
HeldOut = tuple[Any, Count]  # padded rows, leaves [P, ...], and how many are data


class Rows(NamedTuple):
    """Data on the device, padded so that programs do not depend on N."""

    values: Any  # leaves [P, ...], P >= N; the steps use the first N rows only
    number: Count  # N
    sorts: Count  # sorts in a permutation of N rows


def padded_rows(key: Key[Array, ""], x: Any, mesh: Mesh | None = None) -> Rows:
    """x [N, ...] padded to its bucket, on the device or on every device of the mesh."""
    number = num_rows(x)
    size = padded_size(key, number)
    values = jax.tree.map(jnp.asarray, x if size == number else pad_rows(x, size))
    return Rows(parallel.replicate(mesh, values), np.int32(number), num_sorts(number))


def padded_size(key: Key[Array, ""], num_rows: int) -> int:
    """The padded size: a bucket for Threefry, whose first N of P > N random numbers do not depend
    on P; N for other generators.
    """
    return bucket(num_rows) if has_prefixes(key) else num_rows


def num_sorts(num_rows: int) -> np.int32:
    """The number of sorts by 32 random bits that makes ties improbable (`random.permutation`)."""
    return np.int32(np.ceil(3 * np.log(num_rows) / np.log(MOST_BITS)))


def padded_order(
    key: Key[Array, ""], epoch: Array | int, size: int, number: Count, sorts: Count
) -> Int[Array, " P"]:
    """The order of the N = `number` rows in an epoch, then the indices from N to `size`.

    The first N equal `jax.random.permutation(jax.random.fold_in(key, epoch), N)`.
    """
    place = jnp.arange(size, dtype=jnp.int32)

    def shuffle(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        key, order = carry
        key, key_bits = jax.random.split(key)
        bits = jax.random.bits(key_bits, (size,), jnp.uint32)
        last = jnp.where(place < number, bits, np.uint32(MOST_BITS))
        return key, jax.lax.sort_key_val(last, order)[1]  # stable: real rows stay before padding

    start = jax.random.fold_in(key, epoch), place
    return jax.lax.fori_loop(0, sorts, shuffle, start)[1]


permute = bounded_jit(2)(padded_order)


def host_order(key: Key[Array, ""], epoch: int, num_rows: int) -> np.ndarray:
    """The order of the rows in an epoch, [N], on the host."""
    size = padded_size(key, num_rows)
    order = permute(key, np.int32(epoch), size, np.int32(num_rows), num_sorts(num_rows))
    return np.asarray(order)[:num_rows]


def validation_rows(x: Any, batch_size: int, mesh: Mesh | None) -> HeldOut:
    """x [M, ...], padded with its last row to a multiple of the batch size; and M."""
    number = num_rows(x)
    size = -(-bucket(number) // batch_size) * batch_size
    rows = parallel.replicate(mesh, jax.tree.map(jnp.asarray, pad_rows(x, size)))
    return rows, np.int32(number)
