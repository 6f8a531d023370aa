"""The types that all subpackages share, and the letters of the axes.

Axes: N data points, D data dimensions, K mixture components, R restarts, S Monte-Carlo samples,
L values of a discrete latent variable or latent dimensions, F sufficient statistics.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt

ArrayLike = np.ndarray | jax.Array
Params = Any  # a pytree of arrays
Latent = Any  # a pytree of arrays
Scalar = Float[Array, ""]


@runtime_checkable
class Distribution(Protocol):
    """A distribution with draws and a density, of `distributions` or any class with these methods.

    Optional attributes are `mean()`, `entropy()`, `support`, `reparameterized`, `discrete` and
    `sample_and_log_prob`.
    """

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Any:
        """Draws, a pytree with leaves [*sample_shape, ...]."""

    def log_prob(self, value: Any) -> Any:
        """Log-density of one value, in nats."""


@runtime_checkable
class SampleAndLogProb(Distribution, Protocol):
    """A distribution that computes the log-density of its draws from their noise."""

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Any, Any]:
        """Draws, and log q of each."""


@runtime_checkable
class JointDensity(Protocol):
    """p(x, z) with its parameters, a pytree, such as `models.Joint` or a user's class."""

    def log_joint(self, x: Any) -> Callable[[Latent], Scalar]:
        """z -> log p(x, z) of one data point, in nats."""


@runtime_checkable
class Generative(JointDensity, Protocol):
    """A joint density with its factors p(z) and p(x | z), to draw x or to anneal from the prior.

    The argument x is a data point, for models with a `given` part of x; otherwise omit it.
    """

    def prior(self, x: Any = None) -> Distribution:
        """p(z)."""

    def likelihood(self, z: Latent, x: Any = None) -> Distribution:
        """p(x | z)."""

    def log_likelihood(self, z: Latent, x: Any) -> Scalar:
        """log p(x | z) of one data point, in nats."""

    def sample(self, key: Key[Array, ""], x: Any = None) -> Any:
        """z ~ p(z), x ~ p(x | z): a pair (z, x)."""


@runtime_checkable
class ConditionalDensity(Protocol):
    """q(z | x) with its parameters: a pytree that is a function of one x."""

    def __call__(self, x: Any) -> Distribution:
        """q(z | x)."""


__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "ConditionalDensity",
    "Distribution",
    "Float",
    "Generative",
    "Int",
    "JointDensity",
    "Key",
    "Latent",
    "PRNGKeyArray",
    "Params",
    "SampleAndLogProb",
    "Scalar",
    "UInt",
]
