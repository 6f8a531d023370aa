"""Score-function estimators for any q and z: gradients flow through log q(z_s), not the draws.

The coefficient of the score of draw s is the change of the bound if the s-th log-weight is replaced
by a number r_s that does not depend on z_s:

    signal_s = B(log w) - B(log w with log w_s replaced by r_s)

Draws with p(x, z) = 0 have weights of 0. The value remains that of the bound. IWAE is -inf only if
all weights are 0, and the gradients are those of its finite part, E[L; L > -inf]. The ELBO is -inf
if any weight is 0; its gradient in phi does not exist, and the result is infinite or NaN.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from lvm_jax import bounds
from lvm_jax._core import checks
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, through
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint, draw


def score_function(
    bound: bounds.Reduction = bounds.elbo, baseline: float | Scalar = 0.0
) -> Surrogate:
    """REINFORCE for any bound, with a constant baseline b as the replacement r_s.

        phi:    sum_s (h_s(log w) - h_s(log w with log w_s = b)) grad_phi log q(z_s)
                h_s = B - B_s,   B_s = dB/dlog w_s
        theta:  sum_s B_s dlog p(x, z_s)/dtheta

    The term -B_s is the derivative through log q in log w_s. For the ELBO the coefficient is
    (log w_s - b) / S. Unbiased in theta and phi for every b that does not depend on these draws. b
    may be traced, such as a moving average of earlier steps. Costs S evaluations of the bound,
    except for the ELBO. Any q; z may be a pytree. Source: Williams 1992, theorem 1; Mnih and Gregor
    2014.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("score_function", "any", guide, phi, num_samples)
        log_w, log_q = score_weights(key, log_joint, q, num_samples)
        return bound(log_w) + through(credit(bound, log_w, baseline), log_q)

    return estimate


def credit(
    bound: bounds.Reduction, log_w: Float[Array, " S"], baseline: float | Scalar
) -> Float[Array, " S"]:
    """The coefficients of grad log q(z_s) in `score_function`, without gradients, [S]."""
    log_w = jax.lax.stop_gradient(log_w)
    if bound is bounds.elbo:  # a difference of two sums would be NaN for a weight of 0
        return (log_w - baseline) / log_w.size
    value, slope = jax.value_and_grad(bound)(log_w)
    values, slopes = jax.vmap(jax.value_and_grad(bound))(
        replaced(log_w, jnp.full_like(log_w, baseline))
    )
    return _finite_part(value) - slope - (values - jnp.diagonal(slopes))


def leave_one_out() -> Surrogate:
    """RLOO: REINFORCE for the ELBO; the baseline of a draw is the mean of the S - 1 others.

        phi:    1/(S - 1) sum_s (log w_s - mean log w) grad_phi log q(z_s)
        theta:  (1/S) sum_s dlog p(x, z_s)/dtheta

    Unbiased in theta and phi for the ELBO. Needs num_samples >= 2. Any q; z may be a pytree.
    Source: Kool et al. 2019.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("leave_one_out", "any", guide, phi, num_samples, minimum=2)
        log_w, log_q = score_weights(key, log_joint, q, num_samples)
        return log_w.mean() + through((log_w - log_w.mean()) / (num_samples - 1), log_q)

    return estimate


def vimco(mean: Literal["geometric", "arithmetic"] = "geometric") -> Surrogate:
    """VIMCO: REINFORCE for IWAE; the replacement r_s is a mean of the S - 1 other weights.

        phi:    sum_s (L(log w) - L(log w with log w_s = r_s) - v_s) grad_phi log q(z_s)
                L = IWAE,   v = w / sum w,
                r_s = mean_{j != s} log w_j (geometric) or log mean_{j != s} w_j (arithmetic)
        theta:  sum_s v_s dlog p(x, z_s)/dtheta

    Unbiased in theta and phi for IWAE. Needs num_samples >= 2. Any q; z may be a pytree. The
    geometric mean is 0 if any of the weights is 0. If all other weights are 0, L without z_s is
    replaced by 0. Source: Mnih and Rezende 2016.
    """
    checks.choice(mean, "mean", ("geometric", "arithmetic"))

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("vimco", "any", guide, phi, num_samples, minimum=2)
        log_w, log_q = score_weights(key, log_joint, q, num_samples)
        value = bounds.iwae(log_w)
        if mean == "geometric":
            replacement = mean_of_others(log_w)
        else:
            replacement = bounds.leave_one_out(log_w) - math.log(num_samples - 1)
        without = jax.vmap(bounds.iwae)(replaced(log_w, replacement))
        signal = _finite_part(value) - _finite_part(without)
        return value + through(signal - bounds.normalized(log_w), log_q)

    return estimate


def score_weights(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """log w_s with gradients in theta only, and log q(z_s) with gradients in phi only."""
    z = jax.lax.stop_gradient(draw(key, q, num_samples))
    check_log_joint(log_joint, z)
    log_q = jax.vmap(q.log_prob)(z)
    return jax.vmap(log_joint)(z) - jax.lax.stop_gradient(log_q), log_q


def _finite_part(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The value, with 0 for -inf, which would give an infinite coefficient of the score."""
    return jnp.where(value == -jnp.inf, 0.0, value)


def mean_of_others(log_w: Float[Array, " S"]) -> Float[Array, " S"]:
    """mean_{j != s} log w_j for every s; -inf if another weight is 0."""
    zero = log_w == -jnp.inf
    finite = jnp.where(zero, 0.0, log_w)
    mean = (finite.sum() - finite) / (log_w.size - 1)
    return jnp.where(zero.sum() > zero, -jnp.inf, mean)


def replaced(log_w: Float[Array, " S"], replacement: Float[Array, " S"]) -> Float[Array, "S S"]:
    """A matrix whose row s is log_w with its s-th entry replaced, without gradients."""
    rows = jnp.where(jnp.eye(log_w.size, dtype=bool), replacement[:, None], log_w[None])
    return jax.lax.stop_gradient(rows)
