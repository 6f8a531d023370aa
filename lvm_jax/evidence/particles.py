"""Resampling of chains in runs of sequential Monte Carlo, some of which run in one program."""

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, Bool, Float, Int, Key

PARTICLES = 8  # chains of a run
POOR = 0.5  # effective number of particles, relative to all, below which they are resampled


def means(log_w: Float[Array, " C"]) -> Float[Array, "R 1"]:
    """The log of the mean weight of each run of PARTICLES chains."""
    mean = jax.nn.logsumexp(log_w.reshape(-1, PARTICLES), axis=1, keepdims=True)
    return mean - jnp.log(jnp.asarray(PARTICLES, log_w.dtype))


def resample(
    resamples: Bool[Array, ""], key: Key[Array, ""], log_w: Float[Array, " C"]
) -> tuple[Int[Array, " C"], Float[Array, " C"]]:
    """Rows of the chains after systematic resampling within runs whose weights are unequal.

    All chains of such a run then have its mean weight, so that the mean of all weights is
    unbiased for p(x) in each run.
    """
    from blackjax.smc.resampling import systematic

    mean = means(log_w)
    share = jnp.exp(log_w.reshape(-1, PARTICLES) - mean) / PARTICLES
    poor = resamples & ((share**2).sum(1, keepdims=True) > 1 / (POOR * PARTICLES))
    poor &= jnp.isfinite(mean)
    own = jnp.arange(PARTICLES)[None]
    keys = jax.random.split(key, len(mean))
    picked = jax.vmap(lambda key, one: systematic(key, one, PARTICLES))(keys, share)
    rows = jnp.arange(len(mean))[:, None] * PARTICLES + jnp.where(poor, picked, own)
    kept = jnp.where(poor, mean, log_w.reshape(-1, PARTICLES))
    return rows.ravel(), kept.ravel()
