"""Simulation-based calibration of fits: ranks of the true z among draws, over simulated data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax.decomposition.calibration import EXPECTED, Calibration, rank, summarize
from lvm_jax.typing import Array, Distribution, Key, Latent
from lvm_jax.vi.result import VariationalFit


def simulation_check(
    key: Key[Array, ""],
    prior: Distribution,
    simulate: Callable[[Key[Array, ""], Latent], Any],
    fit: Callable[[Key[Array, ""], Any], VariationalFit],
    num_simulations: int = 100,
    num_draws: int = 99,
    *,
    num_bins: int = 10,
) -> Calibration:
    """Ranks of z* among L = `num_draws` draws of the q of `fit(key, x)`, for M simulated pairs.

        z* ~ prior,  x = simulate(key, z*),  z_l ~ q:    rank = #{l: z_l < z*}, by coordinate

    The rank is uniform on 0, ..., L if q is the posterior; see `decomposition.calibrate` for the
    fields: chi-square and p-value by coordinate, mean and spread of the ranks. `fit` returns a
    `VariationalFit`, such as

        lambda key, x: vi.fit(key, log_likelihood, start, log_prior=prior.log_prob, data=x)

    whose z has the structure of the prior's draws. One fit follows another on the host; the draws
    are those of q, not of `resample`. Simulation i uses fold_in(key, i).

    Raises ValueError if L + 1 is not a multiple of B = `num_bins` or M < 5 B, or for a z of another
    structure; TypeError for a prior that is no distribution.

    Source: Talts et al. (2018), theorem 1 and algorithm 1.
    """
    checks.key(key)
    prior = checks.distribution(prior, "prior")
    num_bins = checks.integer(num_bins, "num_bins", 2)
    num_draws = checks.integer(num_draws, "num_draws", 1)
    num_simulations = checks.integer(num_simulations, "num_simulations", EXPECTED * num_bins)
    if (num_draws + 1) % num_bins:
        raise ValueError(
            f"num_draws: expected one less than a multiple of num_bins = {num_bins}, so that bins "
            f"hold equally many ranks, got {num_draws}"
        )
    rows = [
        _ranks(jax.random.fold_in(key, index), prior, simulate, fit, num_draws)
        for index in range(num_simulations)
    ]
    ranks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    leaves, structure = jax.tree.flatten(ranks)
    each = zip(*(summarize(leaf, num_draws, num_bins) for leaf in leaves), strict=True)
    return Calibration(ranks, *(jax.tree.unflatten(structure, part) for part in each))


def _ranks(
    key: Key[Array, ""], prior: Distribution, simulate: Callable, fit: Callable, num_draws: int
) -> Latent:
    """The ranks of one simulation, in the structure of z."""
    key_z, key_x, key_fit, key_draws, key_ties = split(key, 5)
    truth = prior.sample(seed=key_z)
    draws = fit(key_fit, simulate(key_x, truth)).q.sample(seed=key_draws, sample_shape=(num_draws,))
    expected: Any = jax.tree.structure(truth)
    found = jax.tree.structure(draws)
    if expected != found:
        raise ValueError(f"fit: expected a z of the prior's structure, {expected}, got {found}")
    keys = jax.random.split(key_ties, expected.num_leaves)
    return jax.tree.map(rank, jax.tree.unflatten(expected, list(keys)), truth, draws)
