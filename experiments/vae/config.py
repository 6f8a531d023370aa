"""A VAE of images: likelihood, guide, prior, bound and estimator, each by one word (36 s).

The run trains a deep latent Gaussian model and measures it on held-out images: the ELBO and its
terms, log p(x) of each image with its error and k-hat, the active units. The run's folder keeps the
trained model for `lvm_jax.training.load`.

The same command resumes a stopped run; more --epochs extend a finished one. If --evaluated or the
options of --evidence change, the trained model is measured again.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from lvm_jax.report import Options, above, at_least, inside

BOUNDS = ("elbo", "iwae", "renyi", "miwae", "ciwae")
# The bounds of each estimator; the first is the default of --bound.
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
    """Options of the experiment; None means the default that fits the other options."""

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
    """dynamic (bits drawn in every step), fixed (drawn once), threshold (at 1/2) or none."""
    likelihood: (
        Literal[
            "bernoulli", "continuous_bernoulli", "gaussian", "gaussian_fixed",
            "gaussian_per_dimension", "gaussian_output", "discretized_logistic", "categorical",
            "poisson", "negative_binomial",
        ]
        | None
    ) = None  # fmt: skip
    """Likelihood of a pixel; None is discretized_logistic for digits, bernoulli for others."""
    levels: Annotated[int, at_least(2)] | None = None
    """Grey levels of a pixel in a .npy file, for likelihoods of counts."""
    bound: Literal[BOUNDS] | None = None
    """Objective; renyi uses --alpha, miwae --num-groups, ciwae --elbo-share."""
    estimator: Literal[tuple(ESTIMATORS)] | None = None
    """Gradient estimator; None is STL for the ELBO and DReG for other bounds, if possible."""
    num_samples: Annotated[int, at_least(1)] | None = None
    """Draws of z per image and step; None is 1 for pathwise gradients of the ELBO, else 10."""
    alpha: float = 0.5
    """Order of the Renyi bound."""
    num_groups: Annotated[int, at_least(1)] = 2
    """Groups of draws in miwae and piwae."""
    elbo_share: float = 0.5
    """Share of the ELBO in ciwae."""
    guide: (
        Literal["mean_field", "full_rank", "low_rank", "iaf", "coupling", "bottom_up", "ladder"]
        | None
    ) = None
    """Family of q; bottom_up and ladder are for several stochastic layers."""
    rank: Annotated[int, at_least(1)] = 1
    """Rank of the low_rank covariance."""
    flow_layers: Annotated[int, at_least(1)] = 2
    """Layers of a flow."""
    flow_hidden: tuple[Annotated[int, at_least(1)], ...] = (64,)
    """Widths of the networks in a flow."""
    refine_steps: Annotated[int, at_least(0)] = 0
    """Gradient steps on the ELBO of each image from the amortised q (semi-amortised)."""
    refine_rate: Annotated[float, above(0)] = 0.01
    """Size of the steps of --refine-steps."""
    prior: Literal["standard_normal", "mixture", "vamp"] = "standard_normal"
    """Prior of the top layer of z."""
    components: Annotated[int, at_least(1)] = 20
    """Components of a mixture or VampPrior."""
    latent_dims: tuple[Annotated[int, at_least(1)], ...] | None = None
    """Dimensions of z_1, next to x, and of the stochastic layers above it, as 100 50; None is 2, or
    8 2 for a guide of several layers."""
    hidden: tuple[Annotated[int, at_least(1)], ...] = (200, 200)
    """Widths of the networks between x and z_1, in the order from x."""
    hidden_above: tuple[Annotated[int, at_least(1)], ...] = (100, 100)
    """Widths of the networks between stochastic layers."""
    channels: tuple[Annotated[int, at_least(1)], ...] = ()
    """Channels of convolutions between x and z_1, as 16 32; empty is an MLP of --hidden."""
    activation: Literal["tanh", "relu", "elu", "softplus", "gelu", "silu", "identity"] = "relu"
    """Activation of the networks."""
    epochs: Annotated[int, at_least(1)] = 200
    """Passes over the training images; a larger number extends a finished run."""
    batch_size: Annotated[int, at_least(2)] = 50
    """Images in each step."""
    devices: Annotated[int, at_least(1)] = 1
    """Number of GPUs or other devices of this process for each step."""
    learning_rate: Annotated[float, above(0)] = 1e-3
    """Learning rate of Adam."""
    schedule: Literal["cosine", "constant", "burda"] = "cosine"
    """cosine (falls to 0), constant, or burda (the paper's stages)."""
    decay_epochs: Annotated[int, at_least(1)] = 200
    """Epochs in which cosine falls to 0; a run can be extended up to them."""
    warm_up: Annotated[int, at_least(0)] = 0
    """Epochs in which the weight of the KL rises from 0 to 1; reparameterised gradients."""
    free_bits: Annotated[float, at_least(0)] = 0.0
    """Nats of KL below which there is no penalty (free bits)."""
    free_bits_group: Literal["dimension", "all"] = "dimension"
    """Whether --free-bits applies to each dimension of z or to all together."""
    ema: Annotated[float, inside(0, 1)] | None = None
    """Decay of a moving average of the parameters, as 0.999; the model is the average."""
    patience: Annotated[int, at_least(1)] | None = None
    """Epochs without a better validation bound before training stops."""
    clip: Annotated[float, above(0)] | None = None
    """Maximum norm of a gradient."""
    evaluated: Annotated[int, at_least(2)] = 1000
    """Random images of each part to measure; all if there are fewer."""
    evidence: Literal["importance", "annealed", "certify"] = "importance"
    """Method for log p of the test images: importance sampling from the guide, annealed chains from
    the guide, or certify, with as many samples as --evidence-tolerance needs."""
    evidence_samples: Annotated[int, at_least(2)] = 5000
    """Draws of importance sampling for each image."""
    evidence_chains: Annotated[int, at_least(2)] = 64
    """Annealed chains for each image."""
    evidence_temperatures: Annotated[int, at_least(1)] = 64
    """Temperatures of the annealed chains."""
    evidence_tolerance: Annotated[float, above(0)] = 0.1
    """Half-width of the intervals of certify, in nats."""
    evidence_budget: Annotated[float, above(0)] = 1e6
    """Maximum evaluations of log p(x, z) of certify for an image."""

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
        # STL and DReG evaluate log q at fixed parameters. This would invert an inverse autoregressive
        # flow and run refinement twice, and they do not estimate modified objectives.
        if self.guide == "iaf" or self.refine_steps or self.warm_up or self.free_bits:
            return "reparameterized"
        return "sticking_the_landing" if self.bound == "elbo" else "doubly_reparameterized"

    def check(self) -> None:
        """Refuse incompatible options; `vae.build` checks the architecture."""
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
