"""Infinite mixtures of Gaussians: means and variances are functions of a continuous z."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.distributions import is_reparameterized, normal
from lvm_jax.models.base import Joint, Model
from lvm_jax.models.streaming import log_sum
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar

Activation = Callable[[Array], Array]
RADIUS = 10.0  # half-width of the quadrature, in standard deviations of the prior
MAX_LATENT_DIM = 3  # for quadrature


class DeepGaussian(NamedTuple):
    """theta of the model with one layer."""

    mean_weight: Float[Array, "D K"]  # A
    mean_bias: Float[Array, " D"]  # b
    log_variance_weight: Float[Array, "D K"]  # C
    log_variance_bias: Float[Array, " D"]  # d


class TwoLayerGaussian(NamedTuple):
    """theta of the model with a hidden layer."""

    weight: Float[Array, "H K"]  # B
    bias: Float[Array, " H"]  # c
    layer: DeepGaussian  # maps the hidden layer u to x


def identity(u: Array) -> Array:
    """u."""
    return u


def soft_clip(u: Array) -> Array:
    """6 tanh(u / 6): close to u for small u, and bounded by +-6."""
    return 6.0 * jnp.tanh(u / 6.0)


def standard_normal(dim: int, dtype: Any) -> Distribution:
    """N(0, I)."""
    return normal(jnp.zeros(dim, dtype), jnp.ones(dim, dtype))


def deep_gaussian(
    latent_dim: int,
    dim: int,
    mean_activation: Activation = identity,
    log_variance_activation: Activation = soft_clip,
) -> Model:
    """The model z ~ N(0, I_K), x | z ~ N(h(A z + b), diag(exp(h'(C z + d)))), in D dimensions.

    h = `mean_activation` is the identity by default. A bounded h such as tanh needs data scaled to
    its range. h' = `log_variance_activation` keeps standard deviations between 0.05 and 20 by
    default, for data of unit scale: with unbounded variances the likelihood has no maximum.
    log p(x) has no closed form; for small K see `log_evidence_quadrature`.

    Raises ValueError or TypeError for dimensions that are not integers >= 1.
    """
    latent_dim = checks.integer(latent_dim, "latent_dim", 1)
    dim = checks.integer(dim, "dim", 1)

    def init(key: Key[Array, ""]) -> DeepGaussian:
        checks.key(key)
        key_mean, key_variance = jax.random.split(key)
        scale = latent_dim**-0.5
        return DeepGaussian(
            scale * jax.random.normal(key_mean, (dim, latent_dim)),
            jnp.zeros(dim),
            0.1 * scale * jax.random.normal(key_variance, (dim, latent_dim)),
            jnp.zeros(dim),
        )

    @precision.full_by_default
    def likelihood(theta: DeepGaussian, z: Float[Array, " K"]) -> Distribution:
        mean = mean_activation(theta.mean_weight @ z + theta.mean_bias)
        logs = log_variance_activation(theta.log_variance_weight @ z + theta.log_variance_bias)
        return normal(mean, jnp.exp(0.5 * logs))

    return Model(init, lambda theta: standard_normal(latent_dim, theta.mean_bias.dtype), likelihood)


def two_layer_gaussian(latent_dim: int, dim: int, width: int) -> Model:
    """z ~ N(0, I_K), x | z ~ N(A u + b, diag(exp(6 tanh((C u + d) / 6)))), u = tanh(B z + c).

    The hidden layer u has `width` units, so the means form a curved surface, unlike those of
    `deep_gaussian`. Scale data to unit variance: `init` gives standard deviations of x given z of
    about 0.14. Wider initial noise can lead to a local maximum of the ELBO where q ignores x.

    Raises ValueError or TypeError for dimensions that are not integers >= 1.
    """
    latent_dim = checks.integer(latent_dim, "latent_dim", 1)
    layer = deep_gaussian(checks.integer(width, "width", 1), dim)

    def init(key: Key[Array, ""]) -> TwoLayerGaussian:
        key_weight, key_bias, key_layer = jax.random.split(checks.key(key), 3)
        weight = jax.random.normal(key_weight, (width, latent_dim))
        bias, start = jax.random.normal(key_bias, (width,)), layer.init(key_layer)
        start = start._replace(log_variance_bias=start.log_variance_bias - 4)
        return TwoLayerGaussian(weight, bias, start)

    @precision.full_by_default
    def likelihood(theta: TwoLayerGaussian, z: Float[Array, " K"]) -> Distribution:
        return layer.likelihood(theta.layer, jnp.tanh(theta.weight @ z + theta.bias))

    return Model(init, lambda theta: standard_normal(latent_dim, theta.bias.dtype), likelihood)


def log_evidence_quadrature(p: Joint, x: Any, num_nodes: int = 200) -> Scalar:
    """log p(x) of one data point by the trapezoidal rule over z in [-10, 10]^K, in nats.

    For z ~ N(0, I_K), K <= 3, and a likelihood that is smooth in z. `num_nodes` is the number of
    nodes per axis; the error decreases faster than any power of it. For a Gaussian posterior with
    standard deviation s along an axis the relative error is about exp(-2 (pi s / h)^2) with
    h = 20 / (num_nodes - 1), so s >= h gives eight digits. Doubling `num_nodes` measures the error.

    Raises ValueError for a z that is discrete or not [K] with K <= 3.

    Source: Trefethen and Weideman (2014).
    """
    num_nodes = checks.integer(num_nodes, "num_nodes", 2)
    prior = p.prior()
    z = jax.eval_shape(lambda key: prior.sample(seed=key), jax.random.key(0))
    small = getattr(z, "ndim", None) == 1 and z.size <= MAX_LATENT_DIM
    if not (small and is_reparameterized(prior)):
        raise ValueError(
            f"p: expected z of K <= {MAX_LATENT_DIM} real numbers, as a vector, got {z}; use "
            "lvm_jax.evidence to estimate log p(x)"
        )
    nodes = jnp.linspace(-RADIUS, RADIUS, num_nodes, dtype=z.dtype)
    rest = jnp.meshgrid(*[nodes] * (z.size - 1), indexing="ij")
    plane = jnp.stack([axis.ravel() for axis in rest], 1) if rest else jnp.zeros((1, 0), z.dtype)
    joint = p.log_joint(x)

    def terms(index: Int[Array, ""]) -> Float[Array, " M"]:
        first = jnp.broadcast_to(nodes[index], (plane.shape[0], 1))
        return jax.vmap(joint)(jnp.concatenate([first, plane], axis=1))

    step = 2 * RADIUS / (num_nodes - 1)
    return log_sum(terms, num_nodes) + z.size * jnp.log(step)
