"""The type of a network, and networks from flax.nnx modules."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.typing import Array, Float, Key, Params

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "identity": lambda u: u,
}
Activation = str | Callable[[Array], Array]  # a name in ACTIVATIONS, or any function


class Network(NamedTuple):
    """A parametric function of ONE input; map over rows with jax.vmap."""

    num_outputs: int
    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Array], Float[Array, " P"]]  # x -> [num_outputs]


def find_activation(value: Any) -> Callable[[Array], Array]:
    """The activation function: `value` itself or the one of this name in ACTIVATIONS.

    Raises ValueError for an unknown name.
    """
    return (
        value
        if callable(value)
        else ACTIVATIONS[checks.choice(value, "activation", [*ACTIVATIONS])]
    )


def of_module(
    build: Callable[[nnx.Rngs], nnx.Module], num_inputs: int | tuple[int, ...], num_outputs: int
) -> Network:
    """The network of a module that maps [num_inputs] to [num_outputs]."""
    shape = input_shape(num_inputs)
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: Key[Array, ""]) -> Params:
        _, state = nnx.split(build(nnx.Rngs(checks.key(key))))
        return nnx.to_pure_dict(state)

    @precision.full_by_default
    def apply(params: Params, x: Array) -> Float[Array, " P"]:
        return nnx.merge(graph, params)(check_input(x, shape, params))

    return Network(num_outputs, init, apply)


def input_shape(num_inputs: int | tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one input, from a size or a shape."""
    return (num_inputs,) if isinstance(num_inputs, int) else tuple(num_inputs)


def check_input(x: Array, shape: tuple[int, ...], params: Params) -> Array:
    """x cast to the dtype of the parameters; ValueError for a wrong shape."""
    if jnp.shape(x) != shape:
        raise ValueError(
            f"x: expected one input of shape {shape}, got {jnp.shape(x)}; map over rows with "
            "jax.vmap"
        )
    return jnp.asarray(x, jnp.result_type(*jax.tree.leaves(params)))


def linear(num_inputs: int, num_outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer with a Glorot-uniform kernel of JAX's default float type."""
    glorot = nnx.initializers.glorot_uniform()
    dtype = jnp.result_type(float)
    return nnx.Linear(num_inputs, num_outputs, kernel_init=glorot, param_dtype=dtype, rngs=rngs)


def widths(value: Sequence[int], name: str, minimum: int) -> tuple[int, ...]:
    """The sizes as a tuple; ValueError for fewer than `minimum` or for sizes < 1."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < minimum:
        raise ValueError(
            f"{name}: expected a sequence of {minimum} or more sizes, such as (200, 200), got "
            f"{value!r}"
        )
    return tuple(checks.integer(width, name, 1) for width in value)
