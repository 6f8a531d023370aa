"""Pathwise estimators: gradients flow through reparameterised draws z_s = g(epsilon_s; phi).

Notation: B is the bound as a function of the log-weights, B_s = dB/dlog w_s and
B_ss = d^2 B/(dlog w_s)^2. All of them estimate the bound itself without bias.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import bounds
from lvm_jax._core import checks
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, through
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint, log_weights, sample_and_log_prob

CHUNK = 64  # rows of the bound's Hessian held at once


def reparameterized(bound: bounds.Reduction = bounds.elbo) -> Surrogate:
    """The bound at z_s = g(epsilon_s; phi), differentiated as it stands. Any bound.

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
    """STL: `reparameterized` with the parameters of log q stopped, so that the score is left out.

        sum_s B_s dlog w_s/dz_s dz_s/dphi

    The score has mean zero under the ELBO: unbiased in phi there, and exactly 0 where q is the
    posterior. Under any other bound B_s depends on z_s and phi's gradient is BIASED (Tucker et al.
    2019, section 3): take `doubly_reparameterized`. Unbiased in theta for every bound. Needs a
    reparameterised q; z may be a pytree. Source: Roeder et al. 2017 (the path derivative).
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("sticking_the_landing", "reparameterized", guide, phi, num_samples)
        z, own = sample_and_log_prob(key, q, num_samples)
        check_log_joint(log_joint, z)
        still = guide(jax.lax.stop_gradient(phi))
        weight = jax.vmap(lambda one, price: log_joint(one) - log_prob(still, one, price))
        return bound(weight(z, own))

    return estimate


def doubly_reparameterized(bound: bounds.Reduction = bounds.iwae) -> Surrogate:
    """DReG for any bound: the score term of `reparameterized` is reparameterised once more.

        phi:    sum_s (B_s - B_ss) dlog w_s/dz_s dz_s/dphi,   parameters of log q stopped
        theta:  sum_s B_s dlog p(x, z_s)/dtheta

    For E[B_s grad_phi log q(z_s)] = E[B_ss dlog w_s/dz_s dz_s/dphi]. With v the normalised weights
    B_s - B_ss is v^2 for IWAE, 1/S for the ELBO (that is STL) and alpha v + (1 - alpha) v^2 for
    Renyi's. Unbiased in theta and phi where B is twice differentiable (so not for Renyi's
    alpha = +-inf), and 0 in phi where q is the posterior. One pass forward through log_joint, and
    one back for each of z and theta; the diagonal B_ss costs O(S^2) logarithms. Needs a
    reparameterised q; z may be a pytree. Source: Tucker et al. 2019, section 3.
    """

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q("doubly_reparameterized", "reparameterized", guide, phi, num_samples)
        paths = follow(key, log_joint, guide, q, phi, num_samples)
        first, second = derivatives(bound, paths.log_weights)
        return bound(paths.log_weights) + through(first - second, paths.travel)

    return estimate


def piwae(num_groups: int = 2) -> Surrogate:
    """PIWAE: theta by IWAE over all S weights, phi by MIWAE over `num_groups` groups of them.

        phi:    sum_s M_s (dlog w_s/dz_s dz_s/dphi - grad_phi log q(z_s)),   M = MIWAE
        theta:  sum_s v_s dlog p(x, z_s)/dtheta,                             v = w / sum w

    The value is IWAE's. Unbiased in theta for IWAE; in phi unbiased for MIWAE, so biased for
    IWAE. num_samples must be a multiple of num_groups. Needs a reparameterised q; z may be a
    pytree. Source: Rainforth et al. 2018.
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
        return bounds.iwae(paths.log_weights) + through(slopes, paths.travel - log_q)

    return estimate


class Paths(NamedTuple):
    """Draws whose three ways to carry a gradient are kept apart."""

    z: Latent  # carries nothing
    log_weights: Float[Array, " S"]  # carries theta only
    travel: Float[Array, " S"]  # dlog w_s/dz_s . z_s, slopes stopped: carries phi through z only


def follow(
    key: Key[Array, ""],
    log_joint: LogJoint,
    guide: MakeQ,
    q: Distribution,
    phi: Params,
    num_samples: int,
) -> Paths:
    """Draw from q = guide(phi) and take the slope of every log-weight at its draw."""
    z, own = sample_and_log_prob(key, q, num_samples)
    check_log_joint(log_joint, z)
    still_z, still_q = jax.lax.stop_gradient(z), guide(jax.lax.stop_gradient(phi))
    # Slopes at fixed draws: theta's backward pass and z's share one forward pass, and nothing has
    # to be divided by B_s, which may underflow.
    log_w, slopes = jax.vmap(
        jax.value_and_grad(lambda one, price: log_joint(one) - log_prob(still_q, one, price))
    )(still_z, own)
    moved = jax.tree.map(
        lambda slope, leaf: (jax.lax.stop_gradient(slope) * leaf).reshape(num_samples, -1).sum(1),
        slopes,
        z,
    )
    return Paths(still_z, log_w, sum(jax.tree.leaves(moved), jnp.zeros_like(log_w)))


def log_prob(q: Distribution, z: Latent, price: Scalar | None) -> Scalar:
    """log q(z) with its slope, at the draw's own price where it has one.

    A bound by log q(z) exceeds log p by what rounding z does to it in a q that is all but singular.
    """
    log_q = q.log_prob(z)
    if price is None:
        return log_q
    return jax.lax.stop_gradient(price) + (log_q - jax.lax.stop_gradient(log_q))


def derivatives(
    bound: bounds.Reduction, log_w: Float[Array, " S"]
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """B_s and B_ss at numbers log_w: the gradient and the diagonal of the Hessian of the bound."""
    log_w = jax.lax.stop_gradient(log_w)
    slope = jax.grad(bound)
    places = jnp.arange(log_w.size)

    def second(place: Array) -> Scalar:
        unit = (places == place).astype(log_w.dtype)
        return jax.jvp(slope, (log_w,), (unit,))[1][place]

    return slope(log_w), jax.lax.map(second, places, batch_size=min(CHUNK, log_w.size))
