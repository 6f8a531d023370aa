"""Defensive guides: mixtures of a guide and the prior, with bounded importance weights."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.typing import (
    Array,
    ConditionalDensity,
    Distribution,
    Generative,
    Key,
    Latent,
    Scalar,
)


class Mixed(NamedTuple):
    """The mixture (1 - share) q + share p of two distributions of z."""

    q: Distribution
    p: Distribution
    share: float | Scalar

    @property
    def reparameterized(self) -> bool:
        """False: the choice between q and p has no gradient."""
        return False

    @property
    def discrete(self) -> bool:
        """Whether both distributions are discrete."""
        return distributions.is_discrete(self.q) and distributions.is_discrete(self.p)

    def log_prob(self, value: Latent) -> Scalar:
        """log((1 - share) q(z) + share p(z)), in nats."""
        return jnp.logaddexp(
            jnp.log1p(-self.share) + self.q.log_prob(value),
            jnp.log(self.share) + self.p.log_prob(value),
        )

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Draws, each from p with probability `share`, otherwise from q."""
        key_pick, key_q, key_p = jax.random.split(seed, 3)
        pick = jax.random.bernoulli(key_pick, self.share, sample_shape)
        from_q = self.q.sample(seed=key_q, sample_shape=sample_shape)
        from_p = self.p.sample(seed=key_p, sample_shape=sample_shape)

        def choose(q: Array, p: Array) -> Array:
            return jnp.where(pick.reshape(*pick.shape, *[1] * (q.ndim - pick.ndim)), p, q)

        return jax.tree.map(choose, from_q, from_p)


@partial(jax.tree_util.register_dataclass, data_fields=["p", "q"], meta_fields=["share"])
@dataclass(frozen=True, eq=False)
class Defensive:
    """(1 - share) q(z | x) + share p(z), a pytree; see `defensive`."""

    p: Generative
    q: ConditionalDensity
    share: float

    def __call__(self, x: Any) -> Distribution:
        """The mixture for one data point."""
        return Mixed(self.q(x), self.p.prior(x), self.share)


def defensive(p: Generative, q: ConditionalDensity, share: float = 0.1) -> Defensive:
    """(1 - share) q(z | x) + share p(z), for importance sampling.

    The importance weight is at most p(x | z) / share, so its variance is finite if the likelihood
    is bounded, however narrow q is. Draws from the prior reach modes that q misses. E[w^2] is at
    most 1 / (1 - share) times that of q alone. The weights vary even if q is the exact posterior.
    Not reparameterised.

    Raises ValueError for a share outside (0, 1).

    Source: Hesterberg (1995), defensive mixtures.
    """
    if not 0 < checks.number(share, "share") < 1:
        raise ValueError(f"share: expected a number in (0, 1), got {share}")
    return Defensive(p, q, share)
