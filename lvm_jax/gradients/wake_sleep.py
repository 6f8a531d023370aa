"""Wake-sleep estimators: theta maximises a bound, phi minimises KL(p(z | x) || q)."""

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

    The value is IWAE, and theta is unbiased for it. phi receives the gradient of
    -KL(p(z | x) || q), self-normalised, with a bias of O(1/S); it is no gradient of IWAE. Any q; z
    may be a pytree. Source: Bornschein and Bengio 2015, section 2.
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

    The expected gradient in phi equals that of `reweighted_wake_sleep` for every S; it is 0 if q is
    the posterior. Needs a reparameterised q; z may be a pytree. Source: Tucker et al. 2019,
    section 4.1.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        name = "doubly_reparameterized_wake_sleep"
        q = make_q(name, "reparameterized", guide, phi, num_samples)
        paths = follow(key, log_joint, guide, q, phi, num_samples)
        _, second = derivatives(bounds.iwae, paths.log_weights)
        return bounds.iwae(paths.log_weights) + through(second, paths.carriers)

    return estimate


def sleep(key: Key[Array, ""], p: Generative, q: ConditionalDensity, num_samples: int) -> Scalar:
    """The sleep phase: E_{p(x, z; theta)}[log q(z | x; phi)] from draws of the model.

    Maximise it in phi: its gradient is an unbiased estimate of the gradient of
    -E_{p(x)} KL(p(z | x) || q), averaged over data simulated from the model. It has no gradient in
    theta. It takes p and q instead of log_joint, because it simulates x. Any z and any q.

    Raises ValueError for num_samples < 1.

    Source: Hinton et al. 1995, the sleep phase; Bornschein and Bengio 2015, section 2.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    p = jax.lax.stop_gradient(p)

    def one(key: Key[Array, ""]) -> Scalar:
        z, x = p.sample(key)
        return q(x).log_prob(z)

    return jax.vmap(one)(jax.random.split(key, num_samples)).mean()
