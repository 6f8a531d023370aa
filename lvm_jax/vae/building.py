"""The model and the guide of an architecture."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import guides, networks, priors
from lvm_jax._core.pairs import Parameters, Separate
from lvm_jax.guides import Family, Guide, Refined
from lvm_jax.guides.flow import OF_X
from lvm_jax.likelihoods import LIKELIHOODS, Likelihood, Support
from lvm_jax.models import Joint, Layer, Model, deep_latent_gaussian
from lvm_jax.networks import Network
from lvm_jax.priors import Prior
from lvm_jax.typing import Array, ConditionalDensity, Key
from lvm_jax.vae.architecture import HIERARCHICAL, Architecture, check

REFINE_DRAWS, REFINE_SEED = 8, 0  # of the fixed draws of local steps

Table = Mapping[str, Callable[..., Any]]  # factories by name, functions of a dimension
Encode = Callable[[Sequence[int], int], Network]  # widths, number of outputs -> a network of x


class Autoencoder(NamedTuple):
    """The pair of an architecture: `autoencoder(params)` is (p, q).

    params are `training.Parameters(theta, phi)`.
    """

    model: Model
    guide: Guide  # amortised
    refined: Refined | None  # `guide` with local steps
    likelihood: Likelihood
    architecture: Architecture

    def init(self, key: Key[Array, ""]) -> Parameters:
        """Initial parameters; `start` also sets biases for the data."""
        return Separate(self.model, self.guide).init(key)

    def __call__(self, params: Parameters, /) -> tuple[Joint, ConditionalDensity]:
        """p and q with their parameters; a VampPrior uses the guide."""
        theta, phi = params
        q, prior = self.guide(phi), None
        if isinstance(theta.prior, priors.Vamp):
            prior = priors.mixture_of(q, theta.prior.pseudo_inputs, theta.prior.logits)
        p = self.model(theta, prior)
        return p, q if self.refined is None else self.refined(p, phi)


@lru_cache(maxsize=128)
def build(architecture: Architecture) -> Autoencoder:
    """The pair of an architecture, cached: equal architectures share compiled programs.

    `start` sets the initial pseudo-inputs of a VampPrior from the data.

    Raises ValueError or TypeError, naming the field, for incompatible fields, invalid sizes and
    invalid options.
    """
    a = architecture
    check(a)
    likelihood = _make(a, "likelihood", LIKELIHOODS, a.dim)
    encode = _encoder(a, encoder_view(a, likelihood))
    guide = (
        _hierarchical(a, encode) if a.guide in HIERARCHICAL else _amortized(a, encode, family(a))
    )
    decoder, layers = _decoder(a, likelihood), _downward(a)
    model = deep_latent_gaussian(_prior(a), decoder, likelihood, layers)
    refined = _refined(a, encode) if a.refine_steps else None
    return Autoencoder(model, guide, refined, likelihood, a)


def build_saved(config: Mapping[str, Any]) -> Autoencoder:
    """The pair of a saved architecture, for `training.load`.

    Raises ValueError for a config that is not `dataclasses.asdict` of an Architecture.
    """
    known = {field.name for field in fields(Architecture)}
    if not {"shape"} <= config.keys() <= known:
        raise ValueError(
            "config: expected the fields of a vae.Architecture, got "
            f"{', '.join(sorted(config.keys() - known)) or 'no shape'}; give the `build` function "
            "that belongs to the config of this saved model"
        )
    return build(Architecture(**config))


def family(architecture: Architecture) -> Family:
    """The family of q(z | x) with one layer of z; the parameters of a flow include its context.

    Raises ValueError for a guide with several layers, and for invalid options.
    """
    a = architecture
    if a.guide in HIERARCHICAL:
        raise ValueError(f"guide: expected one of {', '.join(FAMILIES)}, got {a.guide!r}")
    return _make(a, "guide", FAMILIES, a.latent_dims[0])


def encoder_view(a: Architecture, likelihood: Likelihood) -> Callable[[Array], Array]:
    """The function from x to the encoder's input; see `Architecture.encoder_scale`."""
    scale, (low, high, step, *_) = a.encoder_scale, cast(Support, likelihood.support)
    if scale is not None:
        return lambda x: x / scale
    if np.isfinite(high):
        return lambda x: (2 * x - (low + high)) / (high - low)
    return jnp.log1p if step else lambda x: x


