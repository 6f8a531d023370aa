"""Guides for z = (z_1, ..., z_L), z_1 next to x: drawn from below, or from the top like the model.

Both have networks and parameters of their own. A ladder may well use the model's top-down layers
(theta.layers has the structure of phi.layers), but then theta would be in q too: stopping phi would
no longer stop q, and STL, DReG and every wake-sleep estimator would change their meaning in
silence. To tie them, say so in the objective, where theta's gradient then flows through q as well:

    guide.posterior(phi._replace(layers=theta.layers), x)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions import normal
from lvm_jax.distributions.chain import Chain, Gaussian, Layer, Step, check_layers, init_each
from lvm_jax.guides.base import Guide
from lvm_jax.networks import Activation, find_activation, mlp
from lvm_jax.typing import Array, Distribution, Key, Params

if TYPE_CHECKING:
    from lvm_jax.networks import Network


def bottom_up(layers: Sequence[Layer]) -> Guide:
    """q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_(L-1)), each factor a diagonal Gaussian.

    `layers[0]` makes the mean and scale of z_1 from x, `layers[l]` those of z_(l+1) from z_l.
    phi is the tuple of their parameters. In the true posterior too, z_2 depends on x only through
    z_1; what the family lacks is the Gaussian shape and the correlations within a layer.

    Raises ValueError for fewer than two layers (for one, `amortized` with `mean_field`) or a
    network of another number of outputs than mean and scale need.

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
    """phi of `ladder`, every tuple from the data upwards."""

    upward: tuple[Params, ...]  # x -> d_1 -> ... -> d_L
    heads: tuple[Params, ...]  # d_l -> the Gaussian that x gives for z_l
    layers: tuple[Params, ...]  # z_(l+1) -> the Gaussian that the layer above gives for z_l


def ladder(
    upward: Sequence["Network"],
    top_dim: int,
    layers: Sequence[Layer],
    activation: Activation = "tanh",
) -> Guide:
    """q(z | x) = q(z_L | x) q(z_(L-1) | z_L, x) ... q(z_1 | z_2, x), drawn from the top.

    A deterministic way up, d_l = h(upward_l(d_(l-1))) with d_0 = x, gives each z_l a Gaussian
    N(a_l, b_l^2) by a linear layer on d_l. z_L has this one; below, it is multiplied with the
    N(m_l, s_l^2) that `layers[l - 1]` makes of z_(l+1), precisions adding:

        scale^-2 = b_l^-2 + s_l^-2,    loc = scale^2 (b_l^-2 a_l + s_l^-2 m_l)

    the exact posterior where N(a_l, b_l^2) is the likelihood of z_l and `layers` are the model's.
    The networks of `upward`, one for each of the L layers of z, map features to features; `layers`
    is as in `deep_latent_gaussian`, with parameters of the guide's own, and `top_dim` the
    dimension of z_L. h = `activation`, a name of networks.ACTIVATIONS or any function.

    Raises ValueError for numbers of networks that do not fit each other.

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
        features, seen = x, []  # N(a_l, b_l^2) of every layer, from the data upwards
        for network, head, up, across in zip(upward, heads, phi.upward, phi.heads, strict=True):
            features = act(network.apply(up, features))
            seen.append(head.gaussian(across, features))
        top = seen.pop()
        params = tuple(zip(phi.layers, seen, strict=True))
        return Chain(normal(*top), params[::-1], steps, downward=True)

    return Guide(init, posterior)


def _multiplied(layer: Layer) -> Step:
    """The layer's Gaussian times another one, which comes with its parameters."""

    def step(params: tuple[Params, Gaussian], above: Array) -> Gaussian:
        (loc_x, scale_x), (loc, scale) = params[1], layer.gaussian(params[0], above)
        # As a correction of the mean: the weighted sum loses digits far from the origin.
        total = scale**2 + scale_x**2
        return loc + scale**2 / total * (loc_x - loc), scale * scale_x / jnp.sqrt(total)

    return step
