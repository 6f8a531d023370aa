"""q as the start of a BlackJAX run of NUTS."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.typing import Array, Float, Key, Latent
from lvm_jax.vi.result import VariationalFit

NUM_DRAWS = 10_000  # of a q without a closed-form covariance


class NutsStart(NamedTuple):
    """Initial positions and the inverse mass matrix of a Hamiltonian sampler."""

    position: Latent  # leaves [num_chains, ...]
    inverse_mass_matrix: Float[Array, "D D"]


def nuts_start(key: Key[Array, ""], fit: VariationalFit, num_chains: int) -> NutsStart:
    """Independent draws of q as initial positions, and the covariance of q.

    `blackjax.nuts(log_density, step_size, start.inverse_mass_matrix)` takes the covariance. The
    step size, for this matrix, is that of a warm-up of at least 150 steps (the last 50 adapt it):

        warmup = blackjax.window_adaptation(
            blackjax.nuts, log_density, is_mass_matrix_diagonal=False,
            initial_inverse_mass_matrix=start.inverse_mass_matrix, imm_shrinkage_to_previous=1e9,
        )
        (state, parameters), _ = warmup.run(key, position_of_one_chain, 150)

    The covariance is exact for Gaussian q, otherwise that of 10,000 draws. NUTS has the right
    stationary distribution for any q; q changes its cost. This start saves most for a correlated
    posterior that is nearly Gaussian. Raises ValueError for num_chains < 1.
    """
    if not isinstance(fit, VariationalFit):
        raise TypeError(f"fit: expected the result of vi.fit, got a {type(fit).__name__}")
    key_position, key_draws = jax.random.split(checks.key(key))
    num_chains = checks.integer(num_chains, "num_chains", 1)
    position = fit.q.sample(seed=key_position, sample_shape=(num_chains,))
    parts = distributions.gaussian_parts(fit.q.flat)
    if parts is not None:
        return NutsStart(position, parts[1] @ parts[1].T)
    u = fit.q.flat.sample(seed=key_draws, sample_shape=(NUM_DRAWS,))
    return NutsStart(position, jnp.atleast_2d(jnp.cov(u, rowvar=False)))
