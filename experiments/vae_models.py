"""The models and guides of the VAE experiments, built from a plain description of them.

The description is what a run directory keeps, so that a trained model can be built again in
another process from its folder alone:

    saved = training.load_model(folder, vae_models.build)
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lvm_jax import checks, guides, likelihoods, models, networks, priors
from lvm_jax.guides import Family, Guide, Refined
from lvm_jax.likelihoods import Likelihood
from lvm_jax.models import Model
from lvm_jax.models.deep_latent_gaussian import Layer
from lvm_jax.networks import Network
from lvm_jax.priors import Prior
from lvm_jax.typing import Array, Params

GAUSSIANS = ("mean_field", "full_rank", "low_rank")  # the guides that can be refined
FLOWS = ("iaf", "coupling")
HIERARCHICAL = ("bottom_up", "ladder")
GUIDES = (*GAUSSIANS, *FLOWS, *HIERARCHICAL)
PRIORS = ("standard_normal", "mixture", "vamp")
NETWORKS = ("mlp", "conv")
WITH_LEVELS = ("discretized_logistic", "categorical")
REFINE_DRAWS, REFINE_SEED = 8, 0  # the draws that local steps climb are the same for ever


@dataclass(frozen=True)
class Description:
    """All that it takes to build a model and its guide; plain enough for JSON."""

    shape: tuple[int, int]  # of an image
    high: float  # the largest value that a pixel can have; encoders see x / high
    likelihood: str
    guide: str
    prior: str
    latent_dims: tuple[int, ...]  # of z_1, next to x, to z_L at the top
    hidden: tuple[tuple[int, ...], ...]  # of the networks of each stochastic layer, x's side first
    levels: int = 256  # of a pixel, for the likelihoods that count them
    network: str = "mlp"  # between x and z_1; above it all are MLPs
    channels: tuple[int, ...] = (16, 32)  # of a convolutional one
    activation: str = "tanh"
    components: int = 20  # of the prior, if it is a mixture or a VampPrior
    rank: int = 2  # of low_rank
    flow_layers: int = 2
    flow_hidden: tuple[int, ...] = (64,)
    refine_steps: int = 0
    refine_rate: float = 0.01

    @property
    def dim(self) -> int:
        """Pixels of an image."""
        return self.shape[0] * self.shape[1]


class Built(NamedTuple):
    """A model with its guide, and what of the guide is trained."""

    model: Model
    amortized: Guide  # its phi is trained
    guide: Guide  # the same, unless local steps follow


def describe(values: dict[str, Any]) -> Description:
    """A Description from the lists that JSON makes of its tuples."""
    return Description(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value


def build(values: dict[str, Any]) -> tuple[Model, Guide]:
    """Model and guide of a saved description, for `training.load_model`; needs no data."""
    made = make(describe(values))
    return made.model, made.guide


def make(d: Description, start: np.ndarray | None = None) -> Built:
    """Model and guides of a description.

    `start` is data rows [N, D], where the pseudo-inputs of a VampPrior begin; without it the
    model can be given trained parameters, but not be trained from scratch.
    """
    check(d)
    likelihood, amortized = make_likelihood(d), make_guide(d)
    prior = make_prior(d, amortized, start)
    model = models.deep_latent_gaussian(prior, decoder(d, likelihood), likelihood, downward(d))
    return Built(model, amortized, refined(d, model) if d.refine_steps else amortized)


def final_phi(d: Description, theta: Params, phi: Params) -> Params:
    """phi of `Built.guide`, from the trained phi of `Built.amortized` and the trained theta."""
    return Refined(phi, theta) if d.refine_steps else phi


def to_json(d: Description) -> dict[str, Any]:
    """The description as `training.save_model` keeps it."""
    return asdict(d)


def check(d: Description) -> None:
    """Refuse names and sizes that do not go together, before anything is built."""
    checks.choice(d.likelihood, "likelihood", tuple(likelihoods.LIKELIHOODS))
    checks.choice(d.guide, "guide", GUIDES)
    checks.choice(d.prior, "prior", PRIORS)
    checks.choice(d.network, "network", NETWORKS)
    for name in ("components", "rank", "flow_layers"):
        checks.integer(getattr(d, name), name, 1)
    for dim in d.latent_dims:
        checks.integer(dim, "latent_dims", 1)
    several, wanted = len(d.latent_dims) > 1, d.guide in HIERARCHICAL
    if several != wanted:
        works = " or ".join(HIERARCHICAL) if several else "one of " + ", ".join(GUIDES[:5])
        raise ValueError(
            f"guide: expected {works} for {len(d.latent_dims)} stochastic layer(s) of z "
            f"(latent_dims), got {d.guide!r}"
        )
    if d.prior == "vamp" and (several or d.refine_steps):
        why = "several stochastic layers" if several else "refine_steps: it is a mixture of q"
        raise ValueError(f"prior: expected standard_normal or mixture with {why}, got 'vamp'")
    if checks.integer(d.refine_steps, "refine_steps", 0) and d.guide not in GAUSSIANS:
        raise ValueError(
            f"refine_steps: expected 0 for guide {d.guide!r}; local steps work for "
            f"{', '.join(GAUSSIANS)}"
        )
    if d.guide == "ladder" and not all(d.hidden):
        raise ValueError("hidden: expected at least one width in every network of a ladder")


def downward(d: Description) -> list[Layer]:
    """z_(l+1) -> the Gaussian of z_l, from the data upwards; none for one layer of z."""
    pairs = zip(d.latent_dims[:-1], d.latent_dims[1:], d.hidden[1:], strict=True)
    return [
        Layer(networks.mlp(above, hidden, 2 * below, d.activation), below)
        for below, above, hidden in pairs
    ]


def make_likelihood(d: Description) -> Likelihood:
    """The likelihood by its name."""
    options = {"num_levels": d.levels} if d.likelihood in WITH_LEVELS else {}
    return likelihoods.LIKELIHOODS[d.likelihood](d.dim, **options)


def decoder(d: Description, likelihood: Likelihood) -> Network:
    """z_1 -> what the likelihood takes."""
    if d.network == "conv":
        per_pixel = likelihood.num_outputs // d.dim
        channels = d.channels[::-1]
        return networks.conv_decoder(d.latent_dims[0], d.shape, per_pixel, channels, d.activation)
    widths = d.hidden[0][::-1]
    return networks.mlp(d.latent_dims[0], widths, likelihood.num_outputs, d.activation)


def encoder(d: Description, num_outputs: int, hidden: tuple[int, ...] | None = None) -> Network:
    """x -> `num_outputs` numbers; it sees pixels in [0, 1], whatever their units."""
    hidden = d.hidden[0] if hidden is None else hidden
    if d.network == "conv":
        inner = networks.conv_encoder(d.shape, num_outputs, d.channels, d.activation)
    else:
        inner = networks.mlp(d.dim, hidden, num_outputs, d.activation)
    if d.high == 1:
        return inner

    def apply(params: Params, x: Array) -> Array:
        return inner.apply(params, x / d.high)

    return Network(inner.num_outputs, inner.init, apply)


def make_family(d: Description) -> Family:
    """The Gaussian q of one layer of z."""
    (dim,) = d.latent_dims
    if d.guide == "low_rank":
        return guides.low_rank(dim, d.rank)
    return guides.full_rank(dim) if d.guide == "full_rank" else guides.mean_field(dim)


def place(d: Description, family: Family) -> Guide:
    """A family whose parameters come from a network of x."""
    network = encoder(d, guides.num_outputs(family))
    return guides.amortized(family, network.init, network.apply)


def make_guide(d: Description) -> Guide:
    """The amortised guide by its name, before any local step."""
    if d.guide == "ladder":
        return ladder(d)
    if d.guide == "bottom_up":
        up = zip(d.latent_dims[:-1], d.latent_dims[1:], d.hidden[1:], strict=True)
        above = [
            Layer(networks.mlp(before, hidden, 2 * dim, d.activation), dim)
            for before, dim, hidden in up
        ]
        first = d.latent_dims[0]
        return guides.bottom_up([Layer(encoder(d, 2 * first), first), *above])
    if d.guide in FLOWS:
        (dim,) = d.latent_dims
        network = encoder(d, 3 * dim)  # loc, log_scale, and a context as long as they are
        return guides.flow(d.guide, dim, d.flow_layers, d.flow_hidden, network)
    return place(d, make_family(d))


def ladder(d: Description) -> Guide:
    """A ladder whose way up has the widths of the model's networks."""
    first, *rest = d.hidden
    upward = [encoder(d, first[-1], first[:-1])]
    for below, hidden in zip(d.hidden[:-1], rest, strict=True):
        upward.append(networks.mlp(below[-1], hidden[:-1], hidden[-1], d.activation))
    return guides.ladder(upward, d.latent_dims[-1], downward(d), d.activation)


def make_prior(d: Description, guide: Guide, start: np.ndarray | None) -> Prior:
    """The prior of the top layer of z."""
    dim = d.latent_dims[-1]
    if d.prior == "standard_normal":
        return priors.standard_normal(dim)
    if d.prior == "mixture":
        return priors.mixture(dim, d.components)
    if start is None:  # rows that differ, and are never looked at
        start = np.arange(d.components, dtype=np.float32)[:, None] * np.ones((1, d.dim), np.float32)
    return priors.vamp(guide, d.components, start)


def refined(d: Description, model: Model) -> Guide:
    """The amortised guide, then `refine_steps` gradient steps on the ELBO of one image."""
    objective = guides.sampled_elbo(jax.random.key(REFINE_SEED), REFINE_DRAWS)
    step = optax.sgd(d.refine_rate)
    return guides.refined(
        model, make_family(d), lambda family: place(d, family), objective, step, d.refine_steps
    )
