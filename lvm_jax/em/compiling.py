"""Compilation of the programs that pass over the data."""

from collections.abc import Callable
from typing import Any

import jax

from lvm_jax import precision
from lvm_jax.compiling import BoundedJit, lean_options

SMALL_SIZE = 1_500  # total size of the arguments, e.g. 256 rows in four dimensions


class DataProgram(BoundedJit):
    """A `bounded_jit` function whose float32 products have full precision."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...]) -> None:
        super().__init__(precision.full(function), static_argnums, lean=True)

    def options(self, args: tuple[Any, ...]) -> dict[str, Any] | None:
        """LEAN options with level 3; small data use 0 (a step takes 0.1 ms, not 0.02)."""
        size = sum(leaf.size for leaf in jax.tree.leaves(args) if hasattr(leaf, "size"))
        return lean_options(0 if size <= SMALL_SIZE else 3)


def over_data(*static_argnums: int) -> Callable[[Callable[..., Any]], DataProgram]:
    """Return a decorator that compiles a `DataProgram` with these static argument positions."""
    return lambda function: DataProgram(function, static_argnums)
