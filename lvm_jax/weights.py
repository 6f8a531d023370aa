"""Importance log-weights, the input of all bounds and diagnostics.

    log w_s = log p(x, z_s) - log q(z_s),    z_s ~ q,    for ONE data point x

so E_q[w] = p(x). Map over data points with jax.vmap.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions.base import has_sample_and_log_prob
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar

LogJoint = Callable[[Latent], Scalar]  # z -> log p(x, z), of one data point, in nats


class Weighted(NamedTuple):
    """S draws from q with their log-weights."""

    z: Latent  # leaves [S, ...]
    log_weights: Float[Array, " S"]


def log_weights(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int
) -> Float[Array, " S"]:
    """log w_s = log p(x, z_s) - log q(z_s) of `num_samples` draws z_s from q, [S], in nats.

    Differentiable in values that `log_joint` closes over, in the parameters of q and, if q is
    reparameterised, through the draws. NaN and infinite values are propagated.

    Raises ValueError for num_samples < 1, a log-joint or a log q(z) that is not a scalar, or a
    log-joint that fails for draws from q; TypeError for a key that is not typed.
    """
    return weigh(key, log_joint, q, num_samples).log_weights


def weigh(key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int) -> Weighted:
    """`log_weights` with the draws; raises the same errors."""
    checks.key(key)
    check_log_prob(q)
    z, log_q = sample_and_log_prob(key, q, num_samples)
    check_log_joint(log_joint, z)
    if log_q is not None:
        return Weighted(z, jax.vmap(log_joint)(z) - log_q)
    return Weighted(z, jax.vmap(lambda one: log_joint(one) - q.log_prob(one))(z))


def draw(key: Key[Array, ""], q: Distribution, num_samples: int) -> Latent:
    """`num_samples` draws from q, leaves [S, ...].

    Raises ValueError for num_samples < 1, and TypeError for a key that is not typed or a q that is
    no distribution.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    return checks.distribution(q).sample(seed=key, sample_shape=(num_samples,))


def sample_and_log_prob(
    key: Key[Array, ""], q: Distribution, num_samples: int
) -> tuple[Latent, Float[Array, " S"] | None]:
    """`draw`, and log q of the draws by `q.sample_and_log_prob`, or None without this method."""
    checks.key(key)
    if not has_sample_and_log_prob(q):
        return draw(key, q, num_samples), None
    checks.integer(num_samples, "num_samples", 1)
    return q.sample_and_log_prob(seed=key, sample_shape=(num_samples,))


def check_log_joint(log_joint: LogJoint, z: Latent) -> None:
    """Raise ValueError for a log-joint that does not map one z, of S draws, to one number."""
    one = _one(z)
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", one)
    try:
        value = jax.eval_shape(log_joint, one)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"log_joint: expected to take a z drawn from q, {shapes}, but it fails: {error}"
        ) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"log_joint: expected one real number (log p(x, z), in nats) for one z, {shapes}, got "
            f"{value}; sum over the dimensions of x, as distributions.Independent does"
        )


def check_log_prob(q: Distribution, name: str = "q") -> None:
    """Raise ValueError for a q with batched parameters, whose log q of one draw is no scalar.

    It evaluates shapes only.
    """

    def log_q(key: Key[Array, ""]) -> Scalar | float:
        if has_sample_and_log_prob(q):
            return q.sample_and_log_prob(seed=key, sample_shape=())[1]
        return q.log_prob(q.sample(seed=key))

    checks.distribution(q, name)
    cure = (
        "map over data points with jax.vmap, and combine the dimensions of z with "
        "distributions.Independent"
    )
    try:
        value = jax.eval_shape(log_q, jax.random.key(0))
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
    """Shapes and dtypes of one of S draws."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), z)
