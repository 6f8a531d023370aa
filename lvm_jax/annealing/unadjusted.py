"""Differentiable annealing without a Metropolis test, for bounds to train with.

Hamiltonian dynamics with partial refreshment of the momentum. The weights account for the momentum
instead of an acceptance test (Thin et al. 2021; Zhang et al. 2021; Geffner and Domke 2021).
"""

import math

import jax
import jax.numpy as jnp

from lvm_jax import weights
from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, check_temperatures
from lvm_jax.annealing.transitions import normal_like
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Key, Latent, Scalar
from lvm_jax.weights import LogJoint


def unadjusted_log_weights(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_samples: int,
    *,
    temperatures: ArrayLike,
    step_size: ArrayLike | float,
    refreshment: float = 0.1,
) -> Float[Array, " S"]:
    """Log-weights [S] of differentiable annealed chains: E[w] = p(x) for any step size, in nats.

        log w = log p(x, z_T) - log q(z_0) + sum_t log N(u_t) - log N(v_{t-1})

    with z_0 ~ q, v_0 ~ N(0, I), and for each temperature a leapfrog step (z, v_{t-1}) -> (z', u_t)
    on log f_{beta_t}, then v_t = sqrt(1 - r^2) u_t + r noise, r = sqrt(`refreshment`). Reductions
    in `bounds` give bounds on log p(x) that are usually tighter than those of q. Differentiable in
    q, the joint density, `temperatures` and `step_size` (a number or [T], in the units of z, equal
    for all coordinates). Costs one gradient of the log-joint per temperature.

    Raises ValueError for temperatures that do not rise from 0 to 1, num_samples < 1, a step size of
    another shape, or a refreshment outside (0, 1].

    Source: Zhang et al. (2021), whose gamma^2 is 1 - `refreshment`.
    """
    checks.key(key)
    temperatures = check_temperatures(temperatures)
    check_refreshment(refreshment)
    check_step_size(step_size, temperatures.shape[0] - 1)
    key_start, key_chains = jax.random.split(key)
    weights.check_log_prob(q)
    z = weights.draw(key_start, q, num_samples)
    weights.check_log_joint(log_joint, z)
    path = Path(q.log_prob, log_joint)
    # float64 temperatures would change the dtype of a float32 chain.
    betas = temperatures.astype(path.dtype(z))[1:]
    steps = jnp.broadcast_to(jnp.asarray(step_size, betas.dtype), betas.shape)
    return jax.vmap(lambda key, z: _chain(key, path, z, betas, steps, refreshment))(
        jax.random.split(key_chains, num_samples), z
    )


def check_refreshment(refreshment: float) -> None:
    """Raise ValueError for a refreshment outside (0, 1]."""
    if not 0 < checks.number(refreshment, "refreshment") <= 1:
        raise ValueError(f"refreshment: expected a share in (0, 1], got {refreshment}")


def check_step_size(step_size: ArrayLike | float, num_temperatures: int) -> None:
    """Raise ValueError for step sizes that are neither one number nor one per temperature."""
    if jnp.shape(step_size) not in ((), (num_temperatures,)):
        raise ValueError(
            f"step_size: expected one number or {num_temperatures}, one for each temperature after "
            f"the first, got shape {jnp.shape(step_size)}"
        )


def _chain(
    key: Key[Array, ""],
    path: Path,
    z: Latent,
    betas: Float[Array, " T"],
    steps: Float[Array, " T"],
    refreshment: float,
) -> Scalar:
    """The log-weight of one chain from z_0."""
    keep, renew = math.sqrt(1 - refreshment), math.sqrt(refreshment)

    def step(
        state: tuple[Latent, Latent, Scalar], now: tuple
    ) -> tuple[tuple[Latent, Latent, Scalar], None]:
        z, v, log_w = state
        index, beta, size = now
        half = jax.tree.map(lambda z, v: z + 0.5 * size * v, z, v)
        force = jax.grad(path.log_density, argnums=1)(beta, half)
        u = jax.tree.map(lambda v, f: v + size * f, v, force)
        z = jax.tree.map(lambda z, u: z + 0.5 * size * u, half, u)
        log_w = log_w + _kinetic(v) - _kinetic(u)
        noise = normal_like(jax.random.fold_in(key, index), v)
        v = jax.tree.map(lambda old, new: keep * old + renew * new, u, noise)
        return (z, v, log_w), None

    key, key_start = jax.random.split(key)
    start = (z, normal_like(key_start, z), -path.log_q(z))
    times = (jnp.arange(betas.shape[0]), betas, steps)
    (z, _, log_w), _ = jax.lax.scan(step, start, times)
    return log_w + path.log_joint(z)


def _kinetic(v: Latent) -> Scalar:
    return sum(0.5 * (leaf**2).sum() for leaf in jax.tree.leaves(v))
