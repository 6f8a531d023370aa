"""How the programs that pass over the data are compiled and run on a CPU: leaner, and faster.

XLA's fusion emitters cost 90 to 250 MB while they compile such a loop, and the code is no faster.

JAX factorizes on a CPU by SciPy's LAPACK, whose OpenBLAS keeps its threads spinning for tens of
milliseconds after a call: after each M-step they would take the cores from XLA's. With one BLAS
thread (the matrices of an M-step are small) a step at 200,000 x 32 with 32 full components in
float32 takes 71 ms and not 117, on two cores.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache, update_wrapper
from typing import Any

import jax
import scipy.linalg.cython_lapack  # noqa: F401 - loads the OpenBLAS that JAX calls
from threadpoolctl import ThreadpoolController

from lvm_jax import precision

LEAN = {"xla_cpu_use_fusion_emitters": False}


@lru_cache
def lean_options() -> dict[str, Any] | None:
    """LEAN on a CPU whose XLA knows it, else None."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=LEAN).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # an option of XLA's, which may go as it came
        return None
    return LEAN


@lru_cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process, found once: looking for them takes milliseconds."""
    return ThreadpoolController()


class Program:
    """A jitted function, made at its first call, when the backend is known."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...]) -> None:
        update_wrapper(self, function)
        self.function, self.static_argnums = function, static_argnums

    @cached_property
    def jitted(self) -> Any:
        """The function, compiled for each of its static arguments."""
        return jax.jit(
            precision.full(self.function),
            static_argnums=self.static_argnums,
            compiler_options=lean_options(),
        )

    def __call__(self, *args: Any) -> Any:
        """The function's value, by one BLAS thread on a CPU; arguments by position."""
        if jax.default_backend() != "cpu":
            return self.jitted(*args)
        with _blas().limit(limits=1, user_api="blas"):
            return jax.block_until_ready(self.jitted(*args))


def over_data(*static_argnums: int) -> Callable[[Callable[..., Any]], Program]:
    """Decorate a function that passes over the data; its arguments at these places are static."""
    return lambda function: Program(function, static_argnums)
