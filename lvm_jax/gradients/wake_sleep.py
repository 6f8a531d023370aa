"""The wake-sleep family: theta climbs a bound, phi descends the forward KL(p(z | x) || q)."""

import jax

from lvm_jax import bounds
from lvm_jax._core import checks
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, through
from lvm_jax.gradients.pathwise import derivatives, follow
from lvm_jax.gradients.score import score_weights
from lvm_jax.typing import Array, ConditionalDensity, Generative, Key, Params, Scalar
from lvm_jax.weights import LogJoint


def reweighted_wake_sleep() -> Surrogate:
    """Reweighted wake-sleep with the wake-phase update of phi. With v = w / sum w,

        phi:    sum_s v_s grad_phi log q(z_s)
        theta:  sum_s v_s dlog p(x, z_s)/dtheta

    The value is IWAE, and theta is unbiased for it. phi is no gradient of IWAE: it climbs
    -KL(p(z | x) || q), self-normalised, with a bias of O(1/S). Any q; z may be a pytree.
    Source: Bornschein and Bengio 2015, section 2.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("reweighted_wake_sleep", "any", guide, phi, num_samples)
        log_w, log_q = score_weights(key, log_joint, q, num_samples)
        return bounds.iwae(log_w) + through(bounds.normalized(log_w), log_q)

    return estimate


def doubly_reparameterized_wake_sleep() -> Surrogate:
    """`reweighted_wake_sleep` with phi's score reparameterised. With v = w / sum w,

        phi:    sum_s (v_s - v_s^2) dlog w_s/dz_s dz_s/dphi,   parameters of log q stopped
        theta:  sum_s v_s dlog p(x, z_s)/dtheta

    The mean of phi is that of `reweighted_wake_sleep` exactly, S by S; 0 where q is the posterior.
    Needs a reparameterised q; z may be a pytree. Source: Tucker et al. 2019, section 4.1.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        name = "doubly_reparameterized_wake_sleep"
        q = make_q(name, "reparameterized", guide, phi, num_samples)
        paths = follow(key, log_joint, guide, q, phi, num_samples)
        _, second = derivatives(bounds.iwae, paths.log_weights)
        return bounds.iwae(paths.log_weights) + through(second, paths.travel)

    return estimate


def sleep(key: Key[Array, ""], p: Generative, q: ConditionalDensity, num_samples: int) -> Scalar:
    """The sleep phase: E_{p(x, z; theta)}[log q(z | x; phi)] from draws of the model.

    To be maximised in phi: its gradient is an unbiased one of -E_{p(x)} KL(p(z | x) || q), the
    forward KL averaged over the model's own data, not over yours. It carries nothing to theta.
    Takes p and q (not one data point's log_joint), since it draws x itself. Any z and any q.

    Raises ValueError for num_samples < 1.

    Source: Hinton et al. 1995, the sleep phase; Bornschein and Bengio 2015, section 2.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    p = jax.lax.stop_gradient(p)

    def dream(key: Key[Array, ""]) -> Scalar:
        z, x = p.sample(key)
        return q(x).log_prob(z)

    return jax.vmap(dream)(jax.random.split(key, num_samples)).mean()
