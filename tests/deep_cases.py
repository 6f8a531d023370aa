"""A chain of linear networks, which is one dense Gaussian, and its exact guides; and a bent one."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import guides, likelihoods, models, networks, priors
from lvm_jax.distributions.normals import FullRankNormal


class Dense(NamedTuple):
    """A Gaussian of (z, x) end to end, as numbers."""

    mean: np.ndarray
    covariance: np.ndarray


def linear(weight, bias=None):
    """The parameters of an mlp without hidden layers, from W [out, in]."""
    weight = np.asarray(weight, float)
    bias = np.zeros(len(weight)) if bias is None else np.asarray(bias, float)
    return {"output": {"kernel": jnp.asarray(weight.T), "bias": jnp.asarray(bias)}}


def free(scale):
    """The free number of a standard deviation exp(8 tanh(u / 8))."""
    return 8 * np.arctanh(np.log(scale) / 8)


def gaussian_layer(weight, bias, scale):
    """The parameters of a linear layer with mean W u + b and constant standard deviations."""
    weight = np.asarray(weight, float)
    return linear(np.concatenate([weight, 0 * weight]), np.concatenate([bias, free(scale)]))


def constant_scale(num_inputs, dim):
    """A layer of N(W u + b, exp(8 tanh(free / 8))^2): of such layers a chain is Gaussian for good."""

    def init(key):
        weight = jax.random.normal(key, (dim, num_inputs))
        return {"weight": weight, "bias": jnp.zeros(dim), "free": jnp.zeros(dim)}

    def apply(params, u):
        return jnp.concatenate([params["weight"] @ u + params["bias"], params["free"]])

    return models.Layer(networks.Network(2 * dim, init, apply), dim)


def one_layer(latent_dim, dim):
    """A deep model of one stochastic layer and a linear decoder."""
    decoder = networks.mlp(latent_dim, (), dim)
    return models.deep_latent_gaussian(
        priors.standard_normal(latent_dim), decoder, likelihoods.gaussian(dim)
    )


# z_2 -> z_1 -> x. The columns of DECODER are orthogonal, so that the posterior of z_1 given z_2 is
# diagonal, as a ladder's factors are.
LAYER, LAYER_BIAS, LAYER_SCALE = np.array([[1.2], [-0.7]]), np.array([0.3, -0.5]), [0.6, 0.9]
DECODER = np.array([[1.0, 0.8], [0.5, -1.0], [-0.6, 0.5]])
DECODER_BIAS, NOISE = np.array([0.2, -0.1, 0.4]), 0.7
DECODER[:, 1] -= DECODER[:, 0] * (DECODER[:, 0] @ DECODER[:, 1]) / (DECODER[:, 0] @ DECODER[:, 0])
POINTS = np.array([[0.7, 1.1, -0.3], [-3.0, 2.0, 1.5]])


def linear_chain():
    """The model, theta at asymmetric parameters, and its joint of (z_1, z_2, x), [2 + 1 + 3]."""
    model = models.deep_latent_gaussian(
        priors.standard_normal(1),
        networks.mlp(2, (), 3),
        likelihoods.gaussian(3),
        [models.Layer(networks.mlp(1, (), 4), 2)],
    )
    theta = models.DeepLatentGaussian(
        (),
        (gaussian_layer(LAYER, LAYER_BIAS, LAYER_SCALE),),
        linear(DECODER, DECODER_BIAS),
        jnp.asarray(free(NOISE)),
    )
    return model, theta, dense()


def dense():
    """The joint of (z_1, z_2, x), by pushing covariances through the maps."""
    up = LAYER @ LAYER.T + np.diag(LAYER_SCALE) ** 2
    latent = np.block([[up, LAYER], [LAYER.T, np.eye(1)]])
    out = np.concatenate([DECODER, np.zeros((3, 1))], axis=1)
    cross = latent @ out.T
    data = out @ latent @ out.T + NOISE**2 * np.eye(3)
    mean = np.concatenate([LAYER_BIAS, [0.0], DECODER @ LAYER_BIAS + DECODER_BIAS])
    return Dense(mean, np.block([[latent, cross], [cross.T, data]]))


def dense_data():
    """x of `linear_chain`."""
    joint = dense()
    return Dense(joint.mean[3:], joint.covariance[3:, 3:])


class Joined(NamedTuple):
    """A dense Gaussian of (z_1, z_2) as a distribution over the tuple."""

    normal: FullRankNormal
    split: int

    def log_prob(self, z):
        return self.normal.log_prob(jnp.concatenate(z))

    def sample(self, *, seed, sample_shape=()):
        return self.unflatten(self.normal.sample(seed=seed, sample_shape=sample_shape))

    def unflatten(self, flat):
        return flat[..., : self.split], flat[..., self.split :]


def exact_guide(joint: Dense, split=2, latent=3):
    """p(z_1, z_2 | x) by conditioning the dense joint on x."""
    covariance = joint.covariance
    gain = covariance[:latent, latent:] @ np.linalg.inv(covariance[latent:, latent:])
    lower = np.linalg.cholesky(covariance[:latent, :latent] - gain @ covariance[latent:, :latent])

    def posterior(phi, x):
        mean = joint.mean[:latent] + jnp.asarray(gain) @ (x - joint.mean[latent:])
        return Joined(FullRankNormal(mean, jnp.asarray(lower)), split)

    return guides.Guide(lambda key: (), posterior)


def exact_ladder(theta):
    """A ladder that is the posterior of `linear_chain`, with the model's own layer in it."""
    guide = guides.ladder(
        [networks.mlp(3, (), 3), networks.mlp(3, (), 3)],
        1,
        [models.Layer(networks.mlp(1, (), 4), 2)],
        activation="identity",
    )
    identity = linear(np.eye(3))
    # N(a_1, b_1^2) is the likelihood of z_1, by least squares.
    norms = (DECODER**2).sum(0)
    squares = DECODER.T / norms[:, None]
    head = gaussian_layer(squares, -squares @ DECODER_BIAS, NOISE / np.sqrt(norms))
    joint = dense()
    gain = joint.covariance[2:3, 3:] @ np.linalg.inv(joint.covariance[3:, 3:])
    variance = joint.covariance[2:3, 2:3] - gain @ joint.covariance[3:, 2:3]
    top = gaussian_layer(gain, -gain @ joint.mean[3:], np.sqrt(variance[0]))
    phi = guides.Ladder((identity, identity), (head, top), theta.layers)
    return guide, phi


