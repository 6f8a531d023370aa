"""A chain of Gaussians as one distribution over a tuple z = (z_1, ..., z_L).

Priors draw from the top (z_L first) and bottom-up guides from below (z_1 first). Both have

    log p(z) = log p(first) + sum_i log N(z_i; m_i(previous), diag(s_i(previous))^2)

where m_i and s_i are functions with parameters, usually networks.
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

if TYPE_CHECKING:  # avoids the import of flax
    from lvm_jax.networks import Network

LOG_SCALE_BOUND = 8.0

Gaussian = tuple[Float[Array, " K"], Float[Array, " K"]]  # loc and scale
Step = Callable[[Params, Array], Gaussian]  # (parameters, previous z) -> Gaussian of this z


class Layer(NamedTuple):
    """A conditional Gaussian in `dim` dimensions, given by a network with 2 dim outputs.

    The first half is the mean. `positive_scale` maps the second half to standard deviations.
    """

    network: "Network"
    dim: int

    def gaussian(self, params: Params, given: Array) -> Gaussian:
        """Mean and standard deviations, [dim] each."""
        loc, free = jnp.split(self.network.apply(params, given), 2)
        return loc, positive_scale(free)


def positive_scale(free: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """exp(8 tanh(u / 8)): a standard deviation between 3e-4 and 3e3 from an unconstrained u.

    Near 0 it is exp(u), so u is a log standard deviation, and scales and precisions are treated
    symmetrically. The bounds keep float32 finite: exp(u)^2 overflows at u = 44, and a scale of 0
    makes log q infinite. Here every variance and precision is below 1e7, where (z - m) / s of a z
    near 1 has three correct digits.
    """
    return jnp.exp(LOG_SCALE_BOUND * jnp.tanh(free / LOG_SCALE_BOUND))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["first", "params"],
    meta_fields=["steps", "downward"],
)
@dataclass(frozen=True, eq=False)
class Chain:
    """The first z is drawn from `first`; each of the `steps` then gives a z from the previous one.

    A pytree of arrays with static functions, safe under every transformation. Reparameterised if
    `first` is.
    """

    first: Distribution
    params: tuple[Params, ...]  # of the steps, in the order of drawing
    steps: tuple[Step, ...] = field(repr=False)
    downward: bool  # whether z_L is drawn first

    @property
    def reparameterized(self) -> bool:
        """Whether draws carry gradients to the parameters. The steps always do."""
        return is_reparameterized(self.first)

    def log_prob(self, value: tuple[Array, ...]) -> Scalar:
        """Joint log-density of one z = (z_1, ..., z_L), in nats.

        Raises ValueError for a z with another number of parts.
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
            # One matrix product for all draws.
            rows = z[-1].reshape(-1, z[-1].shape[-1])
            loc, scale = jax.vmap(partial(_broadcast, step, params))(rows)
            here = loc + scale * jax.random.normal(unrolled(key), loc.shape, loc.dtype)
            z.append(here.reshape(*sample_shape, loc.shape[-1]))
        return self._turn(tuple(z))

    def mean_given(self, z: tuple[Array, ...], first: Array) -> tuple[Array, ...]:
        """Average conditional means of draws z with leaves [S, K_l]; `first` is the first part's.

        Rao-Blackwellised: they vary less than the draws, and not at all for a unit that does not
        depend on the previous layer.
        """
        means = [first]
        for step, params, before in zip(self.steps, self.params, self._turn(z), strict=False):
            means.append(jax.vmap(partial(step, params))(before)[0].mean(0))
        return self._turn(tuple(means))

    def _turn(self, z: tuple[Array, ...]) -> tuple[Array, ...]:
        """Convert between the order of the layers and the order of drawing."""
        return z[::-1] if self.downward else z


def _broadcast(step: Step, params: Params, before: Array) -> Gaussian:
    """One step, with a scalar scale broadcast to all dimensions."""
    loc, scale = step(params, before)
    return loc, jnp.broadcast_to(scale, loc.shape)


def check_layers(layers: Sequence[Layer], minimum: int) -> tuple[Layer, ...]:
    """Return the layers as a tuple; ValueError for too few or for a wrong number of outputs."""
    layers = tuple(layers)
    if len(layers) < minimum:
        raise ValueError(f"layers: expected at least {minimum}, got {len(layers)}")
    for index, layer in enumerate(layers):
        dim = checks.integer(layer.dim, f"layers[{index}].dim", 1)
        if layer.network.num_outputs != 2 * dim:
            raise ValueError(
                f"layers[{index}]: expected a network of {2 * dim} outputs, mean and scale of "
                f"{dim} dimensions, got {layer.network.num_outputs}"
            )
    return layers


def init_each(key: Key[Array, ""], networks: "Sequence[Network]") -> tuple[Params, ...]:
    """Initial parameters of every network, with one key each."""
    checks.key(key)
    keys = jax.random.split(key, len(networks))
    return tuple(network.init(key) for network, key in zip(networks, keys, strict=True))
