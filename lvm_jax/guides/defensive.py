"""A guide that draws from the prior now and then, so that no weight is unbounded."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import checks, distributions
from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model
from lvm_jax.typing import Array, Distribution, Key, Latent, Params, Scalar


class Mixed(NamedTuple):
    """(1 - share) q + share p, of two distributions of the same z."""

    q: Distribution
    p: Distribution
    share: float | Scalar

    @property
    def reparameterized(self) -> bool:
        """Which of the two a draw came from has no gradient."""
        return False

    @property
    def discrete(self) -> bool:
        """Are both of a discrete z?"""
        return distributions.is_discrete(self.q) and distributions.is_discrete(self.p)

    def log_prob(self, value: Latent) -> Scalar:
        """log((1 - share) q(z) + share p(z)), in nats."""
        return jnp.logaddexp(
            jnp.log1p(-self.share) + self.q.log_prob(value),
            jnp.log(self.share) + self.p.log_prob(value),
        )

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Each draw from p with probability `share`, else from q."""
        key_pick, key_q, key_p = jax.random.split(seed, 3)
        pick = jax.random.bernoulli(key_pick, self.share, sample_shape)
        from_q = self.q.sample(seed=key_q, sample_shape=sample_shape)
        from_p = self.p.sample(seed=key_p, sample_shape=sample_shape)

        def choose(q: Array, p: Array) -> Array:
            return jnp.where(pick.reshape(*pick.shape, *[1] * (q.ndim - pick.ndim)), p, q)

        return jax.tree.map(choose, from_q, from_p)


@lru_cache
def defensive(model: Model, guide: Guide, share: float = 0.1) -> Guide:
    """(1 - share) q(z | x; phi) + share p(z; theta), for importance sampling; phi is (phi, theta).

    The weight p(x, z) / q(z) is then at most p(x | z) / share: of finite variance wherever the
    likelihood is bounded, however narrow q is, and a mode that q misses is met as often as the
    prior meets it. E[w^2] is at most 1 / (1 - share) times that of q alone; weights of an exact q
    are no longer all equal. Not reparameterised. The same arguments give the same guide, so that
    nothing compiles again.

    Raises ValueError for a share outside (0, 1).

    Source: Hesterberg (1995), defensive mixtures.
    """
    if not 0 < checks.number(share, "share") < 1:
        raise ValueError(f"share: expected a number in (0, 1), got {share}")

    def init(key: Key[Array, ""]) -> Params:
        checks.key(key)
        key_phi, key_theta = jax.random.split(key)
        return guide.init(key_phi), model.init(key_theta)

    def posterior(phi: Params, x: Array) -> Distribution:
        own, theta = phi
        return Mixed(guide.posterior(own, x), model.prior(theta), share)

    return Guide(init, posterior)
