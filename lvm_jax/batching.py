"""One function for every data point, as many points at a time as keep their rows in cache."""

from collections.abc import Callable
from typing import Any

import jax

from lvm_jax import checks


def batch_size(chunk_size: int, rows: int, num_points: int) -> int:
    """How many points of `rows` rows each run together: `chunk_size` rows at most, or one point.

    Raises ValueError or TypeError for a chunk_size that is not an integer >= 1.
    """
    together = max(checks.integer(chunk_size, "chunk_size", 1) // rows, 1)
    return min(together, num_points)


def for_each(one: Callable[[Any], Any], points: Any, together: int) -> Any:
    """`one` of every point, the leaves of `points` being [N, ...]; `together` at a time."""
    # One point at a time is a plain loop; a batch of one would cost an axis in every product.
    return jax.lax.map(one, points, batch_size=together if together > 1 else None)
