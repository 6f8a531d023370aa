"""One lowering of each operation for all programs: in the tests only.

JAX lowers an operation once for each program, types and parameters, as a function of MLIR whose
body it copies to each place of use. Programs that have one MLIR context can share these functions
(tests/test_shared_lowering.py).
"""

from collections.abc import Callable, Hashable
from typing import Any

from jax._src import config
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir
from jax._src.sharding_impls import ShardingContext

PLAIN = mlir.LoweringParameters()
SYMBOLS = {"func.call", "stablehlo.composite"}  # operations that name another function


class Lowering:
    """Takes the place of JAX's function that lowers an operation which is new in its program."""

    def __init__(self) -> None:
        self.lower: Callable[..., Any] = mlir._cached_lowering_miss
        self.known: dict[Hashable, Any] = {}

    def __call__(self, ctx: Any, equation: Any, key: Any, avals: Any, **params: Any) -> Any:
        if not is_plain(ctx, equation):
            return self.lower(ctx, equation, key, avals, **params)
        place = (key, ctx.all_default_mem_kind, config.trace_context())
        found = self.known.get(place)
        if found is None:
            found = self.lower(ctx, equation, key, avals, **params)
            if is_complete(found):
                self.known[place] = found
        ctx.lowering_cache[key] = found
        return found


def is_plain(ctx: Any, equation: Any) -> bool:
    """Whether the program is of one device and not exported, and the operation is given by values."""
    place = ctx.axis_context
    return (
        isinstance(place, ShardingContext)
        and place.num_devices == 1
        and ctx.lowering_parameters == PLAIN
        and not ctx.shape_poly_state.dim_vars
        and not equation.effects
        and all(map(is_value, equation.params.values()))
    )


def is_value(x: Any) -> bool:
    """No function and no program, which would be kept with all that they hold."""
    if isinstance(x, tuple | list):
        return all(map(is_value, x))
    return isinstance(x, type) or not (callable(x) or hasattr(x, "eqns") or hasattr(x, "jaxpr"))


def is_complete(entry: Any) -> bool:
    """Whether a lowered operation is copied and names no other function of its program.

    A call of LAPACK is lowered in each program, which then runs with one BLAS thread.
    """
    complete = entry.inline and not entry.const_args

    def visit(operation: Any) -> Any:
        nonlocal complete
        called = operation.name == "stablehlo.custom_call" and "called_computations"
        names = called and called in operation.attributes and len(operation.attributes[called])
        lapack = called and "lapack" in str(operation.attributes["call_target_name"])
        complete = complete and not names and not lapack and operation.name not in SYMBOLS
        return ir.WalkResult.ADVANCE

    entry.func.operation.walk(visit)
    return complete


LOWERING = Lowering()


def install() -> None:
    """Share lowered operations from here on; all programs must have one MLIR context."""
    mlir._cached_lowering_miss = LOWERING
