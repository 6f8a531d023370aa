"""Seam 1: log-weights. Every bound reduces them, every diagnostic reads them.

    log w_s = log p(x, z_s) - log q(z_s),    z_s ~ q,    for ONE data point x

so that E_q[w] = p(x). Map over data points outside: the mean over S is then inside the logarithm
and the mean over N outside, whatever the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions import has_sample_and_log_prob
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar

LogJoint = Callable[[Latent], Scalar]  # z -> log p(x, z), of one data point, in nats


class Weighted(NamedTuple):
    """S draws of q with their log-weights."""

    z: Latent  # leaves [S, ...]
    log_weights: Float[Array, " S"]


def log_weights(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int
) -> Float[Array, " S"]:
    """log w_s = log p(x, z_s) - log q(z_s) of `num_samples` draws z_s from q, [S], in nats.

    Differentiable in what `log_joint` closes over, in the parameters of q, and, where q is
    reparameterised, through the draws. NaN and infinite values are kept.

    Raises ValueError for num_samples < 1, a log-joint or a log q(z) that is not a scalar, or a z
    that does not fit the log-joint; TypeError for a key that is not typed.
    """
    return weigh(key, log_joint, q, num_samples).log_weights


def weigh(key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int) -> Weighted:
    """`log_weights`, with the draws that they belong to; raises as it does."""
    checks.key(key)
    check_log_prob(q)
    z, log_q = sample_and_log_prob(key, q, num_samples)
    check_log_joint(log_joint, z)
    if log_q is not None:
        return Weighted(z, jax.vmap(log_joint)(z) - log_q)
    return Weighted(z, jax.vmap(lambda one: log_joint(one) - q.log_prob(one))(z))


def draw(key: Key[Array, ""], q: Distribution, num_samples: int) -> Latent:
    """`num_samples` draws from q, stacked along a leading axis S on every leaf.

    Raises ValueError for num_samples < 1, TypeError for a key that is not typed or a q that is no
    distribution.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    return checks.distribution(q).sample(seed=key, sample_shape=(num_samples,))


def sample_and_log_prob(
    key: Key[Array, ""], q: Distribution, num_samples: int
) -> tuple[Latent, Float[Array, " S"] | None]:
    """`draw`, and log q of the draws by their own noise, or None where q has no such price."""
    checks.key(key)
    if not has_sample_and_log_prob(q):
        return draw(key, q, num_samples), None
    checks.integer(num_samples, "num_samples", 1)
    return q.sample_and_log_prob(seed=key, sample_shape=(num_samples,))


def check_log_joint(log_joint: LogJoint, z: Latent) -> None:
    """Refuse a log-joint that does not take one z [of q's shape] to one number."""
    one = _one(z)
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", one)
    try:
        value = jax.eval_shape(log_joint, one)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"log_joint: expected to take a z as q draws it, {shapes}, but it fails on one: {error}"
        ) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"log_joint: expected one real number (log p(x, z), in nats) for one z, {shapes}, got "
            f"{value}; sum over the dimensions of x, as distributions.Independent does"
        )


def check_log_prob(q: Distribution, name: str = "q") -> None:
    """Refuse a q whose log-density of one draw is not one number: one with a batch of parameters.

    Shapes only: nothing is computed.
    """

    def price(key: Key[Array, ""]) -> Scalar | float:
        if has_sample_and_log_prob(q):
            return q.sample_and_log_prob(seed=key, sample_shape=())[1]
        return q.log_prob(q.sample(seed=key))

    checks.distribution(q, name)
    cure = (
        "map over data points with jax.vmap, and gather the dimensions of z with "
        "distributions.Independent"
    )
    try:
        value = jax.eval_shape(price, jax.random.key(0))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected one log-density for one z, but log_prob fails on a draw ({error}); "
            f"{cure}"
        ) from error
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name}: expected one log-density for one z, got shape {jnp.shape(value)}; {cure}"
        )


def _one(z: Latent) -> Latent:
    """The shape and dtype of one of S draws."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), z)
