"""Estimators of the ELBO for Bernoulli z by antithetic pairs: ARM and DisARM."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, through
from lvm_jax.typing import Array, Float, Key, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint


def arm() -> Surrogate:
    """ARM: augment, REINFORCE, merge. For K Bernoulli variables with logits l, u ~ U(0, 1)^K,

        logits:  (f(1[u > sigmoid(-l)]) - f(1[u < sigmoid(l)])) (u - 1/2),   f(b) = log p - log q
        theta:   mean of dlog p(x, b)/dtheta over both b of every pair

    averaged over num_samples = S independent PAIRS (2 S evaluations). Unbiased in theta and phi for
    the ELBO. Needs distributions.Bernoulli. Source: Yin and Zhou 2019, theorem 1.
    """
    return _antithetic("arm", lambda uniform, pair, logits: uniform - 0.5)


def disarm() -> Surrogate:
    """DisARM: ARM with u integrated out, given b = 1[u > sigmoid(-l)] and b' = 1[u < sigmoid(l)].

        logits:  (f(b) - f(b')) (b - b') sigmoid(|l|) / 2,   f(b) = log p(x, b) - log q(b)
        theta:   mean of dlog p(x, b)/dtheta over both b of every pair

    averaged over num_samples = S independent PAIRS (2 S evaluations). Unbiased in theta and phi for
    the ELBO, with a variance at most that of ARM. Needs distributions.Bernoulli.
    Source: Dong, Mnih and Tucker 2020, section 3.
    """
    return _antithetic(
        "disarm",
        lambda uniform, pair, logits: 0.5 * (pair[0] - pair[1]) * jax.nn.sigmoid(jnp.abs(logits)),
    )


Credit = Callable[[Array, Array, Array], Array]  # (u [K], pair [2, K], logits [K]) -> [K]


def _antithetic(name: str, credit: Credit) -> Surrogate:
    """The difference of f between the two bit vectors of one uniform, times `credit`."""

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q(name, "bernoulli", guide, phi, num_samples)
        logits = jax.lax.stop_gradient(q.logits)
        stopped_q = distributions.Bernoulli(logits)
        uniforms = jax.random.uniform(key, (num_samples, *logits.shape), logits.dtype)
        check_log_joint(log_joint, uniforms)

        def one_pair(uniform: Float[Array, " K"]) -> tuple[Scalar, Float[Array, " K"]]:
            above, below = uniform > jax.nn.sigmoid(-logits), uniform < jax.nn.sigmoid(logits)
            pair = jnp.stack([above, below]).astype(logits.dtype)
            log_w = jax.vmap(lambda b: log_joint(b) - stopped_q.log_prob(b))(pair)
            # The gap is 0 also for two weights of 0, and inf * 0 is 0 below.
            gap = jnp.where(log_w[0] == log_w[1], 0.0, log_w[0] - log_w[1])
            share = credit(uniform, pair, logits)
            return log_w.mean(), jnp.where(jnp.isinf(gap) & (share == 0), 0.0, gap * share)

        values, slopes = jax.vmap(one_pair)(uniforms)
        return values.mean() + through(slopes.mean(0), q.logits)

    return estimate
