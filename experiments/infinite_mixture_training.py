"""The infinite mixture's models and guides, and their training in one compiled scan."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import bounds, gradients, guides, models
from lvm_jax.distributions import normal
from lvm_jax.guides import Guide
from lvm_jax.models import DeepGaussian, Model, log_joint
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar
from lvm_jax.weights import log_weights

if TYPE_CHECKING:
    from experiments.infinite_mixture import Config

LATENT_DIM = 2  # a plane that can be drawn, and integrated over
GUIDE_WIDTH = 32
WATCHED = 256  # held-out points of the learning curve, the first ones
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda u: u,
    "tanh": jnp.tanh,
    "sin": jnp.sin,
}
ESTIMATES = {
    "elbo": gradients.sticking_the_landing(),
    "iwae": gradients.doubly_reparameterized(bounds.iwae),
}


class Hidden(NamedTuple):
    """theta with a hidden layer: the lecture's layer on top of u(z) = tanh(B z + c)."""

    weight: Float[Array, "H K"]  # B
    bias: Float[Array, " H"]  # c
    layer: DeepGaussian


def hidden_model(latent_dim: int, dim: int, width: int) -> Model:
    """z ~ N(0, I_K), x | z ~ N(A u + b, diag(exp(h'(C u + d)))), u = tanh(B z + c) in R^width."""
    layer = models.deep_gaussian(width, dim)

    def init(key: Key[Array, ""]) -> Hidden:
        key_weight, key_bias, key_layer = jax.random.split(key, 3)
        weight = jax.random.normal(key_weight, (width, latent_dim))
        return Hidden(weight, jax.random.normal(key_bias, (width,)), quiet(layer.init(key_layer)))

    def prior(theta: Hidden) -> Distribution:
        zeros = jnp.zeros(latent_dim, theta.bias.dtype)
        return normal(zeros, jnp.ones_like(zeros))

    def likelihood(theta: Hidden, z: Float[Array, " K"]) -> Distribution:
        return layer.likelihood(theta.layer, jnp.tanh(theta.weight @ z + theta.bias))

    return Model(init, prior, likelihood)


def quiet(layer: DeepGaussian) -> DeepGaussian:
    """The same start with little noise: standard deviations of about 0.14 of the data's.

    With noise as wide as the data x says nothing of z at the start, and the ELBO then settles for
    a q that ignores x and a density that is one Gaussian.
    """
    return layer._replace(log_variance_bias=layer.log_variance_bias - 4)


def make_models(config: "Config") -> dict[str, Model]:
    """The lecture's one layer, and if it is asked for the one with a hidden layer."""
    activation = ACTIVATIONS[config.mean_activation]
    made = {"one layer": models.deep_gaussian(LATENT_DIM, 2, activation)}
    if config.hidden:
        made[f"hidden layer of {config.hidden}"] = hidden_model(LATENT_DIM, 2, config.hidden)
    return made


def make_guide(name: str) -> Guide:
    """q(z | x) = N(m(x), L(x) L(x)^T), all of it amortised: linear in x, or by a small network."""
    family = guides.full_rank(LATENT_DIM)
    if name == "linear":
        return guides.linear(family, 2)
    sizes = (2, GUIDE_WIDTH, GUIDE_WIDTH, guides.num_outputs(family))

    def init(key: Key[Array, ""]) -> Params:
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [(jax.random.normal(k, (o, i)) / i**0.5, jnp.zeros(o)) for k, i, o in pairs]

    def apply(layers: Params, x: Float[Array, " D"]) -> Float[Array, " P"]:
        *inner, (last, _) = layers  # the family's own offset is the last bias
        for weight, bias in inner:
            x = jnp.tanh(weight @ x + bias)
        return 0.1 * last @ x

    return guides.amortized(family, init, apply)


class State(NamedTuple):
    """What a step needs of the one before; leaves [R], one for each start."""

    parameters: tuple[Params, Params]  # theta, phi
    optimizer: Any


class Curve(NamedTuple):
    """Training of the best start, in nats per point of the standardised data; leaves [T]."""

    step: np.ndarray
    bound: np.ndarray  # the training objective, averaged over minibatches since the last record
    elbo: np.ndarray  # the ELBO on the watched held-out points
    log_evidence: np.ndarray  # log p of the same points by quadrature
    starts: np.ndarray  # [R], where the training objective of every start ended


Record = tuple[int, float, float, float]


