"""Draws of the posterior from weighted draws of q."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import diagnostics, weights
from lvm_jax._core import checks
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar
from lvm_jax.weights import LogJoint


class Resampled(NamedTuple):
    """Equally weighted draws, of which some repeat, and the weights that chose them."""

    z: Latent  # leaves [M, ...]
    log_weights: Float[Array, " S"]  # smoothed and normalised, of the draws of q
    k_hat: Scalar  # above 0.7 the draws are not to be trusted
    ess: Scalar  # effective number of the S draws


def resample(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_samples: int,
    num_draws: int | None = None,
) -> Resampled:
    """M draws of p(z | x) from S draws of q, by Pareto-smoothed importance resampling.

        w_s = p(x, z_s) / q(z_s),    z*_m = z_s with probability w~_s / sum_s w~_s

    with w~ the smoothed weights of `diagnostics.psis`; M is S unless `num_draws` is given. They are
    chosen with replacement by systematic resampling: a draw of weight v appears floor(v M) or
    ceil(v M) times. As S grows they are draws of the posterior; for one S their bias is of order
    1 / S, and errors of means over them follow from `ess`, not from M. Unjitted; one data point.

    `arviz.from_dict` takes `jax.tree.map(lambda leaf: leaf[None], found.z)`, one chain.

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