def _make(a: Architecture, kind: str, table: Table, dim: int) -> Any:
    """The part table[name](dim, **options); errors name the field and its value."""
    name, options = getattr(a, kind), dict(getattr(a, f"{kind}_options"))
    taken = list(inspect.signature(table[name]).parameters)[1:]
    unknown = [option for option in options if option not in taken]
    if unknown:
        raise ValueError(
            f"{kind}={name!r} takes {', '.join(taken) or 'no options'}, got "
            f"{', '.join(map(repr, unknown))}"
        )
    try:
        return table[name](dim, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{kind}={name!r}: {error}") from error


def _encoder(a: Architecture, view: Callable[[Array], Array]) -> Encode:
    def encode(hidden: Sequence[int], num_outputs: int) -> Network:
        if a.channels:
            height, width = a.shape
            network = networks.conv_encoder((height, width), num_outputs, a.channels, a.activation)
        else:
            network = networks.mlp(a.dim, hidden, num_outputs, a.activation)
        return network._replace(apply=lambda params, x: network.apply(params, view(x)))

    return encode


def _decoder(a: Architecture, likelihood: Likelihood) -> Network:
    first, num_outputs = a.latent_dims[0], likelihood.num_outputs
    if a.channels:
        (height, width), per_pixel, channels = a.shape, num_outputs // a.dim, a.channels[::-1]
        return networks.conv_decoder(first, (height, width), per_pixel, channels, a.activation)
    return networks.mlp(first, a.hidden[0][::-1], num_outputs, a.activation)


def _downward(a: Architecture) -> list[Layer]:
    """The layers z_(l+1) -> Gaussian of z_l, from the data upwards."""
    rows = zip(a.latent_dims[:-1], a.latent_dims[1:], a.hidden[1:], strict=True)
    return [
        Layer(networks.mlp(above, hidden, 2 * below, a.activation), below)
        for below, above, hidden in rows
    ]


def _amortized(a: Architecture, encode: Encode, of_q: Family) -> Guide:
    """The family, amortised by a network of x; all x share the layers of a flow."""
    names = OF_X if a.guide in ("iaf", "coupling") else None
    network = encode(a.hidden[0], guides.num_outputs(of_q, names))
    return guides.amortized(of_q, network.init, network.apply, names)


def _refined(a: Architecture, encode: Encode) -> Refined:
    with jax.ensure_compile_time_eval():  # `build` is cached, so a traced key would leak
        objective = guides.sampled_elbo(jax.random.key(REFINE_SEED), REFINE_DRAWS)
    step = optax.sgd(a.refine_rate)
    return guides.refined(
        family(a), lambda of_q: _amortized(a, encode, of_q), objective, step, a.refine_steps
    )


def _hierarchical(a: Architecture, encode: Encode) -> Guide:
    rows = zip(a.latent_dims[:-1], a.latent_dims[1:], a.hidden[:-1], a.hidden[1:], strict=True)
    first, lowest = a.hidden[0], a.latent_dims[0]
    if a.guide == "bottom_up":
        layers = [Layer(encode(first, 2 * lowest), lowest)]
        for below, dim, _, hidden in rows:
            layers.append(Layer(networks.mlp(below, hidden, 2 * dim, a.activation), dim))
        return guides.bottom_up(layers)
    upward = [encode(first[:-1], first[-1])]  # the last width is the number of features
    for _, _, before, hidden in rows:
        upward.append(networks.mlp(before[-1], hidden[:-1], hidden[-1], a.activation))
    return guides.ladder(upward, a.latent_dims[-1], _downward(a), a.activation)


def _prior(a: Architecture) -> Prior:
    def vamp(dim: int, num_components: int = 10) -> Prior:
        # `start` replaces these distinct rows by rows of the data.
        rows = np.arange(num_components, dtype=float)[:, None] * np.ones(a.dim)
        return priors.vamp(num_components, rows)

    mixture = partial(priors.mixture, num_components=10)
    table: Table = {"standard_normal": priors.standard_normal, "mixture": mixture, "vamp": vamp}
    return _make(a, "prior", table, a.latent_dims[-1])


FAMILIES: Table = {
    "mean_field": guides.mean_field,
    "full_rank": guides.full_rank,
    "low_rank": partial(guides.low_rank, rank=1),
    "iaf": partial(guides.flow_family, "iaf", num_layers=2, hidden=(64,), context_dim=32),
    "coupling": partial(guides.flow_family, "coupling", num_layers=4, hidden=(64,), context_dim=32),
}
