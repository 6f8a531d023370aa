"""Relaxations of discrete z: z = logits + noise, hard b = H(z), soft b = S(z / temperature).

log_joint must accept soft values: bits anywhere in [0, 1], rows anywhere in the simplex.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions.kinds import is_one_hot
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, positive
from lvm_jax.typing import Array, Key, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint


class Relaxation(NamedTuple):
    """A discrete family as a hard function b = H(z) of noisy logits z."""

    noise: Callable[..., Array]  # (key, shape, dtype), added to the logits
    harden: Callable[[Array], Array]  # z -> b
    soften: Callable[[Array], Array]  # z / temperature -> soft b
    mean: Callable[[Array], Array]  # logits -> E[b]
    condition: Callable[[Array, Array, Array], Array]  # (logits, noise, b) -> z given b
    log_prob: Callable[[Array, Array], Scalar]  # (logits, b)


def _bits_given(logits: Array, noise: Array, b: Array) -> Array:
    """Logistic z given its sign (Tucker et al. 2017, appendix), from logistic noise."""
    sign = 2 * b - 1
    return sign * jax.nn.softplus(noise + jax.nn.softplus(sign * logits))


def _rows_given(logits: Array, noise: Array, b: Array) -> Array:
    """Gumbel z given its largest entry: a Gumbel maximum, and truncated Gumbels below it."""
    top = jax.nn.logsumexp(logits, -1, keepdims=True) + (b * noise).sum(-1, keepdims=True)
    top = jnp.broadcast_to(top, b.shape)
    return jnp.where(b > 0.5, top, -jnp.logaddexp(-(logits + noise), -top))


BITS = Relaxation(
    noise=jax.random.logistic,
    harden=lambda z: (z > 0).astype(z.dtype),
    soften=jax.nn.sigmoid,
    mean=jax.nn.sigmoid,
    condition=_bits_given,
    log_prob=lambda logits, b: (b * logits - jax.nn.softplus(logits)).sum(),
)
ROWS = Relaxation(
    noise=jax.random.gumbel,
    harden=lambda z: jax.nn.one_hot(z.argmax(-1), z.shape[-1], dtype=z.dtype),
    soften=jax.nn.softmax,
    mean=jax.nn.softmax,
    condition=_rows_given,
    log_prob=lambda logits, b: (b * jax.nn.log_softmax(logits)).sum(),
)


def relaxation(q: Any) -> tuple[Array, Relaxation]:
    """The logits of a relaxable q, [K] or [K, L], and its family."""
    return (q.distribution.logits, ROWS) if is_one_hot(q) else (q.logits, BITS)


def concrete(temperature: float | Scalar = 0.5) -> Surrogate:
    """Binary concrete, or Gumbel-softmax: the ELBO with relaxed draws in log p.

        (1/S) sum_s log p(x, S(z_s / temperature)) + H(q),   z_s = logits + noise

    H(q) is the exact entropy of the discrete q. Value and gradients are those of THIS objective:
    they are biased for the ELBO in theta and phi. As temperature -> 0 the bias vanishes and the
    variance grows. The temperature may be traced. Needs Bernoulli or one-hot rows. Source: Maddison
    et al. 2017, equation 10, and Jang et al. 2017, equation 2, for the draws. Equation 13 of
    Maddison et al. also relaxes the density of q.
    """
    positive(temperature, "temperature")

    def soft(logits: Array, noise: Array, family: Relaxation) -> Array:
        return family.soften((logits + noise) / temperature)

    return _relaxed("concrete", soft)


def straight_through(temperature: float | Scalar | None = None) -> Surrogate:
    """Hard draws in the forward pass, derivatives db/dlogits of a smooth replacement.

        (1/S) sum_s log p(x, b_s) + H(q),
        db_s/dphi := dE[b]/dphi (no temperature), or dS(z_s / temperature)/dphi (ST Gumbel-softmax)

    Value and theta are unbiased for the ELBO. phi is BIASED, also as temperature -> 0, unless log p
    is linear in b (no temperature). The temperature may be traced. Needs Bernoulli or one-hot rows.
    Source: Bengio et al. 2013; Jang et al. 2017, section 2.2.
    """
    positive(temperature, "temperature")

    def hard(logits: Array, noise: Array, family: Relaxation) -> Array:
        z = logits + noise
        smooth = family.mean(logits) if temperature is None else family.soften(z / temperature)
        return family.harden(z) + (smooth - jax.lax.stop_gradient(smooth))

    return _relaxed("straight_through", hard)


def _relaxed(name: str, make_z: Callable[[Array, Array, Relaxation], Array]) -> Surrogate:
    """mean log p(x, z_s) + H(q), differentiated through z_s = make_z(logits, noise, family)."""

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q(name, "relaxable", guide, phi, num_samples)
        logits, family = relaxation(q)
        noise = family.noise(key, (num_samples, *logits.shape), logits.dtype)
        z = jax.vmap(lambda one: make_z(logits, one, family))(noise)
        check_log_joint(log_joint, z)
        return jax.vmap(log_joint)(z).mean() + q.entropy()

    return estimate
