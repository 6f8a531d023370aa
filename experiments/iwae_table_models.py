"""The paper's models, data, schedules and gradients, each as a function of a cell of the table.

One layer: 784-200-200-50 and its mirror. Two layers: x -> 200-200 -> z_1 (100) -> 100-100 ->
z_2 (50) and its mirror; tanh. Burda, Grosse and Salakhutdinov (2016), section 5 and appendix; where
the text is silent, what their code does: every output's bias starts at the log-odds of the
training mean, which is held within [0.001, 0.999].
"""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import bounds, data, gradients, guides, likelihoods, models, networks, priors, training
from lvm_jax.gradients import Estimate
from lvm_jax.guides import Guide
from lvm_jax.models import DeepLatentGaussian, Model
from lvm_jax.models.deep_latent_gaussian import Layer
from lvm_jax.training.step import Transform
from lvm_jax.typing import Array, Key, Params

if TYPE_CHECKING:
    from experiments.iwae_table import Cell, Config

SPLITS = {"mnist": "59600/400/10000"}  # the paper's; of the others the published one
NUM_STAGES = 8  # of the paper
BATCH_SIZE = {"burda": 20, "short": 100}
# Of Adam, by the stochastic layers: with two, IWAE does not train at twice the rate.
SHORT_RATE = {1: 4e-3, 2: 2e-3}
EPS = 1e-4  # of Adam, by the paper, whose code sums gradients over a batch; ours are means


Start = tuple[DeepLatentGaussian, Params]  # theta, phi


class Images(NamedTuple):
    """What is trained on, and what is measured."""

    source: str
    train: np.ndarray  # [N, D]: grey levels if there is a transform, else bits
    test: np.ndarray  # [T, D]: bits, in the order of the evaluation
    transform: Transform | None

    @property
    def output_bias(self) -> np.ndarray:
        """Log-odds of the training mean, [D]."""
        mean = np.clip(self.train.mean(0, dtype=np.float64), 0.001, 0.999)
        return np.log(mean) - np.log1p(-mean)


def load(config: "Config") -> Images:
    """The images; test images in one random order, whose first ones any evaluation takes.

    binarized_mnist is sorted by class, so that its own first images would be no sample.
    """
    found = data.load_images(config.dataset, SPLITS.get(config.dataset))
    bits = data.binarized(found, "dynamic", config.seed)
    transform = None if bits.fixed_bits else data.BINARIZATIONS["dynamic"].transform
    order = np.random.default_rng([config.seed, 1]).permutation(len(bits.test))
    return Images(bits.source, bits.train, bits.test[order], transform)


@cache
def make(dim: int, width: int, latent_dim: int, num_layers: int) -> tuple[Model, Guide]:
    """The model and guide of these sizes; the same objects again, so that nothing compiles twice."""
    likelihood = likelihoods.bernoulli(dim)
    if num_layers == 1:
        encoder = networks.mlp(dim, (width, width), 2 * latent_dim)
        decoder = networks.mlp(latent_dim, (width, width), dim)
        guide = guides.amortized(guides.mean_field(latent_dim), encoder.init, encoder.apply)
        prior = priors.standard_normal(latent_dim)
        return models.deep_latent_gaussian(prior, decoder, likelihood), guide
    below, narrow = 2 * latent_dim, width // 2
    guide = guides.bottom_up(
        [
            Layer(networks.mlp(dim, (width, width), 2 * below), below),
            Layer(networks.mlp(below, (narrow, narrow), 2 * latent_dim), latent_dim),
        ]
    )
    above = Layer(networks.mlp(latent_dim, (narrow, narrow), 2 * below), below)
    decoder = networks.mlp(below, (width, width), dim)
    prior = priors.standard_normal(latent_dim)
    return models.deep_latent_gaussian(prior, decoder, likelihood, [above]), guide


def build(description: dict[str, Any]) -> tuple[Model, Guide]:
    """The same from a saved description, for `training.load_model`."""
    return make(**description)


def describe(cell: "Cell", dim: int, config: "Config") -> dict[str, Any]:
    """What `build` needs of a cell."""
    sizes = {"width": config.width, "latent_dim": config.latent_dim}
    return {"dim": dim, **sizes, "num_layers": cell.num_layers}


def start(key: Key[Array, ""], model: Model, guide: Guide, bias: np.ndarray) -> Start:
    """Fresh theta, whose decoder's output has this bias [D], and phi."""
    key_theta, key_phi = jax.random.split(key)
    theta = model.init(key_theta)
    output = theta.decoder["output"]
    decoder = {**theta.decoder, "output": {**output, "bias": jnp.asarray(bias, float)}}
    return theta._replace(decoder=decoder), guide.init(key_phi)


@cache
def estimator(schedule: str, objective: str) -> Estimate:
    """The paper's gradients, or for the short schedule those of less variance: STL and DReG."""
    bound = bounds.elbo if objective == "vae" else bounds.iwae
    if schedule == "burda":
        return gradients.reparameterized(bound)
    if objective == "vae":
        return gradients.sticking_the_landing(bound)
    return gradients.doubly_reparameterized(bound)


def batch_size(cell: "Cell", config: "Config") -> int:
    """Images in each step."""
    return config.batch_size or BATCH_SIZE[cell.schedule]


def short_rate(cell: "Cell", config: "Config") -> float:
    """The learning rate that the short schedule begins with."""
    return SHORT_RATE[cell.num_layers] if config.short_rate is None else config.short_rate


@cache
def optimizer(
    schedule: str, batch_size: int, steps_per_epoch: int, short_epochs: int, short_rate: float
) -> optax.GradientTransformation:
    """Adam with the rates of the schedule."""
    rate: Any = training.burda_stages(NUM_STAGES, steps_per_epoch)
    if schedule == "short":
        rate = optax.cosine_decay_schedule(short_rate, short_epochs * steps_per_epoch)
    return optax.adam(rate, b1=0.9, b2=0.999, eps=EPS / batch_size)


def milestones(cell: "Cell", config: "Config") -> list[int]:
    """The epochs after which a cell is measured: ends of stages, and the end of the schedule."""
    stages = [training.burda_epochs(i) for i in range(1, NUM_STAGES + 1)]
    if cell.schedule == "burda":
        return stages[: config.num_stages]
    return [e for e in stages if e < config.short_epochs] + [config.short_epochs]


def progress_of(cell: "Cell", epochs: int, config: "Config") -> str:
    """How much of its schedule a cell has had."""
    if cell.schedule == "short":
        return f"short, {epochs} of {config.short_epochs}"
    stages = [training.burda_epochs(i) for i in range(1, NUM_STAGES + 1)]
    return f"{stages.index(epochs) + 1} of {NUM_STAGES} stages"


def key_of(purpose: int, seed: int) -> Key[Array, ""]:
    """The key of training (0), evaluation (1), active units (2), the start (3); of all cells.

    So all start alike, see the images in one order, and are measured with the same noise.
    """
    return jax.random.fold_in(jax.random.key(seed), purpose)
