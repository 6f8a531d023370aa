"""The ELBO by a sum over all values of a finite z, or of a finite part of z."""

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.distributions.kinds import finite_part
from lvm_jax.gradients.base import Estimator, MakeQ, Surrogate, find_estimate, make_q
from lvm_jax.typing import Array, Key, Latent, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint


def enumerated(inner: Surrogate | Estimator | str = "reparameterized") -> Surrogate:
    """The ELBO by a sum over all values of a finite z, or of the finite part y of z = (y, z).

        sum_z q(z) (log p(x, z) - log q(z)),    for a finite q, such as Bernoulli or Table
        sum_y q(y) (ELBO_y - log q(y)),         for a `Successive` q(y) q(z | y) with a finite y

    For a finite q, the ELBO and its gradients are exact; key, num_samples and `inner` are unused.
    For a `Successive`, `inner` estimates ELBO_y = E_q(z | y)[log p(x, y, z) - log q(z | y)] from S
    draws of z for each y. The result is unbiased in theta and phi if `inner` is unbiased for the
    ELBO. Costs one evaluation, or one inner estimate, for each value (`distributions.support`
    raises ValueError for too many).

    Source: Ranganath et al. 2014, section 3.1; Kingma et al. 2014, equation 7.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        values = finite_part(guide(phi))
        if values is not None:
            found = find_estimate(inner, "inner")
            return _of_parts(key, log_joint, guide, phi, num_samples, values, found)
        q = make_q("enumerated", "finite", guide, phi, num_samples)
        z = distributions.support(q)
        check_log_joint(log_joint, z)
        return _expected(jax.vmap(log_joint)(z), jax.vmap(q.log_prob)(z))

    return estimate


def _of_parts(
    key: Key[Array, ""],
    log_joint: LogJoint,
    guide: MakeQ,
    phi: Params,
    num_samples: int,
    values: Latent,
    inner: Surrogate,
) -> Scalar:
    q = guide(phi)

    def one(key: Key[Array, ""], y: Array) -> Scalar:
        return inner(
            *(key, lambda z: log_joint(q.join(y, z)), lambda phi: guide(phi).second(y)),
            *(phi, num_samples),
        )

    keys = jax.random.split(key, jax.tree.leaves(values)[0].shape[0])
    return _expected(jax.vmap(one)(keys, values), jax.vmap(q.first.log_prob)(values))


def _expected(values: Array, log_q: Array) -> Scalar:
    """sum q (value - log q), where values of probability 0 contribute 0 and no gradient."""
    mass = jnp.exp(log_q)
    return (mass * jnp.where(mass > 0, values - log_q, 0.0)).sum()
