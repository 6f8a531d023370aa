"""Guides for z = (z_1, ..., z_L), z_1 next to x: drawn bottom-up, or top-down like the model.

Their networks and parameters are separate from the model's. A ladder can share the model's top-down
layers, since theta.layers has the structure of phi.layers. q then depends on theta, and STL, DReG
and wake-sleep estimators, which stop only phi, are invalid. Share them in the objective:

    guide.posterior(phi._replace(layers=theta.layers), x)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions import normal
from lvm_jax.distributions.chain import Chain, Gaussian, Layer, Step, check_layers, init_each
from lvm_jax.guides.base import Guide
from lvm_jax.networks import Activation, Network, mlp
from lvm_jax.networks.base import find_activation
from lvm_jax.typing import Array, Distribution, Key, Params


def bottom_up(layers: Sequence[Layer]) -> Guide:
    """q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_(L-1)), each factor a diagonal Gaussian.

    `layers[0]` maps x to the mean and scale of z_1; `layers[l]` maps z_l to those of z_(l+1).
    phi is the tuple of their parameters. As in the true posterior, z_2 depends on x only through
    z_1. The approximation is the Gaussian shape, without correlations within a layer.

    Raises ValueError for fewer than two layers (for one, use `amortized` with `mean_field`) or a
    network with a wrong number of outputs.

    Source: Burda, Grosse and Salakhutdinov (2016), section 2.
    """
    layers = check_layers(layers, 2)
    steps = tuple(layer.gaussian for layer in layers)

    def init(key: Key[Array, ""]) -> tuple[Params, ...]:
        checks.key(key)
        return init_each(key, [layer.network for layer in layers])

    def posterior(phi: tuple[Params, ...], x: Array) -> Distribution:
        first = normal(*steps[0](phi[0], x))
        return Chain(first, phi[1:], steps[1:], downward=False)

    return Guide(init, posterior)


class Ladder(NamedTuple):
    """phi of `ladder`; each tuple is ordered from the data upwards."""

    upward: tuple[Params, ...]  # x -> d_1 -> ... -> d_L
    heads: tuple[Params, ...]  # d_l -> N(a_l, b_l^2)
    layers: tuple[Params, ...]  # z_(l+1) -> N(m_l, s_l^2)


def ladder(
    upward: Sequence[Network],
    top_dim: int,
    layers: Sequence[Layer],
    activation: Activation = "tanh",
) -> Guide:
    """q(z | x) = q(z_L | x) q(z_(L-1) | z_L, x) ... q(z_1 | z_2, x), drawn top-down.

    A deterministic upward pass d_l = h(upward_l(d_(l-1))), d_0 = x, gives a Gaussian
    N(a_l, b_l^2) of each z_l, by a linear layer on d_l. q(z_L | x) is this Gaussian. For l < L, q
    is its normalised product with N(m_l, s_l^2), which `layers[l - 1]` computes from z_(l+1):

        scale^-2 = b_l^-2 + s_l^-2,    loc = scale^2 (b_l^-2 a_l + s_l^-2 m_l)

    This is the exact posterior if N(a_l, b_l^2) is the likelihood of z_l and `layers` are the
    model's. `upward` has one network for each of the L layers of z. `layers` is as in
    `deep_latent_gaussian`, with separate parameters. `top_dim` is the dimension of z_L.
    h = `activation` is a name of networks.ACTIVATIONS or any function.

    Raises ValueError if the numbers of networks in `upward` and `layers` do not match.

    Source: Sonderby et al. (2016).
    """
    layers, upward = check_layers(layers, 1), tuple(upward)
    if len(upward) != len(layers) + 1:
        raise ValueError(
            f"upward: expected {len(layers) + 1} networks, one for each layer of z, got "
            f"{len(upward)}"
        )
    act = find_activation(activation)
    dims = [*(layer.dim for layer in layers), checks.integer(top_dim, "top_dim", 1)]
    heads = tuple(
        Layer(mlp(network.num_outputs, (), 2 * dim), dim)
        for network, dim in zip(upward, dims, strict=True)
    )

    steps = tuple(_multiplied(layer) for layer in reversed(layers))

    def init(key: Key[Array, ""]) -> Ladder:
        checks.key(key)
        key_upward, key_heads, key_layers = jax.random.split(key, 3)
        return Ladder(
            init_each(key_upward, upward),
            init_each(key_heads, [head.network for head in heads]),
            init_each(key_layers, [layer.network for layer in layers]),
        )

    def posterior(phi: Ladder, x: Array) -> Distribution:
        features, from_x = x, []  # N(a_l, b_l^2) of every layer, from the data upwards
        for network, head, up, across in zip(upward, heads, phi.upward, phi.heads, strict=True):
            features = act(network.apply(up, features))
            from_x.append(head.gaussian(across, features))
        top = from_x.pop()
        params = tuple(zip(phi.layers, from_x, strict=True))
        return Chain(normal(*top), params[::-1], steps, downward=True)

    return Guide(init, posterior)


def _multiplied(layer: Layer) -> Step:
    """The normalised product of the layer's Gaussian and one that is among the parameters."""

    def step(params: tuple[Params, Gaussian], above: Array) -> Gaussian:
        (loc_x, scale_x), (loc, scale) = params[1], layer.gaussian(params[0], above)
        # A correction of the mean; a weighted sum of means loses digits far from the origin.
        total = scale**2 + scale_x**2
        return loc + scale**2 / total * (loc_x - loc), scale * scale_x / jnp.sqrt(total)

    return step
