"""Laplace's approximation: a normal that matches log p(x, z) to second order at a mode."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.guides.newton import maximize
from lvm_jax.typing import Array, Bool, Float, Int, Key, Latent, Scalar

NEAR = 0.01  # tolerance of `found`, in standard deviations


class Laplace(NamedTuple):
    """N(mode, (C C^T)^-1) of a pytree z with D numbers in total."""

    mode: Latent
    factor: Float[Array, "D D"]  # C, lower; NaN where the curvature is not positive definite
    num_evaluations: Int[Array, ""]  # of log p(x, z) with its gradient
    distance: Scalar  # to the maximum of the quadratic at the mode, in standard deviations

    @property
    def found(self) -> Bool[Array, ""]:
        """Whether the mode is a maximum, to NEAR standard deviations, with a proper normal."""
        proper = jnp.isfinite(self.factor).all() & (jnp.diagonal(self.factor) > 0).all()
        return proper & jnp.isfinite(ravel_pytree(self.mode)[0]).all() & (self.distance < NEAR)

    @precision.full
    def log_prob(self, value: Latent) -> Scalar:
        """Log-density of one z, in nats."""
        away = ravel_pytree(value)[0] - ravel_pytree(self.mode)[0]
        log_det = jnp.log(jnp.diagonal(self.factor)).sum()
        return log_det - 0.5 * (((away @ self.factor) ** 2).sum() + away.size * LOG_2PI)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """mode + C^-T epsilon, leaves [*sample_shape, ...]."""
        mode, unravel = ravel_pytree(self.mode)
        noise = jax.random.normal(seed, (*sample_shape, mode.size), mode.dtype)
        flat = noise.reshape(-1, mode.size).T
        away = solve_triangular(self.factor, flat, trans=1, lower=True).T
        z = jax.vmap(unravel)(mode[None] + away)
        return jax.tree.map(lambda leaf: leaf.reshape(*sample_shape, *leaf.shape[1:]), z)


@precision.full
def laplace(log_joint: Callable[[Latent], Scalar], start: Latent, *, widen: float = 1.0) -> Laplace:
    """The normal at the mode of log p(x, z) that is found uphill from `start`, of ONE data point.

        z* = argmax_z log p(x, z),    q(z) = N(z*, widen^2 H^-1),    H = -d^2 log p(x, z*) / dz dz^T

    `start` is a z of floats. The search takes at most 100 damped Newton steps with the exact H,
    scaled by its diagonal; each step costs D + 1 evaluations. log p(x, z*) >= log p(x, start) up to
    rounding. `factor` is NaN where H is not positive definite, such as at a saddle. `found` is
    False there, and where z* is more than 0.01 standard deviations from the maximum of the local
    quadratic. `widen` > 1 gives wider tails for importance sampling. Call it under jit and vmap.

    Raises ValueError for widen <= 0, and TypeError for a start that is not of floats.

    Source: Laplace (1774); Tierney and Kadane (1986).
    """
    if not checks.number(widen, "widen") > 0:
        raise ValueError(f"widen: expected a number > 0, got {widen}")
    leaves = jax.tree.leaves(start)
    if not all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves):
        raise TypeError("start: expected a z of floats, as the approximation differentiates in z")
    flat, unravel = ravel_pytree(start)

    top = maximize(lambda u: log_joint(unravel(u)), flat)
    factor = factor_of(top.curvature) / widen
    return Laplace(unravel(top.u), factor, top.num_steps * (flat.size + 1), top.distance)


def factor_of(curvature: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """C, lower, with C C^T = `curvature`; NaN where that is not positive definite."""
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(curvature)))
    scaled = curvature / jnp.outer(scale, scale)  # independent of the units of z
    factor: Array = scale[:, None] * jnp.linalg.cholesky(scaled)
    return factor
