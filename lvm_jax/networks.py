"""Neural networks as two pure functions: `init(key)` -> parameters, `apply(parameters, x)`.

flax.nnx builds them and stays inside: the parameters are nested dictionaries of arrays with names
for keys ({"hidden_0": {"kernel": [in, out], "bias": [out]}, ..., "output": ...}), which jax.tree,
optax, orbax and jax.vmap take as they are. A network is split from its module once, when it is
made; `apply` merges while JAX traces, so a compiled program holds the products and nothing else.

All kernels start Glorot-uniform, U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), and all biases at
0, as in the code of Burda et al. (2016). `apply` computes in the dtype of the parameters, which is
JAX's default float when `init` makes them: an x of another dtype is cast, also a 0/1 or a count.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lvm_jax import checks, precision
from lvm_jax.typing import Array, Float, Key, Params

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "identity": lambda u: u,
}
KERNEL = (3, 3)  # of every convolution


class Network(NamedTuple):
    """A function of ONE input with parameters: map over rows outside, with jax.vmap."""

    num_outputs: int
    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[[Params, Array], Float[Array, " P"]]  # x -> [num_outputs]


def mlp(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, activation: str = "tanh"
) -> Network:
    """W_n h(... h(W_0 x + b_0) ...) + b_n of an x [num_inputs]: linear where `hidden` is empty.

    `hidden` gives the widths of the layers between, `activation` the h after each of them:
    tanh, relu, softplus, gelu, silu or identity. Under jax.vmap over rows each layer is one matrix
    product [rows, in] @ [in, out].

    Raises ValueError or TypeError for widths < 1 and an unknown activation; `apply` raises
    ValueError for an x of another shape.
    """
    sizes = (
        checks.integer(num_inputs, "num_inputs", 1),
        *_widths(hidden, "hidden", 0),
        checks.integer(num_outputs, "num_outputs", 1),
    )
    act = ACTIVATIONS[checks.choice(activation, "activation", tuple(ACTIVATIONS))]
    return _network(lambda rngs: _Dense(sizes, act, rngs), sizes[0], sizes[-1])


def conv_encoder(
    shape: tuple[int, int],
    num_outputs: int,
    channels: Sequence[int] = (16, 32),
    activation: str = "relu",
) -> Network:
    """Convolutions of an H x W image given flat, x [H W] in rows, then one linear layer.

    Each entry of `channels` is a 3 x 3 convolution of stride 2 with so many channels, zero-padded,
    and the activation: it takes h x w to ceil(h/2) x ceil(w/2), so 28 -> 14 -> 7 and 9 -> 5 -> 3.

    Raises ValueError or TypeError for sizes < 1, no channels and an unknown activation; `apply`
    raises ValueError for an x of another shape.
    """
    channels = _widths(channels, "channels", 1)
    sizes = _halvings(shape, channels)
    num_outputs = checks.integer(num_outputs, "num_outputs", 1)
    act = ACTIVATIONS[checks.choice(activation, "activation", tuple(ACTIVATIONS))]
    return _network(
        lambda rngs: _Encoder(sizes, channels, num_outputs, act, rngs),
        math.prod(sizes[0]),
        num_outputs,
    )


def conv_decoder(
    num_inputs: int,
    shape: tuple[int, int],
    outputs_per_pixel: int = 1,
    channels: Sequence[int] = (32, 16),
    activation: str = "relu",
) -> Network:
    """The way back: z [num_inputs] -> [outputs_per_pixel H W], all first parameters first.

    One linear layer makes a small image of channels[0] channels; then each stage doubles it by
    repeating pixels, cuts it to the size that `conv_encoder` had there (so every H and W is met
    exactly) and convolves 3 x 3. Repeating first, unlike a strided transposed convolution,
    leaves no checkerboard. The P numbers of a pixel lie H W apart: `outputs.reshape(P, H, W)`.

    Raises ValueError or TypeError for sizes < 1, no channels and an unknown activation; `apply`
    raises ValueError for a z of another shape.

    Source: Odena, Dumoulin and Olah (2016), for the repetition.
    """
    num_inputs = checks.integer(num_inputs, "num_inputs", 1)
    per_pixel = checks.integer(outputs_per_pixel, "outputs_per_pixel", 1)
    channels = _widths(channels, "channels", 1)
    sizes = _halvings(shape, channels)[::-1]
    act = ACTIVATIONS[checks.choice(activation, "activation", tuple(ACTIVATIONS))]
    return _network(
        lambda rngs: _Decoder(num_inputs, sizes, (*channels, per_pixel), act, rngs),
        num_inputs,
        per_pixel * math.prod(sizes[-1]),
    )


def _network(build: Callable[[nnx.Rngs], nnx.Module], num_inputs: int, num_outputs: int) -> Network:
    """The two pure functions of a module that takes [num_inputs] to [num_outputs]."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: Key[Array, ""]) -> Params:
        _, state = nnx.split(build(nnx.Rngs(checks.key(key))))
        return nnx.to_pure_dict(state)

    @precision.full_by_default
    def apply(params: Params, x: Array) -> Float[Array, " P"]:
        if jnp.shape(x) != (num_inputs,):
            raise ValueError(
                f"x: expected one input of shape ({num_inputs},), got {jnp.shape(x)}; map over "
                "rows with jax.vmap"
            )
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return nnx.merge(graph, params)(jnp.asarray(x, dtype))

    return Network(num_outputs, init, apply)


