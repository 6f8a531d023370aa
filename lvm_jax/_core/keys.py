"""Keys: splits on the host, and a faster implementation of Threefry on a CPU, as `jax.random`.

On a CPU JAX runs the rounds of Threefry as a loop over arrays in memory. Unrolled rounds are one
pass, which the compiler fuses with the use of the bits; a draw takes half the time.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as extend

from lvm_jax.typing import Array, Key, UInt

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
NAME = "threefry2x32"

MOST = 8  # keys of one program of `split`

Word = UInt[Array, "..."]  # 32 bits each


def split(key: Key[Array, ""], number: int = 2) -> tuple[Key[Array, ""], ...]:
    """The keys of `jax.random.split(key, number)`, for functions on the host.

    One program serves all numbers up to 8. `jax.random.split` compiles one for each number, and
    the loop over its result another.
    """
    if number > MOST or not has_prefixes(key):
        return tuple(jax.random.split(key, number))
    return _first_keys(key)[:number]


@jax.jit
def _first_keys(key: Key[Array, ""]) -> tuple[Key[Array, ""], ...]:
    return tuple(jax.random.split(key, MOST))


def unrolled(key: Key[Array, ""]) -> Key[Array, ""]:
    """An equivalent key with a faster CPU implementation.

    The key is returned unchanged on other backends, for other generators than Threefry, and with
    `jax_threefry_partitionable=False`.
    """
    usual = str(jax.random.key_impl(key)) == NAME
    if jax.default_backend() != "cpu" or not usual or not has_prefixes(key):
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=UNROLLED)


def has_prefixes(key: Key[Array, ""]) -> bool:
    """Whether N draws of 32 bits from the key are a prefix of every larger number of draws.

    This holds for Threefry with `jax_threefry_partitionable`, where draw i depends on i only.
    """
    counted = bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]
    return counted and "threefry2x32" in str(jax.random.key_impl(key))


def threefry(key: Word, high: Word, low: Word) -> tuple[Word, Word]:
    """Threefry-2x32 with 20 rounds; key [2], counters high and low of equal shape.

    Source: Salmon et al. (2011).
    """
    keys = key[0], key[1], key[0] ^ key[1] ^ PARITY
    high, low = high + keys[0], low + keys[1]
    for block in range(5):
        for turn in ROTATIONS[block % 2]:
            high = high + low
            low = high ^ ((low << np.uint32(turn)) | (low >> np.uint32(32 - turn)))
        high = high + keys[(block + 1) % 3]
        low = low + keys[(block + 2) % 3] + np.uint32(block + 1)
    return high, low


def _counters(shape: tuple[int, ...]) -> tuple[Word, Word]:
    """0, 1, 2, ... in row-major order, as two 32-bit words."""
    size = math.prod(shape)
    if size > 2**32:
        raise ValueError(f"shape: expected at most 2^32 draws from one key, got {shape}")
    low = jax.lax.iota(jnp.uint32, size).reshape(shape)
    return jnp.zeros_like(low), low


def _bits(key: Word, width: int, shape: tuple[int, ...]) -> Array:
    high, low = threefry(key, *_counters(shape))
    if width == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{width}")


def _split(key: Word, shape: tuple[int, ...]) -> Word:
    return jnp.stack(threefry(key, *_counters(shape)), axis=-1)


def _seed(seed: Array) -> Word:
    return jax.random.key_data(jax.random.key(seed, impl=NAME))


def _fold_in(key: Word, data: int | Array) -> Word:
    return jnp.stack(threefry(key, jnp.uint32(0), jnp.asarray(data).astype(jnp.uint32)))


UNROLLED = extend.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="unrolled_threefry2x32",
    tag="ufry",
)
