"""The model and the guide of a variational autoencoder from a few words, and where they start.

An `Architecture` is a hashable value that pickles; `build` makes the functions of it once, so that
a second fit of the same architecture on data of the same shape compiles nothing.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import gradients, guides, networks, priors
from lvm_jax.chain import LOG_SCALE_BOUND
from lvm_jax.compiling import bucket, first_rows, pad_rows
from lvm_jax.guides import Family, Guide
from lvm_jax.likelihoods import LIKELIHOODS, Likelihood, Support
from lvm_jax.models import Model, deep_latent_gaussian
from lvm_jax.networks import Network
from lvm_jax.priors import Prior
from lvm_jax.training import Parameters
from lvm_jax.training.step import Tie
from lvm_jax.typing import Array, Key

Options = tuple[tuple[str, Any], ...]  # of a dictionary, sorted: hashable
Encode = Callable[[int], Network]  # the number of outputs -> a network of x


class Architecture(NamedTuple):
    """All that the functions of a model and its guide depend on."""

    num_features: int
    num_components: int
    hidden: tuple[int, ...]  # of the encoder; the decoder has them in reverse
    activation: str
    likelihood: tuple[str, Options]
    guide: tuple[str, Options]
    prior: tuple[str, Options]


class Parts(NamedTuple):
    """What an architecture is built into."""

    model: Model
    guide: Guide
    likelihood: Likelihood
    tie: Tie | None  # of a VampPrior


def word(name: str, options: Mapping[str, Any] | None) -> tuple[str, Options]:
    """A part's name with its options, lists made tuples so that it can be hashed."""
    pairs = sorted((options or {}).items())
    return name, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in pairs)


@lru_cache(maxsize=128)
def build(architecture: Architecture) -> Parts:
    """The functions of an architecture, the same objects for an equal one.

    Raises ValueError or TypeError naming the part, for options that it does not take and sizes
    that it cannot have.
    """
    num_features, dim, hidden, activation, likelihood, guide, prior = architecture
    density = _make("likelihood", LIKELIHOODS, likelihood, num_features)
    view = encoder_view(density.support)

    def encode(num_outputs: int) -> Network:
        network = networks.mlp(num_features, hidden, num_outputs, activation)
        return network._replace(apply=lambda params, x: network.apply(params, view(x)))

    q = _make("guide", GUIDES, guide, dim, encode)
    decoder = networks.mlp(dim, hidden[::-1], density.num_outputs, activation)
    p = _make("prior", PRIORS, prior, dim, q, num_features)
    tie = priors.tie if prior[0] == "vamp" else None
    return Parts(deep_latent_gaussian(p, decoder, density), q, density, tie)


def start(key: Key[Array, ""], architecture: Architecture, x: np.ndarray) -> Parameters:
    """Fresh parameters: Glorot's, with the networks' biases set for the data.

    The decoder's outputs are at the data (`first_outputs`), and the encoder's first layer at zero
    for a row at the mean of what it sees. The pseudo-inputs of a VampPrior start at rows of x.
    Raises ValueError where x has too few.
    """
    key_theta, key_phi, key_prior = jax.random.split(key, 3)
    model, guide, likelihood, tie = build(architecture)
    theta, phi = model.init(key_theta), guide.init(key_phi)
    outputs = first_outputs(architecture.likelihood[0], likelihood, x)
    theta.decoder["output"]["bias"] = jnp.asarray(outputs, x.dtype)
    layer = phi.network["hidden_0" if architecture.hidden else "output"]
    padded = jnp.asarray(pad_rows(x, bucket(len(x))))
    seen = first_rows(encoder_view(likelihood.support)(padded), len(x)).mean(0)
    layer["bias"] = -jnp.dot(jnp.asarray(seen, x.dtype), layer["kernel"], precision="highest")
    if tie is not None:
        num = theta.prior.pseudo_inputs.shape[0]
        try:
            theta = theta._replace(prior=priors.vamp(guide, num, x).init(key_prior))
        except ValueError as error:
            raise ValueError(f"prior='vamp': {error}") from error
    return Parameters(theta, phi)


def encoder_view(support: Support) -> Callable[[Array], Array]:
    """What the encoder sees of x: numbers of about unit size, whatever the likelihood's data.

    log(1 + x) of counts, [-1, 1] for the whole of a bounded range, and real numbers as they are.
    """
    low, high, step = support.low, support.high, support.step
    if np.isfinite(high):
        return lambda x: (2 * x - (low + high)) / (high - low)
    return jnp.log1p if step else lambda x: x


def first_outputs(name: str, likelihood: Likelihood, x: np.ndarray) -> np.ndarray:
    """Outputs of the decoder, [P], at which x | z has about the mean of the data, whatever z.

    A rate far from the data's would begin with a gradient as large as the data. Only the mean of
    a continuous Bernoulli, started at a Bernoulli's logit, is nearer to 1/2. Outputs that `FIRST`
    leaves out start at 0.
    """
    first = np.zeros(0) if name not in FIRST else FIRST[name](x, likelihood.num_outputs)
    return np.pad(first, (0, likelihood.num_outputs - len(first)))


