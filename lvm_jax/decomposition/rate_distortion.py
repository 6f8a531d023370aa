"""Rate and distortion of the code z of each data point.

    rate R = KL(q(z | x) || p(z)),    distortion D = -E_q[log p(x | z)],    R + D = -ELBO

The q with the least R + beta D is p_beta(z) = p(z) p(x | z)^beta / Z_beta, for which

    R(beta) = -beta D(beta) - log Z_beta,    dR/dD = -beta

At beta = 1 it is the posterior, and R + D = -log p(x). No guide is below the curve.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from lvm_jax import annealing, distributions, precision, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, costly_batch_size, for_points, num_rows
from lvm_jax._core.inputs import check_problem
from lvm_jax._core.moments import moments
from lvm_jax.annealing.path import make_path
from lvm_jax.compiling import bucket
from lvm_jax.decomposition.aggregate import draws_and_log_q
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.typing import (
    Array,
    ArrayLike,
    ConditionalDensity,
    Float,
    Generative,
    Key,
    Latent,
    Scalar,
)


class Channel(NamedTuple):
    """Rate and distortion of a guide at every point, [N], in nats."""

    rate: Estimate
    distortion: Estimate


class RateDistortion(NamedTuple):
    """The curve of every point at T + 1 betas, in nats."""

    betas: Float[Array, " T1"]
    rate: Estimate  # [N, T + 1]
    distortion: Estimate  # [N, T + 1]
    log_normalizer: Estimate  # log Z_beta, [N, T + 1]; at beta = 1 log p(x)
    ess: Float[Array, "N T1"]  # of the chains' weights, between 1 and C
    acceptance: Float[Array, "N T"]  # of the moves at each beta but the first


def channel(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    num_samples: int = 1_000,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> Channel:
    """R and D of the guide for every point of x [N, ...] from S draws, in nats.

    The rate is exact if the KL to the prior has a closed form. Point i uses fold_in(key, i).
    Raises as `evidence.evaluate`. Source: Alemi et al. (2018).
    """
    checks.host("decomposition.channel", "decomposition.decompose", key, p, q, x)
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 2)
    x = check_problem(p, q, x)
    together = batch_size(chunk_size, num_samples, bucket(num_rows(x)))
    points = np.arange(num_rows(x)), x
    return for_points(_channel, (num_samples,), key, (p, q), points, together)


@precision.full_by_default
def _channel(
    key: Key[Array, ""], p: Generative, q: ConditionalDensity, x: Any, num_samples: int
) -> Channel:
    at_x, prior = q(x), p.prior(x)
    z, log_q = draws_and_log_q(key, at_x, num_samples)
    losses = -jax.vmap(lambda one: p.log_likelihood(one, x))(z)
    kl = distributions.kl_divergence(at_x, prior)
    log_ratio = log_q - jax.vmap(prior.log_prob)(z)
    rate = Estimate.of_draws(log_ratio) if kl is None else Estimate.exact(kl)
    return Channel(rate, Estimate.of_draws(losses))


def rate_distortion(
    key: Key[Array, ""],
    p: Generative,
    x: Any,
    num_chains: int,
    *,
    betas: ArrayLike,
    transition: annealing.Transition | None = None,
    num_pilot: int = 8,
    chunk_size: int = CHUNK_SIZE // 2,
) -> RateDistortion:
    """R(beta) and D(beta) of every point of x [N, ...], by one run of annealed chains along beta.

        log w_t = sum_{s <= t} (beta_s - beta_{s-1}) log p(x | z_{s-1}),    z_0 ~ p(z)
        log Z_t = log (1/C) sum_c w_tc,    D_t = -sum_c w_tc log p(x | z_tc) / sum_c w_tc

    A kernel that leaves p(z) p(x | z)^beta_t invariant moves z_{t-1} to z_t, and
    R_t = -beta_t D_t - log Z_t. Each beta gives one point of the curve. `betas` rise from 0 to the
    last of interest, above 1 for codes with less distortion than the posterior's. Use many more
    betas than the table needs.

    w_t is unbiased for Z_t, so log Z_t is low in expectation and R_t high: with D_t exact, an upper
    bound of the rate. D_t is a ratio with bias O(1 / C); see `ess`. Standard errors are over the C
    chains, to first order. A pilot of `num_pilot` other chains sets the step sizes, as in
    `evidence.annealed`; a discrete z needs `annealing.gibbs` or `flip`, with num_pilot = 0.

    Point i uses fold_in(key, i). `rate.average()` is the mean over points for each beta.

    Raises ValueError for num_chains < 2, betas that do not rise from 0, or an x that does not fit;
    TypeError for continuous moves on a discrete z.

    Source: Huang et al. (2020).
    """
    checks.host("decomposition.rate_distortion", "annealing.trail", key, p, x)
    checks.key(key)
    num_chains = checks.integer(num_chains, "num_chains", 2)
    num_pilot = checks.integer(num_pilot, "num_pilot", 0)
    betas = _check_betas(betas)
    x = check_problem(p, None, x)
    transition = annealing.hmc() if transition is None else transition
    cost = num_chains * (betas.size - 1) * transition.cost
    together = costly_batch_size(chunk_size, num_chains, num_rows(x), cost)
    static, points = (num_chains, transition, num_pilot), (np.arange(num_rows(x)), x)
    return for_points(_curve, static, key, (p, betas), points, together)._replace(betas=betas)


def _check_betas(betas: ArrayLike) -> Float[Array, " T1"]:
    values = np.asarray(checks.float_array(betas, "betas"))
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"betas: expected [T + 1] numbers with T >= 1, got shape {values.shape}")
    checks.finite(values, "betas")
    if values[0] != 0 or not (np.diff(values) > 0).all():
        raise ValueError(f"betas: expected to start at 0 and to rise at every step, got {values}")
    return jnp.asarray(values)


@precision.full_by_default
def _curve(
    key: Key[Array, ""],
    p: Generative,
    betas: Float[Array, " T1"],
    x: Any,
    num_chains: int,
    transition: annealing.Transition,
    num_pilot: int,
) -> RateDistortion:
    last, prior = betas[-1], p.prior(x)
    keys = jax.random.split(key, 3)

    def joint(z: Latent) -> Scalar:  # the path ends at the last beta, not at 1
        return prior.log_prob(z) + last * p.log_likelihood(z, x)

    z = weights.draw(keys[0], prior, num_chains)
    path = make_path(joint, prior, z, transition.continuous)
    plan = annealing.Plan(betas / last, transition, num_pilot, adaptive=False)
    schedule = plan.prepare(keys[1], path, prior, z)
    found = jax.vmap(lambda key, z: annealing.trail(key, path, z, schedule, transition))(
        jax.random.split(keys[2], num_chains), z
    )
    log_w, log_likelihood = found.log_weights, found.log_ratios / last
    at = jax.vmap(_at_beta, in_axes=(1, 1, 0))(log_w, log_likelihood, betas.astype(log_w.dtype))
    return RateDistortion(betas, *at, found.acceptance.mean(0))


def _at_beta(
    log_w: Float[Array, " C"], log_likelihood: Float[Array, " C"], beta: float | Scalar
) -> tuple[Estimate, Estimate, Estimate, Scalar]:
    """Rate, distortion and log Z at one beta, and the ESS, from C chains."""
    num = log_w.shape[0]
    log_z = logsumexp(log_w) - jnp.log(float(num))
    w = jnp.exp(log_w - log_z)  # of mean 1
    # A draw of weight 0 does not count; its log-likelihood may be -inf.
    losses = jnp.where(w > 0, -log_likelihood, 0.0)
    distortion = (w * losses).mean()
    # To first order a chain changes D by w (d - D) / C and log Z by (w - 1) / C.
    influence = w * (losses - distortion)
    zero = beta == 0
    rate = jnp.where(zero, 0.0, -beta * distortion - log_z)
    of_rate = jnp.where(zero, 0.0, -beta * influence - (w - 1))
    error = lambda values: jnp.sqrt(moments(values).variance / num)  # noqa: E731
    ess = jnp.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w))
    return (
        Estimate(rate, error(of_rate)),
        Estimate(distortion, error(influence)),
        Estimate(log_z, error(w)),
        ess,
    )