def train(
    key: Key[Array, ""],
    model: Model,
    guide: Guide,
    x: np.ndarray,
    watched: np.ndarray,
    config: "Config",
    on_record: Callable[[Record], None],
) -> tuple[Params, Params, Curve]:
    """theta, phi and the curve, of the start whose training bound ended highest.

    All starts run in one program; it is called once per record, so that progress can be told.
    x [N, 2] and the watched points are standardised.
    """
    stretch = config.num_steps // config.num_records
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))
    advance = jax.jit(make_scan(model, guide, optimizer, config, stretch))
    watch = jax.jit(jax.vmap(make_watch(model, guide, config), in_axes=(None, 0, 0, None)))
    key_theta, key_phi, key_steps, key_watch = jax.random.split(key, 4)
    inits = zip((model.init, guide.init), (key_theta, key_phi), strict=True)
    parameters = tuple(jax.vmap(f)(jax.random.split(k, config.num_starts)) for f, k in inits)
    state = State(parameters, jax.vmap(optimizer.init)(parameters))
    records = []
    for index in range(config.num_records):
        first = jnp.int32(index * stretch)
        state, bound = advance(key_steps, state, jnp.asarray(x), first)  # bound [R]
        found = watch(key_watch, *state.parameters, jnp.asarray(watched))
        records.append(np.stack([bound, *found]))
        best = int(np.nanargmax(records[-1][0]))
        on_record(((index + 1) * stretch, *records[-1][:, best].tolist()))
    theta, phi = jax.tree.map(lambda leaf: leaf[best], state.parameters)
    at = stretch * (1 + np.arange(config.num_records))
    return theta, phi, Curve(at, *np.stack(records)[:, :, best].T, starts=records[-1][0])


def make_scan(
    model: Model,
    guide: Guide,
    optimizer: optax.GradientTransformation,
    config: "Config",
    length: int,
) -> Callable[..., tuple[State, Array]]:
    """`length` steps of Adam: (key, state, x, first) -> state and the mean objective, [R].

    The starts share minibatches and noise, so that they differ by where they began alone.
    """
    estimate, num_samples = ESTIMATES[config.bound], config.num_samples

    def one(key: Array, x: Array, parameters: tuple[Params, Params]) -> Scalar:
        theta, phi = parameters
        joint = log_joint(model, theta, x)
        return estimate(key, joint, lambda phi: guide.posterior(phi, x), phi, num_samples)

    def loss(parameters: tuple[Params, Params], key: Array, batch: Array) -> Scalar:
        keys = jax.random.split(key, batch.shape[0])
        return -jax.vmap(one, in_axes=(0, 0, None))(keys, batch, parameters).mean()

    def update(state: State, key: Array, batch: Array) -> tuple[State, Scalar]:
        value, gradient = jax.value_and_grad(loss)(state.parameters, key, batch)
        updates, inner = optimizer.update(gradient, state.optimizer, state.parameters)
        return State(optax.apply_updates(state.parameters, updates), inner), -value

    def scan(key: Array, state: State, x: Array, first: Array) -> tuple[State, Array]:
        def step(carry: tuple[State, Array], index: Array) -> tuple[tuple[State, Array], None]:
            state, total = carry
            key_batch, key_noise = jax.random.split(jax.random.fold_in(key, index))
            rows = jax.random.randint(key_batch, (config.batch_size,), 0, x.shape[0])
            state, value = jax.vmap(update, in_axes=(0, None, None))(state, key_noise, x[rows])
            return (state, total + value), None

        steps = first + jnp.arange(length, dtype=jnp.int32)
        start = jnp.zeros(config.num_starts)
        (state, total), _ = jax.lax.scan(step, (state, start), steps)
        return state, total / length

    return scan


def make_watch(
    model: Model, guide: Guide, config: "Config"
) -> Callable[..., tuple[Scalar, Scalar]]:
    """The mean ELBO (of 100 draws) and the mean log p (quadrature) of some points."""

    def watch(key: Array, theta: Params, phi: Params, x: Array) -> tuple[Scalar, Scalar]:
        def elbo(key: Array, x: Array) -> Scalar:
            joint, q = log_joint(model, theta, x), guide.posterior(phi, x)
            return bounds.elbo(log_weights(key, joint, q, 100))

        def evidence(x: Array) -> Scalar:
            return models.log_evidence_quadrature(model, theta, x, config.num_nodes)

        keys = jax.random.split(key, x.shape[0])
        return jax.vmap(elbo)(keys, x).mean(), jax.vmap(evidence)(x).mean()

    return watch
