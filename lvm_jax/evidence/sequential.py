"""log p(x) by sequential Monte Carlo: annealed particles with resampling."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from lvm_jax import annealing, weights
from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, Place, make_path
from lvm_jax.evidence.importance import from_log_weights
from lvm_jax.evidence.missed import SCOUTS, Scouted, check_ends, check_missed, check_prior, scout
from lvm_jax.evidence.result import Check, Evidence, bit, check_chains, check_runs
from lvm_jax.evidence.stretching import long_tail
from lvm_jax.typing import Array, Bool, Distribution, Float, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

RESAMPLING = ("systematic", "stratified", "multinomial")

Resample = Callable[[Key[Array, ""], Array, int], Array]


class Sequential(NamedTuple):
    """The evidence of R independent runs of S particles, and their diagnostics."""

    evidence: Evidence  # num_samples is the number of runs, each one weight
    log_evidences: Float[Array, " R"]
    z: Latent  # the particles at the end, leaves [R, S, ...]
    log_weights: Float[Array, "R S"]  # of the particles, normalised in each run
    ess: Float[Array, "R T"]  # of the particles before resampling
    resampled: Bool[Array, "R T"]
    acceptance: Float[Array, " T"]
    schedule: annealing.Schedule
    scouted: Scouted | None  # the second estimate, which checks the first; None without


class _Cloud(NamedTuple):
    places: Place  # leaves [S, ...]
    log_w: Float[Array, " S"]  # normalised
    log_evidence: Scalar


def sequential(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_particles: int,
    plan: annealing.Plan,
    *,
    num_runs: int = 8,
    threshold: float = 0.5,
    resampling: str = "systematic",
    num_scouts: int = SCOUTS,
    prior: Distribution | None = None,
) -> Sequential:
    """log p(x) by R runs of S annealed particles with resampling, of ONE data point, in nats.

        Z_r = prod_t sum_s W_s^{t-1} (p(x, z_s) / q(z_s))^(beta_t - beta_{t-1}),   (1/R) sum_r Z_r

    with W the normalised weights, equal after a resampling. Particles are resampled when their
    effective sample size is below `threshold` S (0: never, as `annealed`; 1: always). Each Z_r is
    unbiased for p(x) (Del Moral 2004); their spread gives the standard error. The plan is as for
    `annealed`. Resampling by blackjax: systematic, stratified or multinomial.

    SPREAD fails where the particles' own estimate of the variance of Z_r / p(x),

        v_r = sum_t (S / ESS_t - 1) / (S - 1)    over the resamplings and the end,

    has a mean over the runs above log(R^(1/3) / 1.3), or above that of 8 runs, 0.656^2, if R is
    larger; or where the standard deviation of log Z_r exceeds twice the root of this limit. The
    spread of the runs alone would select runs that agree by chance, whose intervals are too short.
    ESS is not applied. The standard error is at least that of the mean of v_r. A single particle is
    a chain: its checks are those of `annealed`. The search by `num_scouts` and `prior` and its
    checks are those of `annealed`, and so is STUCK, in which all particles count equally: the
    weights since the last resampling would hide those that do not move. TAIL does not need the
    search here: resampling hides the spread of the weights in a tail that few particles reach.

    Raises ValueError for num_particles or num_runs < 1, a threshold outside [0, 1], another
    resampling, and as `annealed`.

    Source: Del Moral, Doucet and Jasra (2006).
    """
    checks.key(key)
    checks.integer(num_particles, "num_particles", 1)
    checks.integer(num_runs, "num_runs", 1)
    if not 0 <= checks.number(threshold, "threshold") <= 1:
        raise ValueError(f"threshold: expected a share in [0, 1], got {threshold}")
    checks.choice(resampling, "resampling", RESAMPLING)
    num_scouts, transition = checks.integer(num_scouts, "num_scouts", 0), plan.transition
    key_pilot, key_start, key_runs, key_scouts = jax.random.split(key, 4)
    z = weights.draw(key_start, q, num_runs * num_particles)
    check_prior(prior, z)
    path = make_path(log_joint, q, z, transition.continuous)
    schedule = plan.prepare(key_pilot, path, q, z)
    clouds = jax.tree.map(lambda leaf: leaf.reshape(num_runs, num_particles, *leaf.shape[1:]), z)

    def one(key: Key[Array, ""], z: Latent) -> tuple[_Cloud, tuple]:
        return run(key, path, z, schedule, transition, threshold, _resampler(resampling))

    ends, (ess, resampled, accepted) = jax.vmap(one)(jax.random.split(key_runs, num_runs), clouds)
    log_z, accepted = ends.log_evidence, accepted.mean(0)
    found, tuned = from_log_weights(log_z), transition.target is not None
    if num_particles == 1:
        found = check_chains(found, log_z, accepted, tuned)
    else:
        variance = jax.vmap(_variance)(ess, resampled, ends.log_w)
        found = check_runs(found, log_z, variance, accepted, tuned)
    found = check_ends(found, ends.places.log_weight, jnp.zeros_like(ends.log_w))
    every = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ends.places.z)
    log_w = (log_z[:, None] + ends.log_w).ravel()
    long = long_tail(path, every, log_w, transition.continuous)
    found = found._replace(failed=found.failed | bit(long, Check.TAIL))
    scouted = scout(key_scouts, log_joint, q, transition, num_scouts, prior)
    found = check_missed(found, scouted, every, long, num_runs, accepted, transition.target)
    return Sequential(
        *(found, log_z, ends.places.z, ends.log_w, ess, resampled, accepted, schedule, scouted)
    )


def run(
    key: Key[Array, ""],
    path: Path,
    z: Latent,
    schedule: annealing.Schedule,
    transition: annealing.Transition,
    threshold: float,
    resample: Resample,
) -> tuple[_Cloud, tuple[Array, Array, Array]]:
    """One run from particles z [S, ...] of q: its end; ESS, resampled and acceptance, [T] each."""
    size = jax.tree.leaves(z)[0].shape[0]
    betas = schedule.temperatures

    def step(cloud: _Cloud, now: tuple) -> tuple[_Cloud, tuple]:
        index, before, beta, step_size = now
        key_pick, key_move = jax.random.split(jax.random.fold_in(key, index))
        total = cloud.log_w + (beta - before) * cloud.places.log_weight
        gain = logsumexp(total)
        # Weights that are all zero are not normalised, which would give NaN.
        log_w = total - jnp.where(jnp.isneginf(gain), 0.0, gain)
        ess = jnp.exp(-logsumexp(2 * log_w))
        poor = (ess < threshold * size) | (threshold >= 1)
        rows = jnp.where(poor, resample(key_pick, jnp.exp(log_w), size), jnp.arange(size))
        places = jax.tree.map(lambda leaf: leaf[rows], cloud.places)
        log_w = jnp.where(poor & ~jnp.isneginf(gain), -jnp.log(float(size)), log_w)
        places, accepted = jax.vmap(
            lambda key, one: transition.apply(key, path, beta, one, schedule.scale, step_size)
        )(jax.random.split(key_move, size), places)
        return _Cloud(places, log_w, cloud.log_evidence + gain), (ess, poor, accepted.mean())

    equal = jnp.full(size, -jnp.log(float(size)), betas.dtype)
    times = (jnp.arange(betas.shape[0] - 1), betas[:-1], betas[1:], schedule.step_sizes)
    places = jax.vmap(lambda z: path.place(z, transition.slopes))(z)
    return jax.lax.scan(step, _Cloud(places, equal, jnp.zeros((), betas.dtype)), times)


def _variance(
    ess: Float[Array, " T"], resampled: Bool[Array, " T"], log_w: Float[Array, " S"]
) -> Scalar:
    """A run's own estimate of the relative variance of its Z, from S > 1 particles.

    It adds the relative variances of the mean weights at the resamplings and at the end. Weights
    that are all zero count as one positive weight.
    """
    size = log_w.shape[0]
    last = jnp.exp(-logsumexp(2 * log_w))
    each = (size / jnp.append(ess, last) - 1) / (size - 1)
    each = jnp.where(jnp.isfinite(jnp.append(ess, last)), each, 1.0)
    return jnp.where(jnp.append(resampled, True), each, 0.0).sum()


def _resampler(name: str) -> Resample:
    from blackjax.smc import resampling

    return getattr(resampling, name)
