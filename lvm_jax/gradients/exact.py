"""The exact gradient of a bound for phi, by a sum over all values of a finite z."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax import bounds, distributions
from lvm_jax.gradients.base import MakeQ
from lvm_jax.typing import Array, Float, Params
from lvm_jax.weights import LogJoint

MAX_TERMS = 2**18  # of the sum


def flat_like(exact: Params, phi: Params) -> Float[np.ndarray, " P"]:
    """A gradient as a flat vector; ValueError for a structure unlike phi's, or length 0."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (phi, exact)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"exact: expected a gradient with the shapes of phi, {shapes[0]}, got {shapes[1]}"
        )
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(exact)]).astype(np.float64)
    if not (np.isfinite(flat).all() and flat.any()):
        raise ValueError("exact: expected finite numbers that are not all 0, the unit of the table")
    return flat


def enumerate_gradient(
    log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int, bound: str
) -> Float[np.ndarray, " P"] | None:
    """The exact gradient by a sum over S-tuples of values of z; None if this is not possible."""
    size = 1 if bound == "elbo" else num_samples

    def expected(phi: Params) -> Array:
        q = guide(phi)
        values = distributions.support(q)
        log_q = jax.vmap(q.log_prob)(values)
        rows = distributions.digits(log_q.size, size)
        log_w = (jax.vmap(log_joint)(values) - log_q)[rows]
        mass = jnp.exp(log_q[rows].sum(1))
        each = jax.vmap(bounds.BOUNDS[bound].reduce)(log_w)
        return (mass * jnp.where(mass > 0, each, 0.0)).sum()

    try:
        values = jax.eval_shape(lambda phi: distributions.support(guide(phi)), phi)
    except ValueError:  # too many values of z
        return None
    if values is None or bound not in bounds.BOUNDS:
        return None
    if jax.tree.leaves(values)[0].shape[0] ** size > MAX_TERMS:
        return None
    gradient = jax.jit(lambda phi: ravel_pytree(jax.grad(expected)(phi))[0])
    return np.asarray(gradient(phi), np.float64)
