"""Networks from user-defined flax modules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.networks.base import Network, check_input, input_shape, of_module
from lvm_jax.typing import Array, Float, Key, Params


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module], num_inputs: int | tuple[int, ...]) -> Network:
    """A network from a user-defined `flax.nnx` module, `build(rngs)`.

    The module maps ONE input, [num_inputs] or of the shape `num_inputs`, to one vector. All its
    variables must be parameters.

    Raises ValueError for a module with other state, such as batch statistics, or with an output
    that is no vector.
    """
    shape = input_shape(num_inputs)
    module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    others = [type(leaf).__name__ for _, leaf in nnx.to_flat_state(nnx.state(module))]
    foreign = sorted({name for name in others if name != "Param"})
    if foreign:
        raise ValueError(
            f"build: expected a module whose variables are all nnx.Param, got {', '.join(foreign)} "
            "too; use layers without running statistics or random state, such as nnx.LayerNorm"
        )
    return of_module(
        build,
        shape,
        _outputs(lambda x: nnx.eval_shape(lambda x: build(nnx.Rngs(0))(x), x), shape, "build"),
    )


def from_linen(module: Any, num_inputs: int | tuple[int, ...]) -> Network:
    """A network from a user-defined `flax.linen` module; see `from_nnx`.

    The parameters are module.init(key, x)["params"].

    Raises ValueError as `from_nnx`, and for other collections than "params".
    """
    shape = input_shape(num_inputs)
    one = jnp.zeros(shape)
    variables = jax.eval_shape(module.init, jax.random.key(0), one)
    if set(variables) != {"params"}:
        raise ValueError(
            f"module: expected one whose variables are parameters alone, got {sorted(variables)}; "
            "use layers without running statistics, such as LayerNorm"
        )

    def init(key: Key[Array, ""]) -> Params:
        return module.init(checks.key(key), jnp.zeros(shape))["params"]

    @precision.full_by_default
    def apply(params: Params, x: Array) -> Float[Array, " P"]:
        return module.apply({"params": params}, check_input(x, shape, params))

    size = _outputs(lambda x: jax.eval_shape(module.apply, variables, x), shape, "module")
    return Network(size, init, apply)


def _outputs(run: Callable[[Any], Any], shape: tuple[int, ...], name: str) -> int:
    """The size P of the module's output [P]; ValueError for an output that is no vector."""
    found = run(jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    if len(getattr(found, "shape", ())) != 1:
        raise ValueError(
            f"{name}: expected a module that maps one input of shape {shape} to a vector, got "
            f"{getattr(found, 'shape', found)}"
        )
    return int(found.shape[0])
