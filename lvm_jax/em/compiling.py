"""Compilation of the programs that pass over the data, which use one BLAS thread on a CPU.

On a CPU JAX factorizes matrices with SciPy's LAPACK. Its OpenBLAS threads spin for tens of
milliseconds after each call and compete with XLA's threads for the cores. On two cores one BLAS
thread reduces a step at 200,000 x 32 with 32 full components in float32 from 117 to 71 ms.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import scipy.linalg.cython_lapack  # noqa: F401 - loads the OpenBLAS that JAX calls
from threadpoolctl import ThreadpoolController

from lvm_jax import precision
from lvm_jax.compiling import BoundedJit, lean_options

SMALL_SIZE = 1_500  # total size of the arguments, e.g. 256 rows in four dimensions


@lru_cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process; cached, because listing them takes milliseconds."""
    return ThreadpoolController()


class DataProgram(BoundedJit):
    """A `bounded_jit` function whose float32 products have full precision."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...]) -> None:
        super().__init__(precision.full(function), static_argnums, lean=True)

    def options(self, args: tuple[Any, ...]) -> dict[str, Any] | None:
        """LEAN options; small data use optimisation level 0 (a step takes 0.1 ms, not 0.02)."""
        size = sum(leaf.size for leaf in jax.tree.leaves(args) if hasattr(leaf, "size"))
        return lean_options(0 if size <= SMALL_SIZE else self.level)

    def __call__(self, *args: Any) -> Any:
        """Call the function with positional arguments, with one BLAS thread on a CPU."""
        if jax.default_backend() != "cpu":
            return super().__call__(*args)
        with _blas().limit(limits=1, user_api="blas"):
            return jax.block_until_ready(super().__call__(*args))


def over_data(*static_argnums: int) -> Callable[[Callable[..., Any]], DataProgram]:
    """Return a decorator that compiles a `DataProgram` with these static argument positions."""
    return lambda function: DataProgram(function, static_argnums)