def choose_estimator(bound: str, estimator: str, guide: str) -> gradients.Estimate:
    """The gradient estimator of a name, or for "auto" the one of least variance that is cheap.

    An inverse autoregressive q prices no z but its own draws without inverting itself, which STL
    and DReG ask of it.
    """
    if estimator == "auto":
        cheap = {"elbo": "reparameterized", "iwae": "reparameterized_iwae"}
        best = {"elbo": "sticking_the_landing", "iwae": "doubly_reparameterized"}
        estimator = (cheap if guide == "iaf" else best)[bound]
    row = gradients.ESTIMATORS[estimator]
    if row.bound != bound:
        fitting = [name for name in UNBIASED if gradients.ESTIMATORS[name].bound == bound]
        raise ValueError(
            f"estimator: expected 'auto' or one of the {bound}'s, {', '.join(fitting)}, got "
            f"{estimator!r}, which is of the {row.bound}"
        )
    return row.estimate


def _make(kind: str, table: Mapping[str, Any], named: tuple[str, Options], *args: Any) -> Any:
    """table[name](*args, **options); what it refuses is said with its name."""
    name, options = named
    function = table[name]
    taken = [p.name for p in inspect.signature(function).parameters.values()][len(args) :]
    unknown = [option for option, _ in options if option not in taken]
    if unknown:
        raise ValueError(
            f"{kind}_params: {kind}={name!r} takes {', '.join(taken) or 'no options'}, got "
            f"{', '.join(map(repr, unknown))}"
        )
    try:
        return function(*args, **dict(options))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{kind}={name!r}: {error}") from error


def _amortized(family: Family, encode: Encode) -> Guide:
    network = encode(guides.num_outputs(family))
    return guides.amortized(family, network.init, network.apply)


def _mean_field(dim: int, encode: Encode) -> Guide:
    return _amortized(guides.mean_field(dim), encode)


def _full_rank(dim: int, encode: Encode) -> Guide:
    return _amortized(guides.full_rank(dim), encode)


def _low_rank(dim: int, encode: Encode, rank: int = 1) -> Guide:
    return _amortized(guides.low_rank(dim, rank), encode)


def _iaf(
    dim: int, encode: Encode, num_layers: int = 2, hidden: Any = (64,), context_dim: int = 32
) -> Guide:
    return guides.flow("iaf", dim, num_layers, hidden, encode(2 * dim + context_dim))


def _coupling(
    dim: int, encode: Encode, num_layers: int = 4, hidden: Any = (64,), context_dim: int = 32
) -> Guide:
    return guides.flow("coupling", dim, num_layers, hidden, encode(2 * dim + context_dim))


def _standard_normal(dim: int, guide: Guide, num_features: int) -> Prior:
    return priors.standard_normal(dim)


def _mixture(dim: int, guide: Guide, num_features: int, num_components: int = 10) -> Prior:
    return priors.mixture(dim, num_components)


def _vamp(dim: int, guide: Guide, num_features: int, num_components: int = 10) -> Prior:
    # Any rows will do for the functions; `start` puts the data's there.
    rows = np.arange(num_components, dtype=float)[:, None] * np.ones(num_features)
    return priors.vamp(guide, num_components, rows)


def _logits(x: np.ndarray, num_outputs: int) -> np.ndarray:
    ones = x.sum(0, dtype=np.float64) + 0.5  # half a bit more of each keeps them finite
    return np.log(ones / (len(x) + 1 - ones))


def _log_rates(x: np.ndarray, num_outputs: int) -> np.ndarray:
    return np.log((x.sum(0, dtype=np.float64) + 0.5) / (len(x) + 1))


def _locations_and_scales(x: np.ndarray, num_outputs: int) -> np.ndarray:
    deviation = np.maximum(x.std(0, dtype=np.float64), 0.01)  # of levels in [0, 1]
    log_scale = np.log(deviation * np.sqrt(3) / np.pi)  # a logistic's
    free = LOG_SCALE_BOUND * np.arctanh(log_scale / LOG_SCALE_BOUND)
    return np.concatenate([x.mean(0, dtype=np.float64), free])


def _log_frequencies(x: np.ndarray, num_outputs: int) -> np.ndarray:
    num_levels = num_outputs // x.shape[1]
    counts = [np.bincount(column, minlength=num_levels) for column in x.astype(np.int64).T]
    return np.log((np.stack(counts, 1) + 1 / num_levels) / (len(x) + 1)).ravel()


GUIDES = {
    "mean_field": _mean_field,
    "full_rank": _full_rank,
    "low_rank": _low_rank,
    "iaf": _iaf,
    "coupling": _coupling,
}
PRIORS = {"standard_normal": _standard_normal, "mixture": _mixture, "vamp": _vamp}
FIRST = {
    "bernoulli": _logits,
    "continuous_bernoulli": _logits,
    "poisson": _log_rates,
    "negative_binomial": _log_rates,
    "discretized_logistic": _locations_and_scales,
    "categorical": _log_frequencies,
}
UNBIASED = [
    name
    for name, row in gradients.ESTIMATORS.items()
    if row.latent == "reparameterized" and row.unbiased_theta and row.unbiased_phi
]
