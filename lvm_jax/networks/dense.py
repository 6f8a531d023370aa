"""Multilayer perceptrons."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx

from lvm_jax._core import checks
from lvm_jax.networks.base import Activation, Network, find_activation, linear, of_module, widths
from lvm_jax.typing import Array


def mlp(
    num_inputs: int,
    hidden: Sequence[int],
    num_outputs: int,
    activation: Activation = "tanh",
    *,
    layer_norm: bool = False,
    residual: bool = False,
) -> Network:
    """W_n h(... h(W_0 x + b_0) ...) + b_n of an x [num_inputs]; linear if `hidden` is empty.

    `hidden` gives the widths of the hidden layers. h = `activation` is a name in `ACTIVATIONS` or
    any function. With `layer_norm`, W u + b is normalised before h, with learned scale and shift
    (Ba et al. 2016). With `residual`, a hidden layer with as many inputs as outputs is
    u + h(W u + b) (He et al. 2016).

    Raises ValueError or TypeError for widths < 1 and an unknown activation; `apply` raises
    ValueError for an x of a wrong shape.
    """
    sizes = (
        checks.integer(num_inputs, "num_inputs", 1),
        *widths(hidden, "hidden", 0),
        checks.integer(num_outputs, "num_outputs", 1),
    )
    act = find_activation(activation)
    return of_module(
        lambda rngs: _Dense(sizes, act, layer_norm, residual, rngs), sizes[0], sizes[-1]
    )


class _Dense(nnx.Module):
    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: Callable[[Array], Array],
        layer_norm: bool,
        residual: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation, self.residual = activation, residual
        self.norms = tuple(f"norm_{i}" for i in range(len(sizes) - 2)) if layer_norm else ()
        for name, width in zip(self.norms, sizes[1:], strict=False):
            setattr(self, name, nnx.LayerNorm(width, param_dtype=jnp.result_type(float), rngs=rngs))
        self.hidden = tuple(f"hidden_{i}" for i in range(len(sizes) - 2))
        for name, (before, after) in zip(self.hidden, pairwise(sizes[:-1]), strict=True):
            setattr(self, name, linear(before, after, rngs))
        self.output = linear(sizes[-2], sizes[-1], rngs)

    def __call__(self, x: Array) -> Array:
        for index, name in enumerate(self.hidden):
            u = getattr(self, name)(x)
            if self.norms:
                u = getattr(self, self.norms[index])(u)
            u = self.activation(u)
            x = x + u if self.residual and u.shape == x.shape else u
        return self.output(x)
