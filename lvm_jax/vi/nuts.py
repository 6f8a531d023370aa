"""q as the start of a BlackJAX run of NUTS."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax.typing import Array, Float, Key, Latent
from lvm_jax.vi.constraints import Constrained, Constraint, Unconstrained
from lvm_jax.vi.density import LogDensity
from lvm_jax.vi.result import VariationalFit

NUM_DRAWS = 10_000  # of a q without a closed-form covariance


class NutsStart(NamedTuple):
    """Initial positions and the inverse mass matrix of a Hamiltonian sampler."""

    position: Latent  # unconstrained, leaves [num_chains, ...]
    inverse_mass_matrix: Float[Array, "D D"]
    log_density: LogDensity  # of one position, with the log-Jacobian of `constrain`
    constrain: Callable[[Latent], Latent]  # one position -> z; the same without a constraint


def nuts_start(key: Key[Array, ""], fit: VariationalFit, num_chains: int) -> NutsStart:
    """Independent draws of q as initial positions, and the covariance of q.

    `blackjax.nuts(start.log_density, step_size, start.inverse_mass_matrix)` takes the covariance.
    The step size, for this matrix, is that of a warm-up of 150 steps or more:

        warmup = blackjax.window_adaptation(
            blackjax.nuts, start.log_density, is_mass_matrix_diagonal=False,
            initial_inverse_mass_matrix=start.inverse_mass_matrix, imm_shrinkage_to_previous=1e9,
        )
        (state, parameters), _ = warmup.run(key, position_of_one_chain, 150)

    The covariance is exact for Gaussian q, otherwise that of 10,000 draws. NUTS has the right
    stationary distribution for any q; q changes its cost. This start saves most for a correlated
    posterior that is nearly Gaussian. Raises ValueError for num_chains < 1.
    """
    if not isinstance(fit, VariationalFit):
        raise TypeError(f"fit: expected the result of vi.fit, got a {type(fit).__name__}")
    key_position, key_draws = split(checks.key(key))
    num_chains = checks.integer(num_chains, "num_chains", 1)
    log_density: LogDensity = fit.log_density
    constrain: Callable[[Latent], Latent] = _unchanged
    if isinstance(fit.q, Constrained):
        log_density = Unconstrained(log_density, fit.q.constraint)
        constrain = partial(_constrained, fit.q.constraint)
    q = fit.q.base if isinstance(fit.q, Constrained) else fit.q
    position = q.sample(seed=key_position, sample_shape=(num_chains,))
    parts = distributions.gaussian_parts(q.flat)
    if parts is None:
        u = q.flat.sample(seed=key_draws, sample_shape=(NUM_DRAWS,))
        covariance = jnp.atleast_2d(jnp.cov(u, rowvar=False))
    else:
        covariance = parts[1] @ parts[1].T
    return NutsStart(position, covariance, log_density, constrain)


def _unchanged(z: Latent) -> Latent:
    return z


def _constrained(constraint: Constraint, u: Latent) -> Latent:
    return constraint.forward(u)[0]
