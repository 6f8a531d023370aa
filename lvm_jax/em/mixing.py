"""Conjugate laws of the weights of a mixture: Dirichlet, and sticks of a Dirichlet process.

`prior` is the concentration of the K components, [K]; 0 marks a padded component.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from lvm_jax.typing import Array, Bool, Float, Key, Scalar


def expected_log(alpha: Array) -> Array:
    """E[log pi] of Dirichlet(alpha), along the last axis (Bishop 2006, B.21)."""
    return digamma(alpha) - digamma(alpha.sum(-1, keepdims=True))


def kl_dirichlet(alpha: Array, other: Array, live: Bool[Array, "..."]) -> Array:
    """KL(Dirichlet(alpha) || Dirichlet(other)) over the live numbers of the last axis."""
    a, b = jnp.where(live, alpha, 0), jnp.where(live, other, 0)
    sums = gammaln(a.sum(-1)) - gammaln(b.sum(-1))
    a, b = jnp.where(live, a, 1), jnp.where(live, b, 1)
    logs = digamma(a) - digamma(jnp.where(live, alpha, 0).sum(-1, keepdims=True))
    terms = gammaln(b) - gammaln(a) + (a - b) * logs
    return sums + jnp.where(live, terms, 0).sum(-1)


@dataclass(frozen=True)
class Dirichlet:
    """pi ~ Dirichlet(concentration); the posterior has the parameters [K]."""

    def posterior(self, counts: Float[Array, " K"], prior: Float[Array, " K"]) -> Array:
        """alpha_k = alpha_0k + N_k (Bishop 2006, 10.58)."""
        return prior + counts

    def expected_log(self, posterior: Array, prior: Float[Array, " K"]) -> Float[Array, " K"]:
        """E[log pi_k]; -inf for padding (Bishop 2006, 10.66)."""
        live = prior > 0
        total = digamma(jnp.where(live, posterior, 0).sum())
        return jnp.where(live, digamma(jnp.where(live, posterior, 1)) - total, -jnp.inf)

    def kl(self, posterior: Array, other: Array, live: Bool[Array, " K"]) -> Scalar:
        """KL of a posterior from another."""
        return kl_dirichlet(posterior, other, live)

    def mean(self, posterior: Float[Array, " K"]) -> Float[Array, " K"]:
        """E[pi_k]."""
        return posterior / posterior.sum()

    def sample(self, key: Key[Array, ""], posterior: Float[Array, " K"]) -> Float[Array, " K"]:
        """A draw of log pi."""
        draws = jax.random.loggamma(key, posterior)
        return draws - jax.nn.logsumexp(draws)

    def blank(self, num_components: int, dtype: Any) -> Array:
        """Parameters of the shape of a posterior."""
        return jnp.ones(num_components, dtype)


@dataclass(frozen=True)
class Sticks:
    """pi_k = v_k prod_{j<k} (1 - v_j), v_k ~ Beta(1, concentration); the posterior is [K, 2].

    The approximation of Blei and Jordan (2006, section 3) with all K sticks free: no row is of a
    component after K, whose posterior is the prior, and they have the weight that is left.
    """

    def posterior(self, counts: Float[Array, " K"], prior: Float[Array, " K"]) -> Array:
        """Beta(1 + N_k, concentration + sum_{j>k} N_j) (Blei and Jordan 2006, 18 and 19)."""
        later = jnp.cumsum(counts[::-1])[::-1] - counts
        pairs = jnp.stack([1 + counts, prior + later], -1)
        return jnp.where((prior > 0)[:, None], pairs, 1)

    def expected_log(self, posterior: Array, prior: Float[Array, " K"]) -> Float[Array, " K"]:
        """E[log v_k] + sum_{j<k} E[log (1 - v_j)]; -inf for padding."""
        taken, left = expected_log(posterior).T
        return jnp.where(prior > 0, taken + jnp.cumsum(left) - left, -jnp.inf)

    def kl(self, posterior: Array, other: Array, live: Bool[Array, " K"]) -> Scalar:
        """KL of a posterior from another."""
        each = kl_dirichlet(posterior, other, jnp.ones_like(posterior, bool))
        return jnp.where(live, each, 0).sum()

    def mean(self, posterior: Float[Array, "K 2"]) -> Float[Array, " K+1"]:
        """E[pi_k], and last the expected weight of all components after K."""
        taken, left = (posterior / posterior.sum(-1, keepdims=True)).T
        before = jnp.concatenate([jnp.ones_like(left[:1]), jnp.cumprod(left)])
        return before * jnp.concatenate([taken, jnp.ones_like(taken[:1])])

    def sample(self, key: Key[Array, ""], posterior: Float[Array, "K 2"]) -> Float[Array, " K+1"]:
        """A draw of log pi_k, and last of the logarithm of the weight that is left."""
        draws = jax.random.loggamma(key, posterior)
        taken, left = (draws - jax.nn.logsumexp(draws, axis=-1, keepdims=True)).T
        before = jnp.concatenate([jnp.zeros_like(left[:1]), jnp.cumsum(left)])
        return before + jnp.concatenate([taken, jnp.zeros_like(taken[:1])])

    def blank(self, num_components: int, dtype: Any) -> Array:
        """Parameters of the shape of a posterior."""
        return jnp.ones((num_components, 2), dtype)


WEIGHTS: dict[str, Dirichlet | Sticks] = {"dirichlet": Dirichlet(), "dirichlet_process": Sticks()}
