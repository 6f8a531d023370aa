"""Inverse autoregressive layers, and the inverse of a triangular map."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.distributions.flows.perceptron import Context, Perceptron, perceptron
from lvm_jax.typing import Array, Float, Key, Scalar

GATE = 1.0  # initial pre-activation of the gate (Kingma et al. 2016: "+1 or +2")
LOG_GATE = -math.log1p(math.exp(-GATE))

Affine = Callable[[Array], tuple[Array, Array]]  # z [D] -> log-scales a [D] and shifts t [D]


class Autoregressive(NamedTuple):
    """An inverse autoregressive layer: a_d and t_d are functions of z_1, ..., z_{d-1} and h.

        y = (s / s_0) z + (1 - s) m,    s = sigmoid(GATE + r),    (r, m) a masked network of (z, h)

    The initial gate s_0 = sigmoid(GATE) is divided out, so that the layer starts as the identity.
    `forward` takes one pass. `inverse` takes at most D passes and stops when the change is within
    rounding. Its derivative solves the linear systems of the implicit function theorem in the same
    way.

    Source: Kingma et al. 2016, equations 12 to 14; the masks, Germain et al. 2015, section 4.
    """

    network: Perceptron

    def affine(self, context: Context) -> Affine:
        """The function z -> (a, t) at one context."""
        sizes = [weight.shape[-1] for weight in self.network.weights]
        masks = autoregressive_masks(sizes[0], sizes[1:], self.network.context is not None)
        weights = tuple(w * m for w, m in zip(self.network.weights, masks, strict=True))
        network = self.network._replace(weights=weights).given(context)

        def apply(z: Float[Array, " D"]) -> tuple[Array, Array]:
            gate, mean = network(z).reshape(2, -1)
            log_scale = jax.nn.log_sigmoid(gate + GATE) - LOG_GATE
            return log_scale, jax.nn.sigmoid(-gate - GATE) * mean

        return apply

    def forward(self, z: Array, context: Context) -> tuple[Array, Scalar]:
        """y [D], and log |det dy/dz|."""
        log_scale, shift = self.affine(context)(z)
        return z * jnp.exp(log_scale) + shift, log_scale.sum()

    def inverse(self, y: Array, context: Context) -> tuple[Array, Scalar]:
        """z [D], and log |det dy/dz|."""
        affine = self.affine(context)
        z = solve_triangular_affine(affine, y)
        return z, affine(z)[0].sum()

    @staticmethod
    def permute(z: Float[Array, " D"], times: int) -> Float[Array, " D"]:
        """Reverse the coordinates `times` times: the permutation between two layers."""
        return z[::-1] if times % 2 else z


def autoregressive(
    key: Key[Array, ""], dim: int, hidden: Sequence[int], context_dim: int
) -> Autoregressive:
    """An inverse autoregressive layer that starts as the identity."""
    checks.key(key)
    return Autoregressive(perceptron(key, dim, hidden, 2 * dim, context_dim))


def autoregressive_masks(dim: int, hidden: Sequence[int], has_context: bool) -> list[np.ndarray]:
    """The masks of MADE, one for each weight [outputs, inputs] of a network z -> (r, m).

    A hidden unit of degree k depends on z_1, ..., z_k, and output d on units of degrees below d.
    Units of degree 0 depend on the context only, and are omitted without a context.
    """
    inputs = np.arange(1, dim + 1)
    masks, before = [], inputs
    lowest = 0 if has_context else 1
    for size in hidden:
        degrees = np.linspace(dim - 1, lowest, size).round().astype(int)
        masks.append(degrees[:, None] >= before)
        before = degrees
    outputs = np.tile(inputs, 2)
    return [*masks, outputs[:, None] > before]


def solve_triangular_affine(affine: Affine, y: Float[Array, " D"]) -> Float[Array, " D"]:
    """The z with z exp(a(z)) + t(z) = y, where a_d and t_d depend on z_1, ..., z_{d-1} only."""

    def improve(z: Array) -> Array:
        log_scale, shift = affine(z)
        return (y - shift) * jnp.exp(-log_scale)

    def solve(matrix: Callable[[Array], Array], right: Array) -> Array:
        return fixed_point(lambda v: right + (v - matrix(v)), right)

    # The Jacobian of z - improve(z) and its transpose are I - N with N strictly triangular, so
    # `fixed_point` also solves the linear systems of both modes of differentiation.
    return jax.lax.custom_root(
        lambda z: z - improve(z),
        y,
        lambda _, start: fixed_point(improve, start),
        lambda jacobian, tangent: jax.lax.custom_linear_solve(jacobian, tangent, solve, solve),
    )


def fixed_point(improve: Callable[[Array], Array], start: Float[Array, " D"]) -> Float[Array, " D"]:
    """The fixed point of a map with a strictly triangular Jacobian, in at most D passes.

    Each pass makes at least one more coordinate exact. The loop ends when the change is within
    rounding, usually much sooner (Song et al. 2021).
    """
    tolerance = 2 * jnp.finfo(start.dtype).eps

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        value, _, passes = state
        new = improve(value)
        moved = jnp.abs(new - value).max() > tolerance * jnp.abs(new).max()
        return new, moved, passes + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return state[1] & (state[2] < start.size)

    return jax.lax.while_loop(unfinished, step, (start, jnp.array(True), jnp.array(0)))[0]
