"""A log-density with a known normalising constant, and one-dimensional quadrature."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.typing import Array, Float, Key, Scalar

LOG_2PI = math.log(2 * math.pi)


class Target(NamedTuple):
    """An unnormalised density exp(log_density(z)) of z in R^D with a known log Z.

    `mean_field_elbo` and `full_rank_elbo` are the maximal ELBOs over Gaussians with a diagonal and
    with a full covariance.
    """

    name: str
    dim: int  # D
    log_density: Callable[[Float[Array, " D"]], Scalar]  # of one z, in nats
    log_evidence: float  # log Z, the log of the integral of exp(log_density), in nats
    standard_error: float = 0.0  # of log Z; 0 for a closed form or a converged quadrature
    mean_field_elbo: float | None = None
    full_rank_elbo: float | None = None
    sample: Callable[[Key[Array, ""], int], Float[Array, "S D"]] | None = None  # exact draws
    facts: Mapping[str, Any] = MappingProxyType({})  # other known numbers, by name


class Line(NamedTuple):
    """A one-dimensional density on a uniform grid that covers its mass."""

    nodes: Float[np.ndarray, " M"]
    mass: Float[np.ndarray, " M"]  # normalised, one per node
    log_integral: float

    def mean(self, values: Float[np.ndarray, " M"]) -> float:
        """E[f(a)], from the values of f at the nodes."""
        return float(self.mass @ values)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Draw a node by its mass and a uniform offset; the error is of order spacing^2."""
        key_node, key_place = jax.random.split(key)
        cumulative = jnp.asarray(np.cumsum(self.mass))
        place = jax.random.uniform(key_place, shape) - 0.5
        index = jnp.searchsorted(cumulative, jax.random.uniform(key_node, shape))
        index = jnp.minimum(index, len(self.nodes) - 1)
        return jnp.asarray(self.nodes)[index] + place * (self.nodes[1] - self.nodes[0])


def line(
    log_density: Callable[[np.ndarray], np.ndarray],
    low: float,
    high: float,
    num_nodes: int = 20_001,
) -> Line:
    """The trapezoidal rule for a density that is negligible at both ends of [low, high]."""
    nodes = np.linspace(low, high, num_nodes)
    log_p = log_density(nodes)
    total = np.logaddexp.reduce(log_p)
    return Line(nodes, np.exp(log_p - total), float(total + np.log(nodes[1] - nodes[0])))
