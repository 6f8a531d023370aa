"""The description of a variational autoencoder, and its validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from lvm_jax._core import checks
from lvm_jax.likelihoods import LIKELIHOODS

GAUSSIANS = ("mean_field", "full_rank", "low_rank")  # guides that support refine_steps
ONE_LAYER = (*GAUSSIANS, "iaf", "coupling")
HIERARCHICAL = ("bottom_up", "ladder")
GUIDES = (*ONE_LAYER, *HIERARCHICAL)
PRIORS = ("standard_normal", "mixture", "vamp")
BIASES = ("data", "log_odds", "zero")

Options = Mapping[str, Any] | Sequence[Sequence[Any]]  # a dictionary, stored as sorted pairs


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The description of the model, the guide and their initial parameters.

    Hashable. `Architecture(**values)` inverts `dataclasses.asdict`, also after JSON: lists become
    tuples, dictionaries of options become sorted pairs. `build` validates the fields.
    """

    shape: Sequence[int]
    """Shape of one x: (D,), or (height, width) of an image; x itself is flat."""
    latent_dims: Sequence[int] = (2,)
    """Dimensions of z_1 (next to x), ..., z_L (top)."""
    hidden: Sequence[Sequence[int]] = ((200, 200),)
    """Hidden widths of the networks between x and z_1, between z_1 and z_2, ...; () is linear. The
    decoder has those of x and z_1 in reverse order."""
    channels: Sequence[int] = ()
    """Channels of convolutions between an image and z_1, instead of `hidden[0]`; () for an MLP."""
    activation: str = "tanh"
    """A name in `networks.ACTIVATIONS`."""
    likelihood: str = "bernoulli"
    """A name in `likelihoods.LIKELIHOODS`."""
    likelihood_options: Options = ()
    """`num_levels` (256) of discretized_logistic and categorical."""
    guide: str = "mean_field"
    """One of GUIDES: one layer of z mean_field, full_rank, low_rank, iaf or coupling; several
    layers bottom_up or ladder."""
    guide_options: Options = ()
    """`rank` (1) of low_rank; `num_layers` (2 of iaf, 4 of coupling), `hidden` ((64,)) and
    `context_dim` (32) of a flow."""
    prior: str = "standard_normal"
    """The prior of z_L: standard_normal, mixture or vamp."""
    prior_options: Options = ()
    """`num_components` (10) of mixture and vamp."""
    refine_steps: int = 0
    """Gradient steps on the ELBO of each x, starting at the amortised q (semi-amortised)."""
    refine_rate: float = 0.01
    """Size of these steps."""
    encoder_scale: float | None = None
    """The encoder's input is x / encoder_scale. None uses the likelihood's support: x for real
    numbers, log(1 + x) for counts, (2 x - low - high) / (high - low) for a bounded range."""
    biases: str = "data"
    """Initial biases in `start`. data: the decoder's outputs match the data, and the encoder's
    first layer is 0 for the mean row. log_odds: the decoder's outputs are the log-odds of the mean
    bits, clipped to [0.001, 0.999] (code of Burda et al. 2016). zero: all 0."""

    def __post_init__(self) -> None:
        """Convert lists to tuples, and dictionaries of options to sorted pairs."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_options"):
                value = _pairs(value, field.name)
            object.__setattr__(self, field.name, _tuples(value))

    @property
    def dim(self) -> int:
        """D, the number of dimensions of x."""
        return prod(self.shape)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _pairs(value: Any, name: str) -> list[tuple[str, Any]]:
    try:
        return sorted(dict(value).items())
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a dictionary of options, got {value!r}") from None


def check(a: Architecture) -> None:
    """Raise ValueError, naming the field, for invalid or incompatible fields except options."""
    checks.choice(a.likelihood, "likelihood", tuple(LIKELIHOODS))
    checks.choice(a.guide, "guide", GUIDES)
    checks.choice(a.prior, "prior", PRIORS)
    checks.choice(a.biases, "biases", BIASES)
    _check_sizes(a)
    several, wanted = len(a.latent_dims) > 1, a.guide in HIERARCHICAL
    if several != wanted:
        works = " or ".join(HIERARCHICAL) if several else "one of " + ", ".join(ONE_LAYER)
        raise ValueError(
            f"guide: expected {works} for {len(a.latent_dims)} stochastic layer(s) "
            f"(latent_dims), got {a.guide!r}"
        )
    if a.prior == "vamp" and (several or a.refine_steps):
        why = "several stochastic layers" if several else "refine_steps > 0"
        raise ValueError(f"prior: expected standard_normal or mixture with {why}, got 'vamp'")
    if checks.integer(a.refine_steps, "refine_steps", 0) and a.guide not in GAUSSIANS:
        raise ValueError(
            f"refine_steps: expected 0 for guide {a.guide!r}, got {a.refine_steps}; refine one of "
            f"{', '.join(GAUSSIANS)}"
        )
    if a.guide == "ladder" and not all(a.hidden):
        raise ValueError("hidden: expected at least one width in every network of a ladder")
    if a.biases == "log_odds" and a.likelihood not in ("bernoulli", "continuous_bernoulli"):
        raise ValueError(
            f"biases: expected data or zero with a {a.likelihood} likelihood, got 'log_odds'"
        )


def _check_sizes(a: Architecture) -> None:
    if not isinstance(a.shape, tuple) or len(a.shape) not in (1, 2):
        raise ValueError(f"shape: expected (D,) or (height, width), got {a.shape!r}")
    if not isinstance(a.latent_dims, tuple) or not a.latent_dims:
        raise ValueError(f"latent_dims: expected at least one number, as (2,), got {a.latent_dims}")
    for name in ("shape", "latent_dims"):
        for size in getattr(a, name):
            checks.integer(size, name, 1)
    widths = a.hidden if isinstance(a.hidden, tuple) else ()
    if len(widths) != len(a.latent_dims) or not all(isinstance(h, tuple) for h in widths):
        raise ValueError(
            f"hidden: expected the widths of {len(a.latent_dims)} networks, one for each of "
            f"latent_dims, as {((200, 200),) * len(a.latent_dims)}, got {a.hidden}"
        )
    if a.channels and len(a.shape) == 1:
        raise ValueError(f"channels: expected () for x of shape {a.shape}, got {a.channels}")
    if a.encoder_scale is not None and not checks.number(a.encoder_scale, "encoder_scale") > 0:
        raise ValueError(f"encoder_scale: expected a number > 0, got {a.encoder_scale}")
