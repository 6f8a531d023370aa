"""A log-density with a known normalising constant, and quadrature on a line."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.typing import Array, Float, Key, Scalar


class Target(NamedTuple):
    """An unnormalised density exp(log_density(z)) of z in R^D with a known log Z.

    `mean_field_elbo` and `full_rank_elbo` are the ELBOs of the BEST Gaussian of either kind:
    an optimiser reaches them, and nothing in its family passes them.
    """

    name: str
    dim: int  # D
    log_density: Callable[[Float[Array, " D"]], Scalar]  # of one z, in nats
    log_evidence: float  # log Z, the log of the integral of exp(log_density), in nats
    standard_error: float = 0.0  # of log Z; 0 where it is a closed form or a converged quadrature
    mean_field_elbo: float | None = None
    full_rank_elbo: float | None = None
    sample: Callable[[Key[Array, ""], int], Float[Array, "S D"]] | None = None  # exact draws
    facts: Mapping[str, Any] = MappingProxyType({})  # other numbers that are known, by name


class Line(NamedTuple):
    """exp(log_density) on the line, by the trapezoidal rule on a grid that holds all of it."""

    nodes: Float[np.ndarray, " M"]
    mass: Float[np.ndarray, " M"]  # normalised, one per node
    log_integral: float

    def mean(self, values: Float[np.ndarray, " M"]) -> float:
        """E f(a), f given at the nodes."""
        return float(self.mass @ values)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Draws: a node by its mass, and a uniform place around it; 2nd order in the spacing."""
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
    """The quadrature of a density that is negligible at both ends of [low, high]."""
    nodes = np.linspace(low, high, num_nodes)
    log_p = log_density(nodes)
    total = np.logaddexp.reduce(log_p)
    return Line(nodes, np.exp(log_p - total), float(total + np.log(nodes[1] - nodes[0])))
