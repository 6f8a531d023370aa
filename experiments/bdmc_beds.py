"""The models of the `bdmc` experiment, and what is measured on them."""

import time
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import vae_models
from lvm_jax import annealing, data, evidence, gradients, models, training
from lvm_jax.guides import Guide
from lvm_jax.models import Model
from lvm_jax.typing import Params

if TYPE_CHECKING:
    from experiments.bdmc import Config, Found, Held

LINEAR, FROM_PRIOR, FROM_GUIDE = (
    "linear-Gaussian, from the prior",
    "digits decoder, from the prior",
    "digits decoder, from its guide",
)
HIDDEN, BATCH, RATE = (64,), 128, 2e-3  # of the small VAE


class Bed(NamedTuple):
    """A model and where its path starts."""

    name: str
    model: Model
    guide: Guide | None  # None: the prior
    theta: Params
    phi: Params
    images: np.ndarray | None = None  # held out, [N, D]


def make(config: "Config") -> list[Bed]:
    """The linear-Gaussian model, and the decoder with both starts."""
    key_theta, key_train = jax.random.split(jax.random.key(config.seed))
    model = models.linear_gaussian(config.latent_dim, config.dim)
    theta = model.init(key_theta)._replace(log_noise=jnp.log(config.noise))
    decoder, guide, theta_d, phi, images = load(config, key_train)
    return [
        Bed(LINEAR, model, None, theta, ()),
        Bed(FROM_PRIOR, decoder, None, theta_d, phi, images),
        Bed(FROM_GUIDE, decoder, guide, theta_d, phi, images),
    ]


def load(config: "Config", key: jax.Array) -> tuple[Model, Guide, Params, Params, np.ndarray]:
    """The decoder of a run directory, or one trained here on binarised digits."""
    digits = data.binarized(data.load_images("digits"), "threshold", config.seed)
    count = min(config.num_points, len(digits.test))
    rows = np.random.default_rng(config.seed).permutation(len(digits.test))[:count]
    if config.decoder is not None:
        saved = training.load_model(config.decoder, vae_models.build)
        if saved.config["likelihood"] != "bernoulli" or saved.config["shape"] != [8, 8]:
            raise ValueError(
                f"decoder: expected a vae of binarised 8x8 digits (--likelihood bernoulli "
                f"--binarization threshold), got {saved.config['likelihood']} of "
                f"{saved.config['shape']}"
            )
        return saved.model, saved.guide, saved.theta, saved.phi, digits.test[rows]
    made = vae_models.make(
        vae_models.Description(
            (8, 8), 1.0, "bernoulli", "mean_field", "standard_normal",
            (config.latent_dim,), (HIDDEN,),
        )
    )  # fmt: skip
    steps = config.epochs * (len(digits.train) // BATCH)
    fit = training.fit(
        key, made.model, made.guide, digits.train, estimate=gradients.sticking_the_landing(),
        num_samples=1, optimizer=optax.adam(optax.cosine_decay_schedule(RATE, max(steps, 1))),
        batch_size=BATCH, num_epochs=config.epochs,
    )  # fmt: skip
    return made.model, made.guide, fit.theta, fit.phi, digits.test[rows]


def plan(config: "Config", num_temperatures: int) -> annealing.Plan:
    """So many temperatures, placed by pilot chains, and the move by its name."""
    moves = {
        "hmc": lambda: annealing.hmc(config.num_leapfrogs),
        "mala": annealing.mala,
        "random_walk": lambda: annealing.random_walk(5),
    }
    return annealing.plan(
        annealing.sigmoid(num_temperatures), moves[config.transition](), adaptive=True
    )


def measure(bed: Bed, number: int, config: "Config") -> "Found":
    """Both bounds on points that the model simulated, the same ones at every length."""
    from experiments.bdmc import Found

    start = time.perf_counter()
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    bounds = evidence.bidirectional(
        key, bed.model, bed.guide, bed.theta, bed.phi, config.num_points, config.num_chains,
        plan(config, number),
    )  # fmt: skip
    bounds = jax.device_get(bounds)
    seconds = time.perf_counter() - start
    truth = None
    log_evidence = bed.model.log_evidence
    if log_evidence is not None:
        exact = jax.jit(jax.vmap(lambda x: log_evidence(bed.theta, x)))
        truth = np.asarray(exact(bounds.x))
    return Found(number, bounds, truth, seconds)


def held_out(bed: Bed, config: "Config") -> "Held":
    """Held-out images by the longest chains, and by importance sampling from the guide."""
    from experiments.bdmc import Held

    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    key_annealed, key_importance = jax.random.split(key)
    annealed = evidence.evaluate_annealed(
        key_annealed, bed.model, bed.guide, bed.theta, bed.phi, bed.images, config.num_chains,
        plan(config, config.num_temperatures[-1]),
    ).evidence  # fmt: skip
    guide = bed.guide or Guide(lambda key: (), lambda phi, x: bed.model.prior(bed.theta))
    plain = evidence.evaluate(
        key_importance, bed.model, guide, bed.theta, bed.phi, bed.images, 5_000
    )
    return Held(
        *(np.asarray(part) for part in (annealed.log_evidence, annealed.standard_error)),
        *(np.asarray(part) for part in (plain.log_evidence, plain.standard_error, plain.k_hat)),
    )
