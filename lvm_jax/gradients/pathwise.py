"""Pathwise estimators: gradients flow through reparameterised draws z_s = g(epsilon_s; phi).

Notation: B is the bound as a function of the log-weights, B_s = dB/dlog w_s and
B_ss = d^2 B/(dlog w_s)^2. The value of each surrogate is an unbiased estimate of the bound.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import bounds
from lvm_jax._core import checks
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, through
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint, log_weights, sample_and_log_prob

CHUNK = 64  # rows of the bound's Hessian in memory


def reparameterized(bound: bounds.Reduction = bounds.elbo) -> Surrogate:
    """The bound at z_s = g(epsilon_s; phi), by automatic differentiation. Any bound.

        sum_s B_s (dlog w_s/dz_s dz_s/dphi - grad_phi log q(z_s))

    Unbiased in theta and in phi wherever B is differentiable. Needs a reparameterised q; z may be
    a pytree. Source: Kingma and Welling 2014, section 2.4; for IWAE, Burda et al. 2016, section 3.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("reparameterized", "reparameterized", guide, phi, num_samples)
        return bound(log_weights(key, log_joint, q, num_samples))

    return estimate


def sticking_the_landing(bound: bounds.Reduction = bounds.elbo) -> Surrogate:
    """STL: `reparameterized` without the score term, as the parameters of log q are stopped.

        sum_s B_s dlog w_s/dz_s dz_s/dphi

    For the ELBO the score has mean 0, so STL is unbiased in phi, and it is 0 if q is the posterior.
    For other bounds it is BIASED in phi, because B_s depends on z_s (Tucker et al. 2019,
    section 3): use `doubly_reparameterized`. Unbiased in theta for every bound. Needs a
    reparameterised q; z may be a pytree. Source: Roeder et al. 2017 (the path derivative).
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("sticking_the_landing", "reparameterized", guide, phi, num_samples)
        z, log_q = sample_and_log_prob(key, q, num_samples)
        check_log_joint(log_joint, z)
        stopped_q = guide(jax.lax.stop_gradient(phi))
        weight = jax.vmap(lambda one, log_q: log_joint(one) - log_prob(stopped_q, one, log_q))
        return bound(weight(z, log_q))

    return estimate


def doubly_reparameterized(bound: bounds.Reduction = bounds.iwae) -> Surrogate:
    """DReG for any bound: the score term of `reparameterized` is reparameterised again.

        phi:    sum_s (B_s - B_ss) dlog w_s/dz_s dz_s/dphi,   parameters of log q stopped
        theta:  sum_s B_s dlog p(x, z_s)/dtheta

    because E[B_s grad_phi log q(z_s)] = E[B_ss dlog w_s/dz_s dz_s/dphi]. With the normalised
    weights v, B_s - B_ss is v^2 for IWAE, 1/S for the ELBO (which is STL) and
    alpha v + (1 - alpha) v^2 for the Renyi bound. Unbiased in theta and phi where B is twice
    differentiable (not for alpha = +-inf), and 0 in phi if q is the posterior. Costs one forward
    pass of log_joint, one backward pass each for z and theta, and O(S^2) logarithms for B_ss. Needs
    a reparameterised q; z may be a pytree. Source: Tucker et al. 2019, section 3.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("doubly_reparameterized", "reparameterized", guide, phi, num_samples)
        paths = follow(key, log_joint, guide, q, phi, num_samples)
        first, second = derivatives(bound, paths.log_weights)
        return bound(paths.log_weights) + through(first - second, paths.carriers)

    return estimate


def piwae(num_groups: int = 2) -> Surrogate:
    """PIWAE: theta by IWAE over all S weights, phi by MIWAE over `num_groups` groups of them.

        phi:    sum_s M_s (dlog w_s/dz_s dz_s/dphi - grad_phi log q(z_s)),   M = MIWAE
        theta:  sum_s v_s dlog p(x, z_s)/dtheta,                             v = w / sum w

    The value is IWAE. Unbiased in theta for IWAE. Unbiased in phi for MIWAE, so biased for IWAE.
    num_samples must be a multiple of num_groups. Needs a reparameterised q; z may be a pytree.
    Source: Rainforth et al. 2018.
    """
    grouped = bounds.miwae(num_groups)

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("piwae", "reparameterized", guide, phi, num_samples)
        paths = follow(key, log_joint, guide, q, phi, num_samples)
        slopes = jax.grad(grouped)(jax.lax.stop_gradient(paths.log_weights))
        log_q = jax.vmap(q.log_prob)(paths.z)
        return bounds.iwae(paths.log_weights) + through(slopes, paths.carriers - log_q)

    return estimate


class Paths(NamedTuple):
    """Draws and log-weights with separate gradients for theta and for phi."""

    z: Latent  # without gradients
    log_weights: Float[Array, " S"]  # with gradients in theta only
    carriers: Float[Array, " S"]  # stopped dlog w_s/dz_s . z_s, with gradients in phi through z


def follow(
    key: Key[Array, ""],
    log_joint: LogJoint,
    guide: MakeQ,
    q: Distribution,
    phi: Params,
    num_samples: int,
) -> Paths:
    """Draw from q = guide(phi) and differentiate each log-weight at its draw."""
    z, log_q = sample_and_log_prob(key, q, num_samples)
    check_log_joint(log_joint, z)
    stopped_z, stopped_q = jax.lax.stop_gradient(z), guide(jax.lax.stop_gradient(phi))
    # Derivatives at stopped draws: theta and z share one forward pass, and there is no division
    # by B_s, which may underflow.
    log_w, slopes = jax.vmap(
        jax.value_and_grad(lambda one, log_q: log_joint(one) - log_prob(stopped_q, one, log_q))
    )(stopped_z, log_q)
    moved = jax.tree.map(
        lambda slope, leaf: (jax.lax.stop_gradient(slope) * leaf).reshape(num_samples, -1).sum(1),
        slopes,
        z,
    )
    return Paths(stopped_z, log_w, sum(jax.tree.leaves(moved), jnp.zeros_like(log_w)))


def log_prob(q: Distribution, z: Latent, value: Scalar | None) -> Scalar:
    """log q(z) with the gradient of `q.log_prob` and, unless None, the value `value`.

    `value` is log q of the draw from its noise. For a nearly singular q, the rounding of z makes
    `q.log_prob` too small, and bounds exceed log p.
    """
    log_q = q.log_prob(z)
    if value is None:
        return log_q
    return jax.lax.stop_gradient(value) + (log_q - jax.lax.stop_gradient(log_q))


def derivatives(
    bound: bounds.Reduction, log_w: Float[Array, " S"]
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """B_s and B_ss at stopped log_w: the gradient and the Hessian's diagonal of the bound."""
    log_w = jax.lax.stop_gradient(log_w)
    slope = jax.grad(bound)
    indices = jnp.arange(log_w.size)

    def second(index: Array) -> Scalar:
        unit = (indices == index).astype(log_w.dtype)
        return jax.jvp(slope, (log_w,), (unit,))[1][index]

    return slope(log_w), jax.lax.map(second, indices, batch_size=min(CHUNK, log_w.size))
