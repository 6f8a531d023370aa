"""Posterior draws by importance resampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import diagnostics, weights
from lvm_jax._core import checks
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar
from lvm_jax.weights import LogJoint


class Resampled(NamedTuple):
    """M equally weighted draws with repetitions, and the S weights of the draws of q."""

    z: Latent  # leaves [M, ...]
    log_weights: Float[Array, " S"]  # smoothed and normalised
    k_hat: Scalar  # above 0.7 the draws cannot be trusted
    ess: Scalar  # effective sample size of the S draws


def resample(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_samples: int,
    num_draws: int | None = None,
) -> Resampled:
    """M draws of p(z | x) from S draws of q, by Pareto-smoothed importance resampling.

        w_s = p(x, z_s) / q(z_s),    z*_m = z_s with probability w~_s / sum_s w~_s

    with w~ the smoothed weights of `diagnostics.psis`; M = S by default. Systematic resampling
    repeats a draw of weight v floor(v M) or ceil(v M) times. The bias is of order 1 / S. The errors
    of means over the draws follow from `ess`, not from M. Unjitted; for one data point.

    For ArviZ: `arviz.from_dict({"posterior": jax.tree.map(lambda leaf: leaf[None], found.z)})`.

    Raises ValueError for num_samples or num_draws < 1, or a log-joint that does not fit q.

    Source: Rubin (1988), sampling/importance resampling; Vehtari et al. (2024).
    """
    checks.key(key)
    from blackjax.smc.resampling import systematic

    key_q, key_pick = jax.random.split(key)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    num_draws = num_samples if num_draws is None else checks.integer(num_draws, "num_draws", 1)
    found = weights.weigh(key_q, log_joint, q, num_samples)
    smoothed = diagnostics.psis(found.log_weights)
    probability = jnp.exp(smoothed.log_weights)
    rows = systematic(key_pick, probability, num_draws)
    return Resampled(
        jax.tree.map(lambda leaf: leaf[rows], found.z),
        smoothed.log_weights,
        smoothed.k_hat,
        1 / (probability**2).sum(),
    )
