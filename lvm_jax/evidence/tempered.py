"""log p(x) by parallel tempering: one chain at each temperature, which exchange their places."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from lvm_jax import annealing, weights
from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, Place, make_path
from lvm_jax.evidence.importance import from_log_weights
from lvm_jax.evidence.missed import SCOUTS, Scouted, check_ends, check_missed, check_prior, scout
from lvm_jax.evidence.result import Check, Evidence, bit, check_chains
from lvm_jax.evidence.stretching import long_tail
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Latent
from lvm_jax.weights import LogJoint

WARM = 4  # one sweep in as many warms up


class Tempered(NamedTuple):
    """The evidence of R independent ladders of T temperatures, their draws and diagnostics."""

    evidence: Evidence  # num_samples is the number of ladders, each one weight
    log_evidences: Float[Array, " R"]
    z: Latent  # draws of the posterior, after each sweep but the first quarter, [R, 3 S / 4, ...]
    acceptance: Float[Array, " T"]  # of the moves at beta_1, ..., beta_T
    exchanges: Float[Array, " T"]  # share of accepted exchanges of beta_{t-1} with beta_t
    schedule: annealing.Schedule
    scouted: Scouted | None  # the second estimate, which checks the first; None without


def tempered(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_sweeps: int,
    plan: annealing.Plan,
    *,
    num_runs: int = 8,
    num_scouts: int = SCOUTS,
    prior: Distribution | None = None,
) -> Tempered:
    """log p(x) by R ladders of T chains that exchange places, of ONE data point, in nats.

        log Z_r = sum_t log mean exp(d_t v_{t-1} / 2) - log mean exp(-d_t v_t / 2)

    with d_t = beta_t - beta_{t-1}, v_t = log p(x, z_t) - log q(z_t), and means over the sweeps of
    ladder r: the ratio of the normalisers of neighbouring temperatures by a geometric bridge. In a
    sweep every chain makes a move at its own temperature, the place at beta_0 = 0 is a new draw of
    q, and pairs of neighbours, even and odd ones in turn, exchange their places with probability
    min(1, exp(-d_t (v_t - v_{t-1}))). A chain at beta = 1 so leaves a mode through the others. A
    ladder starts with one annealed chain; the first quarter of its sweeps is dropped.

    Use it where moves at beta = 1 mix slowly: the draws `z` are those of the posterior. Few
    temperatures suffice, as long as all `exchanges` are frequent. The estimate is consistent in the
    number of sweeps, and not unbiased; the spread of the ladders gives its error. The checks are
    those of `annealed` with the Z_r as weights; ACCEPTANCE includes the exchanges, the draws have
    equal weights in STUCK, and TAIL does not need the search. The cost is R (1 + T c + S (T c + 1))
    evaluations, with c that of a move, and the pilot and the search.

    Raises ValueError for num_sweeps < 4 or num_runs < 2, and as `annealed`.

    Source: Geyer (1991); Okabe et al. (2001) and Syed et al. (2021) for even and odd pairs; Meng
    and Wong (1996) for the bridge.
    """
    checks.key(key)
    num_sweeps = checks.integer(num_sweeps, "num_sweeps", WARM)
    num_runs = checks.integer(num_runs, "num_runs", 2)
    num_scouts = checks.integer(num_scouts, "num_scouts", 0)
    key_pilot, key_start, key_runs, key_scouts = jax.random.split(key, 4)
    z = weights.draw(key_start, q, num_runs)
    check_prior(prior, z)
    path = make_path(log_joint, q, z, plan.transition.continuous)
    schedule = plan.prepare(key_pilot, path, q, z)

    def one(key: Key[Array, ""], z: Latent) -> tuple[Array, Latent, Array, Array, Array]:
        return ladder(key, path, q, z, schedule, plan.transition, num_sweeps)

    log_z, draws, ratio, moved, exchanged = jax.vmap(one)(jax.random.split(key_runs, num_runs), z)
    accepted, exchanged = moved.mean(0), exchanged.mean(0)
    lowest = jnp.minimum(accepted, exchanged)
    tuned = plan.transition.target is not None
    found = check_chains(from_log_weights(log_z), log_z, lowest if tuned else exchanged, True)
    found = check_ends(found, ratio, jnp.zeros_like(ratio))
    every = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)
    equal = jnp.zeros(ratio.size, ratio.dtype)
    long = long_tail(path, every, equal, plan.transition.continuous)
    found = found._replace(failed=found.failed | bit(long, Check.TAIL))
    scouted = scout(key_scouts, log_joint, q, plan.transition, num_scouts, prior)
    found = check_missed(found, scouted, every, long, num_runs, accepted, plan.transition.target)
    return Tempered(found, log_z, draws, accepted, exchanged, schedule, scouted)


def ladder(
    key: Key[Array, ""],
    path: Path,
    q: Distribution,
    z: Latent,
    schedule: annealing.Schedule,
    transition: annealing.Transition,
    num_sweeps: int,
) -> tuple[Float[Array, ""], Latent, Float[Array, " S"], Float[Array, " T"], Float[Array, " T"]]:
    """log Z of one ladder from a draw z of q, its draws, log p - log q, and both acceptances."""
    key_start, key_sweeps = jax.random.split(key)
    betas, steps = schedule.temperatures, schedule.step_sizes
    number = steps.shape[0]

    def move(key: Key[Array, ""], beta: Array, step: Array, place: Place) -> tuple[Place, Array]:
        return transition.apply(key, path, beta, place, schedule.scale, step)

    def first(place: Place, now: tuple) -> tuple[Place, Place]:
        index, beta, step = now
        new, _ = move(jax.random.fold_in(key_start, index), beta, step, place)
        return new, new

    def sweep(places: Place, index: Array) -> tuple[Place, tuple[Array, Any, Array, Array]]:
        keys = jax.random.split(jax.random.fold_in(key_sweeps, index), 3)
        places, accepted = jax.vmap(move)(
            jax.random.split(keys[0], number), betas[1:], steps, places
        )
        new = path.place(
            jax.tree.map(lambda leaf: leaf[0], weights.draw(keys[1], q, 1)), transition.slopes
        )
        every = jax.tree.map(lambda one, all_: jnp.concatenate([one[None], all_]), new, places)
        ratio = every.log_weight
        chance = jnp.exp(jnp.minimum(-jnp.diff(betas) * jnp.diff(ratio), 0.0))
        rows = exchange(keys[2], jnp.where(jnp.isnan(chance), 0.0, chance), index)
        places = jax.tree.map(lambda leaf: leaf[rows[1:]], every)
        last = jax.tree.map(lambda leaf: leaf[-1], (places.z, places.log_weight))
        return places, (ratio, last, accepted, chance)

    start = path.place(z, transition.slopes)
    _, places = jax.lax.scan(first, start, (jnp.arange(number), betas[1:], steps))
    _, found = jax.lax.scan(sweep, places, jnp.arange(num_sweeps))
    kept = jax.tree.map(lambda leaf: leaf[num_sweeps // WARM :], found)
    ratio, (draws, at_draws), accepted, chance = kept
    return bridge(ratio, betas), draws, at_draws, accepted.mean(0), chance.mean(0)


def exchange(
    key: Key[Array, ""], chance: Float[Array, " T"], sweep: Int[Array, ""]
) -> Int[Array, " T1"]:
    """The rows of the places after exchanges of the pairs (t - 1, t), of which each has a chance.

    Every second pair takes part, so that no two share a place.
    """
    takes = jax.random.uniform(key, chance.shape, chance.dtype) < chance
    takes &= jnp.arange(chance.size) % 2 == sweep % 2
    up, down = jnp.pad(takes, (0, 1)), jnp.pad(takes, (1, 0))
    return jnp.arange(chance.size + 1) + up - down


def bridge(ratio: Float[Array, "S T1"], betas: Float[Array, " T1"]) -> Float[Array, ""]:
    """The log of the ratio of the normalisers at 1 and at 0, from log p - log q of S sweeps."""
    half = 0.5 * jnp.diff(betas)[None]
    forward, backward = half * ratio[:, :-1], -half * ratio[:, 1:]
    return (logsumexp(forward, axis=0) - logsumexp(backward, axis=0)).sum()
