"""A VAE of images: likelihood, guide, prior, bound and estimator, each by one word (36 s).

Trains a deep latent Gaussian model with networks, then measures it on held-out images: the ELBO and
its terms, log p(x) of each image with its error and k-hat, the active units. The run's folder keeps the
trained model, which `lvm_jax.training.load` loads in another process.

The same command goes on with a run that was stopped, and with more --epochs extends a finished one.
--evaluated and --evidence with its options may change: the trained model is then measured again.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least, inside

BOUNDS = ("elbo", "iwae", "renyi", "miwae", "ciwae")
# The bounds whose gradient an estimator has; the first is taken where --bound is not given.
ESTIMATORS: dict[str, tuple[str, ...]] = {
    "reparameterized": BOUNDS,
    "doubly_reparameterized": ("iwae", "elbo", "renyi", "miwae", "ciwae"),
    "score_function": BOUNDS,
    "sticking_the_landing": ("elbo",),
    "leave_one_out": ("elbo",),
    "vimco": ("iwae",),
    "piwae": ("iwae",),
    "reweighted_wake_sleep": ("iwae",),
    "doubly_reparameterized_wake_sleep": ("iwae",),
}
HIERARCHICAL = ("bottom_up", "ladder")


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment; None stands for the default that fits the other options."""

    extendable = (
        "devices", "evaluated", "evidence", "evidence_samples", "evidence_chains",
        "evidence_temperatures", "evidence_tolerance", "evidence_budget",
    )  # fmt: skip
    growing = ("epochs",)

    dataset: str = "digits"
    """digits (8x8), mnist, binarized_mnist, fashion_mnist, or the path of a .npy file of images."""
    split: str | None = None
    """Numbers of images for train/validation/test, as 50000/10000/10000."""
    binarization: Literal["dynamic", "fixed", "threshold", "none"] | None = None
    """dynamic (bits drawn afresh in every step), fixed (drawn once), threshold (at 1/2) or none."""
    likelihood: (
        Literal[
            "bernoulli", "continuous_bernoulli", "gaussian", "gaussian_fixed",
            "gaussian_per_dimension", "gaussian_output", "discretized_logistic", "categorical",
            "poisson", "negative_binomial",
        ]
        | None
    ) = None  # fmt: skip
    """Of the pixels; None is discretized_logistic for the digits, bernoulli for other images."""
    levels: Annotated[int, at_least(2)] | None = None
    """Grey levels of a pixel in a .npy file, for the likelihoods that count them."""
    bound: Literal[BOUNDS] | None = None
    """The objective; renyi takes --alpha, miwae --num-groups, ciwae --elbo-share."""
    estimator: Literal[tuple(ESTIMATORS)] | None = None
    """Gradient estimator; None is STL for the ELBO, DReG for other bounds where they apply."""
    num_samples: Annotated[int, at_least(1)] | None = None
    """Draws of z per image and step; None is 1 for pathwise gradients of the ELBO, else 10."""
    alpha: float = 0.5
    """Of the Renyi bound."""
    num_groups: Annotated[int, at_least(1)] = 2
    """Groups of draws, of miwae and piwae."""
    elbo_share: float = 0.5
    """Share of the ELBO in ciwae."""
    guide: (
        Literal["mean_field", "full_rank", "low_rank", "iaf", "coupling", "bottom_up", "ladder"]
        | None
    ) = None
    """Family of q; bottom_up and ladder are for several stochastic layers."""
    rank: Annotated[int, at_least(1)] = 1
    """Columns of the low-rank factor."""
    flow_layers: Annotated[int, at_least(1)] = 2
    """Layers of a flow."""
    flow_hidden: tuple[Annotated[int, at_least(1)], ...] = (64,)
    """Widths of the networks in a flow."""
    refine_steps: Annotated[int, at_least(0)] = 0
    """Gradient steps on the ELBO of each image after the amortised start (semi-amortised)."""
    refine_rate: Annotated[float, above(0)] = 0.01
    """Size of these steps."""
    prior: Literal["standard_normal", "mixture", "vamp"] = "standard_normal"
    """Of the top layer of z."""
    components: Annotated[int, at_least(1)] = 20
    """Of a mixture or a VampPrior."""
    latent_dims: tuple[Annotated[int, at_least(1)], ...] | None = None
    """Dimensions of z_1, next to x, and of the stochastic layers above it, as 100 50; None is 2, or
    8 2 for a guide of several layers."""
    hidden: tuple[Annotated[int, at_least(1)], ...] = (200, 200)
    """Widths of the networks between x and z_1, from the side of x."""
    hidden_above: tuple[Annotated[int, at_least(1)], ...] = (100, 100)
    """Widths of the networks between stochastic layers."""
    channels: tuple[Annotated[int, at_least(1)], ...] = ()
    """Of convolutions between x and z_1, in place of --hidden, as 16 32; none is an MLP."""
    activation: Literal["tanh", "relu", "elu", "softplus", "gelu", "silu", "identity"] = "relu"
    """Of the networks."""
    epochs: Annotated[int, at_least(1)] = 200
    """Passes over the training images; a finished run is extended to them."""
    batch_size: Annotated[int, at_least(2)] = 50
    """Images in each step."""
    devices: Annotated[int, at_least(1)] = 1
    """GPUs, or other devices of this process, over which the images of each step are spread."""
    learning_rate: Annotated[float, above(0)] = 1e-3
    """Of Adam."""
    schedule: Literal["cosine", "constant", "burda"] = "cosine"
    """cosine (falls to 0), constant, or burda (the paper's stages)."""
    decay_epochs: Annotated[int, at_least(1)] = 200
    """Epochs in which cosine falls to 0, and up to which a run can be extended."""
    warm_up: Annotated[int, at_least(0)] = 0
    """Epochs in which the KL's weight rises from 0 to 1; reparameterised gradients."""
    free_bits: Annotated[float, at_least(0)] = 0.0
    """Nats of KL that are free of charge."""
    free_bits_group: Literal["dimension", "all"] = "dimension"
    """Whether --free-bits counts for each dimension of z or for all of them together."""
    ema: Annotated[float, inside(0, 1)] | None = None
    """Decay of a moving average of the parameters, as 0.999; the average is what is used."""
    patience: Annotated[int, at_least(1)] | None = None
    """Stop after so many epochs without a better validation bound."""
    clip: Annotated[float, above(0)] | None = None
    """Largest norm of a gradient."""
    evaluated: Annotated[int, at_least(2)] = 1000
    """Images of each part that are measured, at random; all if there are fewer."""
    evidence: Literal["importance", "annealed", "certify"] = "importance"
    """log p of the test images by draws of the guide, by annealed chains that start there, or by
    what each image needs for an interval of --evidence-tolerance (certify)."""
    evidence_samples: Annotated[int, at_least(2)] = 5000
    """Draws of importance sampling for each image."""
    evidence_chains: Annotated[int, at_least(2)] = 64
    """Of annealed, for each image."""
    evidence_temperatures: Annotated[int, at_least(1)] = 64
    """Of annealed."""
    evidence_tolerance: Annotated[float, above(0)] = 0.1
    """Half-width of certify's intervals, in nats."""
    evidence_budget: Annotated[float, above(0)] = 1e6
    """Evaluations of log p(x, z) that certify may take for an image."""

    def __post_init__(self) -> None:
        """Replace each None by the default that fits the other options."""
        several = self.guide in HIERARCHICAL
        self._default("latent_dims", (8, 2) if several else (2,))
        self._default("guide", "bottom_up" if len(self.latent_dims) > 1 else "mean_field")
        grey = self.dataset == "digits"
        self._default("likelihood", "discretized_logistic" if grey else "bernoulli")
        self._default("bound", ESTIMATORS.get(self.estimator, BOUNDS)[0])
        self._default("estimator", self._least_noisy())
        score = self.estimator in ("score_function", "leave_one_out")
        self._default("num_samples", 1 if self.bound == "elbo" and not score else 10)

    def _default(self, name: str, value: object) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def _least_noisy(self) -> str:
        # STL and DReG evaluate log q at frozen parameters. An inverse autoregressive flow is inverted
        # for that, local steps run twice, and a modified objective is not what they estimate.
        if self.guide == "iaf" or self.refine_steps or self.warm_up or self.free_bits:
            return "reparameterized"
        return "sticking_the_landing" if self.bound == "elbo" else "doubly_reparameterized"

    def check(self) -> None:
        """Refuse options that do not go together; the architecture is checked when it is built."""
        super().check()
        self._check_objective()
        self._check_modified()
        if self.schedule == "cosine" and self.decay_epochs < self.epochs:
            raise ValueError(
                f"decay_epochs: expected at least epochs = {self.epochs}, after which the rate is "
                f"0, got {self.decay_epochs}; begin a run with the most epochs that it may get, or "
                "with --schedule constant"
            )
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size: expected a multiple of devices = {self.devices}, got {self.batch_size}"
            )
        if self.evidence == "certify" and self.guide == "iaf":
            raise ValueError(
                "evidence: expected importance or annealed with --guide iaf, whose density has no "
                "gradient for the moves of certify, got 'certify'"
            )

    def _check_objective(self) -> None:
        if self.bound not in ESTIMATORS[self.estimator]:
            fitting = [name for name, bounds in ESTIMATORS.items() if self.bound in bounds]
            raise ValueError(
                f"estimator: {self.estimator} has no gradient of the bound {self.bound}, which "
                f"{', '.join(fitting)} have"
            )
        least = 2 if self.estimator in ("leave_one_out", "vimco") else 1
        grouped = self.bound == "miwae" or self.estimator == "piwae"
        if self.num_samples < least or (grouped and self.num_samples % self.num_groups):
            expected = f"a multiple of num_groups = {self.num_groups}" if grouped else "at least 2"
            raise ValueError(f"num_samples: expected {expected}, got {self.num_samples}")

    def _check_modified(self) -> None:
        if self.warm_up and self.free_bits:
            raise ValueError("free_bits: expected 0 with warm_up, or warm_up 0; got both")
        if (self.warm_up or self.free_bits) and self.estimator != "reparameterized":
            raise ValueError(
                "estimator: expected reparameterized with warm_up or free_bits, which change the "
                f"objective, got {self.estimator}"
            )
        if self.free_bits and self.bound != "elbo":
            raise ValueError(f"bound: expected elbo with free_bits, got {self.bound}")
        product = self.guide == "mean_field" and self.prior == "standard_normal"
        if self.free_bits and self.free_bits_group == "dimension" and not product:
            raise ValueError(
                "free_bits_group: expected all unless guide is mean_field and prior standard_normal, "
                f"got dimension with {self.guide} and {self.prior}"
            )