class _Dense(nnx.Module):
    def __init__(
        self, sizes: tuple[int, ...], activation: Callable[[Array], Array], rngs: nnx.Rngs
    ) -> None:
        self.activation = activation
        self.hidden = tuple(f"hidden_{i}" for i in range(len(sizes) - 2))
        self.last = "output"
        for name, (wide, narrow) in zip((*self.hidden, self.last), pairwise(sizes), strict=True):
            setattr(self, name, _linear(wide, narrow, rngs))

    def __call__(self, x: Array) -> Array:
        for name in self.hidden:
            x = self.activation(getattr(self, name)(x))
        return getattr(self, self.last)(x)


class _Encoder(nnx.Module):
    def __init__(
        self,
        sizes: tuple[tuple[int, int], ...],
        channels: tuple[int, ...],
        num_outputs: int,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ) -> None:
        self.activation, self.shape = activation, sizes[0]
        self.stages = tuple(f"conv_{i}" for i in range(len(channels)))
        for name, (before, after) in zip(self.stages, pairwise((1, *channels)), strict=True):
            setattr(self, name, _conv(before, after, 2, rngs))
        self.output = _linear(math.prod(sizes[-1]) * channels[-1], num_outputs, rngs)

    def __call__(self, x: Array) -> Array:
        x = x.reshape(*self.shape, 1)
        for name in self.stages:
            x = self.activation(getattr(self, name)(x))
        return self.output(x.ravel())


class _Decoder(nnx.Module):
    def __init__(
        self,
        num_inputs: int,
        sizes: tuple[tuple[int, int], ...],
        channels: tuple[int, ...],
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ) -> None:
        self.activation, self.sizes, self.channels = activation, sizes, channels
        self.input = _linear(num_inputs, math.prod(sizes[0]) * channels[0], rngs)
        self.stages = (*(f"conv_{i}" for i in range(len(channels) - 2)), "output")
        for name, (before, after) in zip(self.stages, pairwise(channels), strict=True):
            setattr(self, name, _conv(before, after, 1, rngs))

    def __call__(self, z: Array) -> Array:
        x = self.input(z).reshape(*self.sizes[0], self.channels[0])
        for name, (height, width) in zip(self.stages, self.sizes[1:], strict=True):
            twice = jnp.repeat(jnp.repeat(self.activation(x), 2, axis=0), 2, axis=1)
            x = getattr(self, name)(twice[:height, :width])
        return x.transpose(2, 0, 1).ravel()


def _linear(num_inputs: int, num_outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    glorot = nnx.initializers.glorot_uniform()
    dtype = jnp.result_type(float)
    return nnx.Linear(num_inputs, num_outputs, kernel_init=glorot, param_dtype=dtype, rngs=rngs)


def _conv(before: int, after: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        before,
        after,
        KERNEL,
        strides=stride,
        kernel_init=nnx.initializers.glorot_uniform(),
        param_dtype=jnp.result_type(float),
        rngs=rngs,
    )


def _widths(value: Sequence[int], name: str, minimum: int) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < minimum:
        raise ValueError(f"{name}: expected at least {minimum} sizes, as (200, 200), got {value!r}")
    return tuple(checks.integer(width, name, 1) for width in value)


def _halvings(shape: tuple[int, int], channels: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """H x W, and what each convolution of stride 2 leaves of it."""
    sides = _widths(shape, "shape", 2)
    if len(sides) != 2:
        raise ValueError(f"shape: expected (height, width) of the images, got {shape!r}")
    height, width = sides
    steps = range(len(channels) + 1)
    return tuple((-(-height // 2**step), -(-width // 2**step)) for step in steps)
