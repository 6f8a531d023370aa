"""The network of a flow layer, conditioned on a context."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax.typing import Array, Float, Key

Context = Float[Array, " C"] | None


class Perceptron(NamedTuple):
    """A network of z and a context h with tanh hidden layers; its outputs start at 0."""

    weights: tuple[Float[Array, "outputs inputs"], ...]
    biases: tuple[Float[Array, " outputs"], ...]
    context: Float[Array, "hidden C"] | None  # weights of h in the first hidden layer

    @precision.full_by_default
    def given(self, context: Context) -> Callable[[Array], Array]:
        """The function z -> outputs for one h, whose contribution is computed once."""
        first, *others = self.biases
        if self.context is not None:
            first = first + self.context @ jnp.asarray(context)

        @precision.full_by_default
        def apply(z: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
            value = self.weights[0] @ z + first
            for weight, bias in zip(self.weights[1:], others, strict=True):
                value = weight @ jnp.tanh(value) + bias
            return value

        return apply


def perceptron(
    key: Key[Array, ""], num_inputs: int, hidden: Sequence[int], num_outputs: int, context_dim: int
) -> Perceptron:
    """Hidden weights from N(0, 1 / inputs); the last layer is 0, so the flow is the identity."""
    sizes = (num_inputs, *hidden)
    *keys, key_context = jax.random.split(key, len(sizes))
    weights = [
        jax.random.normal(key, (after, before)) / math.sqrt(before)
        for key, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    context = None  # Orbax cannot save an empty array
    if context_dim:
        context = jax.random.normal(key_context, (hidden[0], context_dim)) / math.sqrt(context_dim)
    return Perceptron(
        (*weights, jnp.zeros((num_outputs, sizes[-1]))),
        tuple(jnp.zeros(size) for size in (*hidden, num_outputs)),
        context,
    )
