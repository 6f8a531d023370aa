"""Normalising flows: a diagonal Gaussian transformed by invertible layers, for ONE data point.

    z = loc + exp(log_scale) * f_L(... f_1(epsilon)),    epsilon ~ N(0, I)
    log q(z) = log N(epsilon; 0, I) - log |det dz/depsilon|

Each layer is affine in the coordinates that it transforms, y_d = z_d exp(a_d) + t_d. a and t are
networks of other coordinates and of a context h. loc and log_scale come last, so that the inputs
of the networks have unit scale however narrow q is. A new flow is the identity: q starts as
N(loc, diag(exp(log_scale))^2).
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax._core import keys
from lvm_jax.distributions.flows.perceptron import Context
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.typing import Array, Float, Key, Scalar


@runtime_checkable
class Layer(Protocol):
    """An invertible map of [D] to [D]; a NamedTuple of arrays."""

    def forward(self, z: Array, context: Context) -> tuple[Array, Scalar]:
        """y, and log |det dy/dz|."""

    def inverse(self, y: Array, context: Context) -> tuple[Array, Scalar]:
        """z, and log |det dy/dz|."""

    @staticmethod
    def permute(z: Float[Array, " D"], times: int) -> Float[Array, " D"]:
        """Apply the permutation between two layers `times` times; its inverse for times < 0."""


class Flow(NamedTuple):
    """q(z) of the formulas above; a pytree of arrays, safe under every transformation.

    `sample_and_log_prob` takes one pass. `log_prob` inverts the flow, which takes up to D passes
    for each `Autoregressive` layer. The entropy has no closed form.
    """

    loc: Float[Array, " D"]
    log_scale: Float[Array, " D"]
    context: Context  # h, for every layer
    layers: Layer  # leaves [L, ...]

    def forward(self, noise: Float[Array, " D"]) -> tuple[Array, Scalar]:
        """epsilon -> z [D], and log |det dz/depsilon|."""

        def step(value: Array, layer: Layer) -> tuple[Array, Scalar]:
            value, log_det = layer.forward(value, self.context)
            return layer.permute(value, 1), log_det

        value, log_dets = jax.lax.scan(step, noise, self.layers)
        value = self.layers.permute(value, -log_dets.size)
        return self.loc + jnp.exp(self.log_scale) * value, log_dets.sum() + self.log_scale.sum()

    def inverse(self, z: Float[Array, " D"]) -> tuple[Array, Scalar]:
        """z -> epsilon [D], and log |det dz/depsilon|."""

        def step(value: Array, layer: Layer) -> tuple[Array, Scalar]:
            return layer.inverse(layer.permute(value, -1), self.context)

        num_layers = jax.tree.leaves(self.layers)[0].shape[0]
        value = self.layers.permute((z - self.loc) * jnp.exp(-self.log_scale), num_layers)
        value, log_dets = jax.lax.scan(step, value, self.layers, reverse=True)
        return value, log_dets.sum() + self.log_scale.sum()

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats, by the inverse."""
        noise, log_det = self.inverse(value)
        return _log_normal(noise) - log_det

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Reparameterised draws, [*sample_shape, D]."""
        return self.sample_and_log_prob(seed=seed, sample_shape=sample_shape)[0]

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """The draws of `sample`, [*sample_shape, D], and their log-densities, [*sample_shape]."""
        shape = (*sample_shape, self.loc.size)
        noise = jax.random.normal(keys.unrolled(seed), shape, self.loc.dtype)

        def one(noise: Array) -> tuple[Array, Scalar]:
            z, log_det = self.forward(noise)
            return z, _log_normal(noise) - log_det

        z, log_q = jax.vmap(one)(noise.reshape(-1, self.loc.size))
        return z.reshape(noise.shape), log_q.reshape(sample_shape)


@precision.full
def _log_normal(noise: Float[Array, " D"]) -> Scalar:
    return -0.5 * (noise @ noise + noise.size * LOG_2PI)
