"""A chain of Gaussians as one distribution over a tuple z = (z_1, ..., z_L).

Priors draw it from the top (z_L first), bottom-up guides from below (z_1 first); both are

    log p(z) = log p(first) + sum_i log N(z_i; m_i(previous), diag(s_i(previous))^2)

with m_i and s_i any function with parameters, in deep models a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax._core.keys import unrolled
from lvm_jax.distributions.base import is_reparameterized, normal
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar

if TYPE_CHECKING:  # a density needs none of flax
    from lvm_jax.networks import Network

LOG_SCALE_BOUND = 8.0

Gaussian = tuple[Float[Array, " K"], Float[Array, " K"]]  # loc and scale
Step = Callable[[Params, Array], Gaussian]  # (parameters, the z before) -> this z's Gaussian


class Layer(NamedTuple):
    """A Gaussian in `dim` dimensions given an input: the network makes 2 dim numbers of it.

    The first half is the mean, the second becomes standard deviations by `positive_scale`.
    """

    network: "Network"
    dim: int

    def gaussian(self, params: Params, given: Array) -> Gaussian:
        """Mean and standard deviations, [dim] each."""
        loc, free = jnp.split(self.network.apply(params, given), 2)
        return loc, positive_scale(free)


def positive_scale(free: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """exp(8 tanh(u / 8)): a standard deviation from a free number, between 3e-4 and 3e3.

    Near 0 it is exp(u), so u is a log standard deviation, u = 0 gives 1, and scales and precisions
    are treated alike (a softplus reaches large scales linearly and small ones exponentially). The
    bound is for float32: a bare exp overflows at u = 88, its square at 44, and a scale of 0 makes
    log q infinite; here every variance and precision is below 1e7, at which (z - m) / s
    of a z near 1 keeps three digits.
    """
    return jnp.exp(LOG_SCALE_BOUND * jnp.tanh(free / LOG_SCALE_BOUND))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["first", "params"],
    meta_fields=["steps", "downward"],
)
@dataclass(frozen=True, eq=False)
class Chain:
    """The first z to be drawn from `first`, then one z by each of the `steps` from the one before.

    A pytree whose leaves are its arrays, the functions being static: it is rebuilt from (stopped,
    mapped) parameters, so it is safe under every transformation. Reparameterised if `first` is.
    """

    first: Distribution
    params: tuple[Params, ...]  # of the steps, in the order of drawing
    steps: tuple[Step, ...] = field(repr=False)
    downward: bool  # is z_L drawn first?

    @property
    def reparameterized(self) -> bool:
        """Do draws carry gradients to the parameters? Those of the steps do."""
        return is_reparameterized(self.first)

    def log_prob(self, value: tuple[Array, ...]) -> Scalar:
        """Joint log-density of one z = (z_1, ..., z_L), in nats.

        Raises ValueError for a z of another number of parts.
        """
        if not isinstance(value, tuple) or len(value) != len(self.steps) + 1:
            got = f"{len(value)} parts" if isinstance(value, tuple) else type(value).__name__
            raise ValueError(f"z: expected a tuple of {len(self.steps) + 1} arrays, got {got}")
        z = self._turn(value)
        total = self.first.log_prob(z[0])
        for step, params, before, here in zip(self.steps, self.params, z, z[1:], strict=False):
            total += normal(*_broadcast(step, params, before)).log_prob(here)
        return total

    def sample(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, ...]:
        """Ancestral draws (z_1, ..., z_L), the leaves [*sample_shape, K_l]."""
        key, *keys = jax.random.split(seed, len(self.steps) + 1)
        z = [self.first.sample(seed=key, sample_shape=sample_shape)]
        for key, step, params in zip(keys, self.steps, self.params, strict=True):
            # All draws are the rows of one matrix product.
            rows = z[-1].reshape(-1, z[-1].shape[-1])
            loc, scale = jax.vmap(partial(_broadcast, step, params))(rows)
            here = loc + scale * jax.random.normal(unrolled(key), loc.shape, loc.dtype)
            z.append(here.reshape(*sample_shape, loc.shape[-1]))
        return self._turn(tuple(z))

    def mean_given(self, z: tuple[Array, ...], first: Array) -> tuple[Array, ...]:
        """The means of the conditionals of draws z, leaves [S, K_l], after that of the first part.

        Rao-Blackwell: they vary less than the draws, and agree for a unit that ignores what comes
        before it.
        """
        means = [first]
        for step, params, before in zip(self.steps, self.params, self._turn(z), strict=False):
            means.append(jax.vmap(partial(step, params))(before)[0].mean(0))
        return self._turn(tuple(means))

    def _turn(self, z: tuple[Array, ...]) -> tuple[Array, ...]:
        """From the order of the layers to that of drawing, or back."""
        return z[::-1] if self.downward else z


def _broadcast(step: Step, params: Params, before: Array) -> Gaussian:
    """One step; a scalar scale is that of every dimension."""
    loc, scale = step(params, before)
    return loc, jnp.broadcast_to(scale, loc.shape)


def check_layers(layers: Sequence[Layer], minimum: int) -> tuple[Layer, ...]:
    """Return at least `minimum` layers as a tuple, or say which does not fit its network."""
    layers = tuple(layers)
    if len(layers) < minimum:
        raise ValueError(f"layers: expected at least {minimum}, got {len(layers)}")
    for place, layer in enumerate(layers):
        dim = checks.integer(layer.dim, f"layers[{place}].dim", 1)
        if layer.network.num_outputs != 2 * dim:
            raise ValueError(
                f"layers[{place}]: expected a network of {2 * dim} outputs, mean and scale of "
                f"{dim} dimensions, got {layer.network.num_outputs}"
            )
    return layers


def init_each(key: Key[Array, ""], networks: "Sequence[Network]") -> tuple[Params, ...]:
    """Parameters of every network, each from a key of its own."""
    checks.key(key)
    keys = jax.random.split(key, len(networks))
    return tuple(network.init(key) for network, key in zip(networks, keys, strict=True))
