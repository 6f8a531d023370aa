"""The ELBO with every value of a finite z, or of a finite part of it, summed out."""

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.gradients.base import Estimator, MakeQ, Surrogate, find_estimate, make_q
from lvm_jax.typing import Array, Key, Latent, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint


def enumerated(inner: Surrogate | Estimator | str = "reparameterized") -> Surrogate:
    """The ELBO with the sum over all of a finite z, or over the finite part y of z = (y, z).

        sum_z q(z) (log p(x, z) - log q(z)),    of a finite q, such as Bernoulli or a Table
        sum_y q(y) (ELBO_y - log q(y)),         of a `Successive` q(y) q(z | y) with a finite y

    A finite q has the exact ELBO and its exact gradients: no variance; key, num_samples and `inner`
    are not used. In the second, ELBO_y = E_q(z | y)[log p(x, y, z) - log q(z | y)] is the estimate
    of `inner` by S draws of z, each y with a key of its own: unbiased in theta and phi where
    `inner` is so for the ELBO, and exact in q(y) given those draws. Costs one evaluation, or one
    inner estimate, for each value (`distributions.support` raises ValueError for too many).

    Source: Ranganath et al. 2014, section 3.1; Kingma et al. 2014, equation 7.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        values = distributions.finite_part(guide(phi))
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
    inner: Surrogate | None,
) -> Scalar:
    q = guide(phi)
    if inner is None:
        raise TypeError("inner: expected an estimator or its name, got None")

    def one(key: Key[Array, ""], y: Array) -> Scalar:
        return inner(
            *(key, lambda z: log_joint(q.join(y, z)), lambda phi: guide(phi).second(y)),
            *(phi, num_samples),
        )

    keys = jax.random.split(key, jax.tree.leaves(values)[0].shape[0])
    return _expected(jax.vmap(one)(keys, values), jax.vmap(q.first.log_prob)(values))


def _expected(values: Array, log_q: Array) -> Scalar:
    """sum q (value - log q), where a value without mass counts as 0 and has no slope."""
    mass = jnp.exp(log_q)
    return (mass * jnp.where(mass > 0, values - log_q, 0.0)).sum()
