"""One function for every data point, as many points at a time as suit the device.

On a CPU their rows should stay in cache. A GPU or a TPU needs more rows to be busy: on an H200 a
draw of a VAE of images takes 72 ns in chunks of 1,000 rows, and 18 by 100,000 rows together. It has
a memory of its own, which may not hold them: `plenty` is for those that know the rows of a point.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import compiling
from lvm_jax._core import checks
from lvm_jax.typing import Array, Int

# Chunks that run together on a GPU or a TPU: of a decoder of 784 pixels 0.14 GB where it is an MLP,
# 2 GB where it is convolutions.
AT_ONCE = 32


def batch_size(chunk_size: int, rows: int, num_points: int) -> int:
    """How many points of `rows` rows each run together: `chunk_size` rows at most, or one point.

    A smaller number that divides the points is preferred, down to half as many: points left over
    are a second program, and take as long to compile as the first.

    Raises ValueError or TypeError for a chunk_size that is not an integer >= 1.
    """
    together = max(checks.integer(chunk_size, "chunk_size", 1) // rows, 1)
    most = min(together, num_points)
    even = max(size for size in range(1, most + 1) if num_points % size == 0)
    return even if 2 * even >= most else most


def few_together(chunk_size: int, rows: int, number: int) -> int:
    """`batch_size` for `number` points in a bucket, whose rows take many steps each.

    Of fewer than 16 points the largest power of two at most: rows of the bucket that hold no point
    would take as long as those that do.
    """
    most = min(max(checks.integer(chunk_size, "chunk_size", 1) // rows, 1), number)
    if most < compiling.SMALLEST:
        return 1 << most.bit_length() - 1
    return batch_size(chunk_size, rows, compiling.bucket(number))


def plenty(chunk_size: int) -> int:
    """Rows that run together: `chunk_size` on a CPU, AT_ONCE times as many on a GPU or a TPU."""
    chunk_size = checks.integer(chunk_size, "chunk_size", 1)
    return chunk_size if jax.default_backend() == "cpu" else AT_ONCE * chunk_size


def for_each(one: Callable[[Any], Any], points: Any, together: int) -> Any:
    """`one` of every point, the leaves of `points` being [N, ...]; `together` at a time."""
    # One point at a time is a plain loop; a batch of one would cost an axis in every product.
    return jax.lax.map(one, points, batch_size=together if together > 1 else None)


def for_first(
    one: Callable[[Any], Any], points: Any, together: int, number: int | Int[Array, ""]
) -> Any:
    """`for_each` of the first `number` points alone, which may be traced; zeros for the others.

    For points padded to a bucket: as many rows are computed as `number` fills, rounded up to
    `together`.
    """
    size = jax.tree.leaves(points)[0].shape[0]
    together = min(together, size)
    # Traced once, for the shapes and for the loop.
    every = jax.jit(jax.vmap(one) if together > 1 else one)
    lead = (together,) if together > 1 else ()

    def batch(start: int | Array) -> Any:
        rows = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, together), points
        )
        return every(rows if together > 1 else jax.tree.map(lambda leaf: leaf[0], rows))

    def step(index: Array, found: Any) -> Any:
        start = jnp.minimum(index * together, size - together)  # the last may overlap

        def put(all_: Array, rows: Array) -> Array:
            rows = rows if together > 1 else rows[None]
            return jax.lax.dynamic_update_slice_in_dim(all_, rows, start, 0)

        return jax.tree.map(put, found, batch(start))

    rows = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape[1:]), leaf.dtype), points
    )
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros((size, *leaf.shape[len(lead) :]), leaf.dtype),
        jax.eval_shape(every, rows),
    )
    return jax.lax.fori_loop(0, (number + together - 1) // together, step, nothing)


def num_rows(points: Any) -> int:
    """N of a pytree of leaves [N, ...]."""
    return int(jax.tree.leaves(points)[0].shape[0])


def rows_of(points: Any, index: Any) -> Any:
    """Row `index`, or the rows of an array of them, of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], points)


def padded(points: Any) -> tuple[Any, int, np.int32]:
    """Points [N, ...] padded on the host to their bucket, the bucket's size, and N to be traced.

    `compiling.bucket` says which sizes share a program.
    """
    number = num_rows(points)
    size = compiling.bucket(number)
    return compiling.pad_rows(points, size), size, np.int32(number)


def unpadded(found: Any, number: int | np.int32) -> Any:
    """The first `number` rows of every leaf; another number compiles nothing."""
    return jax.device_put(compiling.first_rows(found, int(number)))
