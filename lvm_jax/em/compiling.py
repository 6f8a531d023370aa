"""Programs that pass over the data: compiled lean, and run with one BLAS thread on a CPU.

JAX factorizes on a CPU by SciPy's LAPACK, whose OpenBLAS keeps its threads spinning for tens of
milliseconds after a call: after each M-step they would take the cores from XLA's. With one BLAS
thread (the matrices of an M-step are small) a step at 200,000 x 32 with 32 full components in
float32 takes 71 ms and not 117, on two cores.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import scipy.linalg.cython_lapack  # noqa: F401 - loads the OpenBLAS that JAX calls
from threadpoolctl import ThreadpoolController

from lvm_jax import precision
from lvm_jax.compiling import BoundedJit, lean_options

SMALL_SIZE = 1_500  # numbers of all arguments together: 256 rows in four dimensions


@lru_cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process, listed once: listing them takes milliseconds."""
    return ThreadpoolController()


class DataProgram(BoundedJit):
    """A `bounded_jit` function whose float32 products have full precision."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...]) -> None:
        super().__init__(precision.full(function), static_argnums, lean=True)

    def options(self, args: tuple[Any, ...]) -> dict[str, Any] | None:
        """LEAN; not optimised where the data are small: a step then takes 0.1 ms and not 0.02."""
        size = sum(leaf.size for leaf in jax.tree.leaves(args) if hasattr(leaf, "size"))
        return lean_options(0 if size <= SMALL_SIZE else self.level)

    def __call__(self, *args: Any) -> Any:
        """The function's value, by one BLAS thread on a CPU; arguments by position."""
        if jax.default_backend() != "cpu":
            return super().__call__(*args)
        with _blas().limit(limits=1, user_api="blas"):
            return jax.block_until_ready(super().__call__(*args))


def over_data(*static_argnums: int) -> Callable[[Callable[..., Any]], DataProgram]:
    """Decorate a function that passes over the data; its arguments at these places are static."""
    return lambda function: DataProgram(function, static_argnums)