def narrow_chain():
    """One dimension a layer: a bottom-up guide can be its posterior. See `exact_case`."""
    model = models.deep_latent_gaussian(
        priors.standard_normal(1),
        networks.mlp(1, (), 3),
        likelihoods.gaussian(3),
        [models.Layer(networks.mlp(1, (), 2), 1)],
    )
    slope, offset, scale, weight = 1.3, -0.4, 0.6, DECODER[:, 0]
    theta = models.DeepLatentGaussian(
        (),
        (gaussian_layer([[slope]], [offset], [scale]),),
        linear(weight[:, None], DECODER_BIAS),
        jnp.asarray(free(NOISE)),
    )
    spread = slope**2 + scale**2  # variance of z_1
    below = 1 / (1 / spread + weight @ weight / NOISE**2)
    gain = below * weight / NOISE**2
    first = gaussian_layer(
        gain[None], [offset - gain @ (DECODER_BIAS + weight * offset)], [math.sqrt(below)]
    )
    above = slope / spread
    second = gaussian_layer([[above]], [-above * offset], [math.sqrt(1 - above * slope)])
    guide = guides.bottom_up(
        [models.Layer(networks.mlp(3, (), 2), 1), models.Layer(networks.mlp(1, (), 2), 1)]
    )
    covariance = spread * np.outer(weight, weight) + NOISE**2 * np.eye(3)
    data = Dense(DECODER_BIAS + weight * offset, covariance)
    return model, theta, guide, (first, second), data


def exact_case(name):
    """Model, theta, a hierarchical guide that is its posterior, phi, and the Gaussian of x."""
    if name == "bottom_up":
        return narrow_chain()
    model, theta, _ = linear_chain()
    return model, theta, *exact_ladder(theta), dense_data()


def moved(params: Any, seed: int = 5, size: float = 0.5) -> Any:
    """Parameters away from where they are, or from 0 if they are shapes; equal in both precisions."""
    rng = np.random.default_rng(seed)

    def move(leaf: Any) -> Any:
        start = 0.0 if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
        away = (start + size * rng.standard_normal(leaf.shape)).astype(np.float32)
        return jnp.asarray(away, leaf.dtype)

    return jax.tree.map(move, params)


def drawn(thing: Any, seed: int, size: float = 0.5) -> Any:
    """Random parameters of a model or a guide, biases too."""
    return moved(jax.eval_shape(thing.init, jax.random.key(0)), seed, size)


def bent_model():
    """tanh networks between the layers, one dimension each; model and theta."""
    model = _bent_model()
    return model, drawn(model, 2)


@functools.cache
def _bent_model():
    return models.deep_latent_gaussian(
        priors.standard_normal(1),
        networks.mlp(1, (4,), 3),
        likelihoods.gaussian(3),
        [models.Layer(networks.mlp(1, (4,), 2), 1)],
    )


def bent_guides(dims=(1, 1)):
    """The hierarchical guides with tanh networks, at random parameters: name -> guide, phi."""
    return {name: (guide, drawn(guide, 5)) for name, guide in _bent_guides(dims).items()}


@functools.cache
def _bent_guides(dims):
    below, above = dims
    return {
        "bottom_up": guides.bottom_up(
            [
                models.Layer(networks.mlp(3, (4,), 2 * below), below),
                models.Layer(networks.mlp(below, (4,), 2 * above), above),
            ]
        ),
        "ladder": guides.ladder(
            [networks.mlp(3, (), 4), networks.mlp(4, (), 3)],
            above,
            [models.Layer(networks.mlp(above, (4,), 2 * below), below)],
        ),
    }


GUIDES = ("bottom_up", "ladder")
