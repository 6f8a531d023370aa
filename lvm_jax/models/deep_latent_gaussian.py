"""Deep latent Gaussian models: one or several Gaussian layers, networks, and a likelihood."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions.chain import Chain, Layer, check_layers, init_each
from lvm_jax.models.base import Model
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Params

if TYPE_CHECKING:  # priors import guides, and guides import models
    from lvm_jax.likelihoods import Likelihood
    from lvm_jax.networks import Network
    from lvm_jax.priors import Prior

__all__ = ["DeepLatentGaussian", "Layer", "deep_latent_gaussian"]


class DeepLatentGaussian(NamedTuple):
    """theta: the parameters of each part."""

    prior: Params  # of p(z_L)
    layers: tuple[Params, ...]  # of p(z_1 | z_2), ..., p(z_(L-1) | z_L)
    decoder: Params
    likelihood: Params  # such as a noise variance


def deep_latent_gaussian(
    prior: "Prior",
    decoder: "Network",
    likelihood: "Likelihood",
    layers: Sequence[Layer] = (),
    *,
    observed: str | tuple[str, ...] | None = None,
    given: Callable[[Any], Float[Array, " C"]] | None = None,
) -> Model:
    """z_L ~ prior, z_l | z_(l+1) ~ N(m_l, diag(s_l)^2), x | z_1 ~ likelihood(decoder(z_1)).

    `layers[l - 1]` maps z_(l+1) to m_l and s_l, so `layers` is ordered from the data upwards and
    has length L - 1. For L = 1, z is an array [K]; for L > 1, z is a tuple (z_1, ..., z_L) of
    arrays [K_l], with z_1 next to x. `prior` is the prior of z_L. A standard normal with L = 1 is
    the VAE. log p(x) has no closed form; `evidence.evaluate` estimates it.

    If data points are pytrees, `observed` names the generated part, as in `Model`. With `given`,
    a function from a data point to a context c [C], the model is p(x, z | c), and the input of the
    decoder is [z_1, c], of size K_1 + C.

        deep_latent_gaussian(prior, decoder, bernoulli(784), observed="image",
                             given=lambda row: jax.nn.one_hot(row["label"], 10))

    Raises ValueError if the decoder or a layer has a wrong number of outputs. A network with a
    wrong number of inputs raises ValueError when it is applied.

    Source: Kingma and Welling (2014); Rezende et al. (2014); Burda et al. (2016), equation 1.
    """
    layers = check_layers(layers, 0)
    if decoder.num_outputs != likelihood.num_outputs:
        raise ValueError(
            f"decoder: expected {likelihood.num_outputs} outputs, as the likelihood takes them, "
            f"got {decoder.num_outputs}"
        )
    steps = tuple(layer.gaussian for layer in reversed(layers))

    def init(key: Key[Array, ""]) -> DeepLatentGaussian:
        checks.key(key)
        key_prior, key_layers, key_decoder, key_likelihood = jax.random.split(key, 4)
        return DeepLatentGaussian(
            prior.init(key_prior),
            init_each(key_layers, [layer.network for layer in layers]),
            decoder.init(key_decoder),
            likelihood.init(key_likelihood),
        )

    def build_prior(theta: DeepLatentGaussian, *context: Array) -> Distribution:
        top = prior.build(theta.prior)
        return Chain(top, theta.layers[::-1], steps, downward=True) if layers else top

    def build_likelihood(theta: DeepLatentGaussian, z: Latent, *context: Array) -> Distribution:
        inputs = jnp.concatenate([z[0] if layers else z, *context])
        outputs = decoder.apply(theta.decoder, inputs)
        return likelihood.build(theta.likelihood, outputs)

    return Model(
        init, build_prior, build_likelihood, support=likelihood.support, observed=observed,
        given=given,
    )  # fmt: skip
