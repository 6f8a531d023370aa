"""Whether p(z | x) has a tail beyond q, from draws that are stretched about their mean."""

import math

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from lvm_jax import precision
from lvm_jax.annealing.path import Path
from lvm_jax.typing import Array, Bool, Float, Latent, Scalar

STRETCHES = (0.7, 1.4, 2.8)  # relative to the standard deviations of a normal, / sqrt(D)
LONGER = 2.0  # nats
STRETCHED = 256  # most draws that are stretched
EVALUATIONS = 1 + len(STRETCHES)  # of p(x, z) and of q, for each draw


def dimension(z: Latent) -> int:
    """The numbers in one of the draws z [S, ...]."""
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(z))


@precision.full
def long_tail(
    path: Path, z: Latent, log_w: Float[Array, " S"], continuous: bool
) -> Bool[Array, ""]:
    """Whether p(z | x) has mass beyond q that draws z [S, ...] of it with log-weights hardly reach.

    With the mean m of the draws and a factor c > 1, the points m + c (z_s - m) with weights
    w_s c^D p(x, m + c (z_s - m)) / p(x, z_s) are draws of p(z | x) too, by a change of variables,
    and they reach further. True if log E[p(x, z) / q(z) | x], the logarithm of the second moment of
    the weights of importance sampling from q, is larger by more than 2 nats from the stretched
    draws than from the draws, for a c of 1 + (0.7, 1.4, 2.8) / sqrt(D). Points off the support have
    no weight. At most 256 draws are stretched. False unless z is `continuous`.
    """
    if not continuous:
        return jnp.zeros((), bool)
    every = -(-log_w.size // STRETCHED)
    z, log_w = jax.tree.map(lambda leaf: leaf[::every], z), log_w[::every]
    dim = dimension(z)
    share = jax.nn.softmax(log_w)
    centre = jax.tree.map(lambda leaf: jnp.tensordot(share.astype(leaf.dtype), leaf, 1), z)

    def densities(stretch: Scalar) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
        factor = 1 + stretch / dim**0.5
        there = jax.tree.map(lambda leaf, m: m[None] + factor * (leaf - m[None]), z, centre)
        return jax.vmap(path.log_joint)(there), jax.vmap(path.log_q)(there)

    log_p, log_q = jax.lax.map(densities, jnp.array((0.0, *STRETCHES), log_w.dtype))
    ratio, log_v = log_p - log_q, log_w[None] + log_p - log_p[:1]
    off = jnp.isneginf(log_p) | jnp.isnan(ratio + log_v)
    ratio, log_v = jnp.where(off, 0.0, ratio), jnp.where(off, -jnp.inf, log_v)
    moments = logsumexp(log_v + ratio, axis=1) - logsumexp(log_v, axis=1)
    return (moments[1:] - moments[0] > LONGER).any()
