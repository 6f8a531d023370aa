"""Convolutional encoders and decoders of images."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx

from lvm_jax._core import checks
from lvm_jax.networks.base import Activation, Network, find_activation, linear, of_module, widths
from lvm_jax.typing import Array

KERNEL = (3, 3)  # of every convolution


def conv_encoder(
    shape: tuple[int, int],
    num_outputs: int,
    channels: Sequence[int] = (16, 32),
    activation: Activation = "relu",
) -> Network:
    """Convolutions of a flattened H x W image x [H W], then one linear layer.

    Each entry of `channels` is the number of channels of a zero-padded 3 x 3 convolution with
    stride 2, followed by the activation. It maps h x w to ceil(h/2) x ceil(w/2).

    Raises ValueError or TypeError for sizes < 1, no channels and an unknown activation; `apply`
    raises ValueError for an x of a wrong shape.
    """
    channels = widths(channels, "channels", 1)
    sizes = _halvings(shape, channels)
    num_outputs = checks.integer(num_outputs, "num_outputs", 1)
    act = find_activation(activation)
    return of_module(
        lambda rngs: _Encoder(sizes, channels, num_outputs, act, rngs),
        math.prod(sizes[0]),
        num_outputs,
    )


def conv_decoder(
    num_inputs: int,
    shape: tuple[int, int],
    outputs_per_pixel: int = 1,
    channels: Sequence[int] = (32, 16),
    activation: Activation = "relu",
) -> Network:
    """The decoder z [num_inputs] -> [P H W] that mirrors `conv_encoder`, P = `outputs_per_pixel`.

    One linear layer gives a small image with channels[0] channels. Each stage doubles the image by
    repeating pixels, crops it to the size of the mirrored encoder stage, and applies a 3 x 3
    convolution. Repetition avoids the checkerboard pattern of strided transposed convolutions.
    Outputs are ordered by parameter: use `outputs.reshape(P, H, W)`.

    Raises ValueError or TypeError for sizes < 1, no channels and an unknown activation; `apply`
    raises ValueError for a z of a wrong shape.

    Source: Odena, Dumoulin and Olah (2016), for the repetition.
    """
    num_inputs = checks.integer(num_inputs, "num_inputs", 1)
    per_pixel = checks.integer(outputs_per_pixel, "outputs_per_pixel", 1)
    channels = widths(channels, "channels", 1)
    sizes = _halvings(shape, channels)[::-1]
    act = find_activation(activation)
    return of_module(
        lambda rngs: _Decoder(num_inputs, sizes, (*channels, per_pixel), act, rngs),
        num_inputs,
        per_pixel * math.prod(sizes[-1]),
    )


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
        self.output = linear(math.prod(sizes[-1]) * channels[-1], num_outputs, rngs)

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
        self.input = linear(num_inputs, math.prod(sizes[0]) * channels[0], rngs)
        self.stages = (*(f"conv_{i}" for i in range(len(channels) - 2)), "output")
        for name, (before, after) in zip(self.stages, pairwise(channels), strict=True):
            setattr(self, name, _conv(before, after, 1, rngs))

    def __call__(self, z: Array) -> Array:
        x = self.input(z).reshape(*self.sizes[0], self.channels[0])
        for name, (height, width) in zip(self.stages, self.sizes[1:], strict=True):
            twice = jnp.repeat(jnp.repeat(self.activation(x), 2, axis=0), 2, axis=1)
            x = getattr(self, name)(twice[:height, :width])
        return x.transpose(2, 0, 1).ravel()


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


def _halvings(shape: tuple[int, int], channels: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The image sizes before and after each convolution of stride 2."""
    sizes = widths(shape, "shape", 2)
    if len(sizes) != 2:
        raise ValueError(f"shape: expected (height, width) of the images, got {shape!r}")
    height, width = sizes
    steps = range(len(channels) + 1)
    return tuple((-(-height // 2**step), -(-width // 2**step)) for step in steps)
