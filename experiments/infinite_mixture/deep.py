"""The infinite mixtures: models and guides, training, log p, samples."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.infinite_mixture.config import RECORDS, Config
from experiments.infinite_mixture.starts import Steps, fit_starts
from lvm_jax import bounds, gradients, guides, models, training
from lvm_jax.guides import Conditional, Guide
from lvm_jax.models import Joint, Model
from lvm_jax.typing import Array, Float, Key, Params, Scalar
from lvm_jax.weights import log_weights

LATENT_DIM = 2  # for figures and quadrature
GUIDE_WIDTH = 32
BLOCK = 1024  # rows in each call of the quadrature, so that it compiles once
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda u: u,
    "tanh": jnp.tanh,
    "sin": jnp.sin,
}
ESTIMATES = {
    "elbo": gradients.sticking_the_landing(),
    "iwae": gradients.doubly_reparameterized(bounds.iwae),
}


class Curve(NamedTuple):
    """Learning curves of the best start, in nats per point of the standardised data; leaves [T]."""

    step: np.ndarray
    bound: np.ndarray  # the training objective, averaged over minibatches since the last record
    elbo: np.ndarray  # the ELBO of some held-out points
    log_evidence: np.ndarray  # log p of the same points by quadrature
    starts: np.ndarray  # [R], the last training objective of every start


def make_models(config: Config) -> dict[str, Model]:
    """The one-layer model, and the one with a hidden layer unless its width is 0."""
    activation = ACTIVATIONS[config.mean_activation]
    made = {"one layer": models.deep_gaussian(LATENT_DIM, 2, activation)}
    if config.hidden:
        model = models.two_layer_gaussian(LATENT_DIM, 2, config.hidden)
        made[f"hidden layer of {config.hidden}"] = model
    return made


def make_guide(name: str) -> Guide:
    """q(z | x) = N(m(x), L(x) L(x)^T) with m and L linear in x, or by a small network."""
    family = guides.full_rank(LATENT_DIM)
    if name == "linear":
        return guides.linear(family, 2)
    sizes = (2, GUIDE_WIDTH, GUIDE_WIDTH, guides.num_outputs(family))

    def init(key: Key[Array, ""]) -> Params:
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [(jax.random.normal(k, (o, i)) / i**0.5, jnp.zeros(o)) for k, i, o in pairs]

    def apply(layers: Params, x: Float[Array, " D"]) -> Float[Array, " P"]:
        *inner, (last, _) = layers  # the family adds the last bias
        for weight, bias in inner:
            x = jnp.tanh(weight @ x + bias)
        return 0.1 * last @ x

    return guides.amortized(family, init, apply)


def train(
    key: Key[Array, ""],
    model: Model,
    guide: Guide,
    x: np.ndarray,
    watched: np.ndarray,
    config: Config,
    note: Callable[[str, float], None],
) -> tuple[Params, Params, Curve]:
    """theta, phi and the curve of the best start; x [N, 2] and `watched` are standardised."""

    def show(step: int, watched: np.ndarray) -> None:
        elbo, log_p = watched
        words = f"step {step}: ELBO {elbo:.3f}, log p {log_p:.3f} held out"
        note(words, step / config.num_steps)

    rates = optax.cosine_decay_schedule(config.learning_rate, config.num_steps)
    steps = Steps(
        ESTIMATES[config.bound], config.num_draws, optax.adam(rates), config.batch_size,
        config.num_starts, RECORDS, config.num_steps // RECORDS,
    )  # fmt: skip
    watch = partial(watch_one, config, jnp.asarray(watched))
    found = fit_starts(key, training.Separate(model, guide), x, steps, watch, show)
    curve = Curve(found.step, found.bound, *found.watched.T, starts=found.last_bounds)
    return found.p.theta, found.q.phi, curve


def watch_one(
    config: Config, x: Array, key: Array, p: Joint, q: Conditional
) -> tuple[Scalar, Scalar]:
    """The mean ELBO (100 draws) and the mean log p (quadrature) of the rows of x."""
    elbo = elbos(key, p, q, x, 100).mean()
    return elbo, quadrature(p, x, config.num_nodes).mean()


@partial(jax.jit, static_argnums=4)
def elbos(key: Array, p: Joint, q: Conditional, x: Array, num_samples: int) -> Float[Array, " N"]:
    """The ELBO of every row of x from draws."""

    def one(key: Array, x: Array) -> Scalar:
        return bounds.elbo(log_weights(key, p.log_joint(x), q(x), num_samples))

    return jax.vmap(one)(jax.random.split(key, x.shape[0]), x)


@partial(jax.jit, static_argnums=2)
def quadrature(p: Joint, x: Array, num_nodes: int) -> Float[Array, " N"]:
    """log p of every row of x by quadrature over z."""
    return jax.vmap(partial(models.log_evidence_quadrature, p, num_nodes=num_nodes))(x)


def log_density(p: Joint, num_nodes: int, x: np.ndarray) -> np.ndarray:
    """log p of standardised rows [N, 2], in blocks of equal shape."""
    padded = np.concatenate([x, np.repeat(x[:1], -len(x) % BLOCK, axis=0)])
    blocks = [quadrature(p, x, num_nodes) for x in padded.reshape(-1, BLOCK, 2)]
    return np.concatenate(blocks)[: len(x)].astype(np.float64)


@partial(jax.jit, static_argnums=2)
def draw(key: Key[Array, ""], p: Joint, num_samples: int) -> Array:
    """Ancestral draws x, [n, 2]: first z, then x given z."""
    keys = jax.random.split(key, num_samples)
    return jax.vmap(lambda key: p.sample(key).x)(keys)
