"""log p(x) by annealed importance sampling, for a q that is far from the posterior."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax import annealing, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import costly_batch_size, for_points, num_rows, rows_for_device
from lvm_jax._core.inputs import check_problem
from lvm_jax.annealing.path import make_path
from lvm_jax.evidence.importance import CHUNK_SIZE, from_log_weights
from lvm_jax.evidence.missed import SCOUTS, Scouted, check_ends, check_missed, check_prior, scout
from lvm_jax.evidence.result import Evidence, check_chains
from lvm_jax.evidence.stretching import long_tail
from lvm_jax.typing import (
    Array,
    ArrayLike,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Key,
    Latent,
)
from lvm_jax.weights import LogJoint


class Annealed(NamedTuple):
    """The evidence of C chains, with their ends, acceptance and schedule."""

    evidence: Evidence  # num_samples is the number of chains
    log_weights: Float[Array, " C"]
    z: Latent  # the ends of the chains, [C, ...]: with the weights, posterior draws
    acceptance: Float[Array, " T"]  # by temperature, mean over the chains
    schedule: annealing.Schedule
    scouted: Scouted | None  # the second estimate, which checks the first; None without


def annealed(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_chains: int,
    plan: annealing.Plan,
    *,
    num_scouts: int = SCOUTS,
    prior: Distribution | None = None,
) -> Annealed:
    """log p(x) = log E[w] by C independent annealed chains from q, of ONE data point, in nats.

        log (1/C) sum_c w_c,    w_c of `annealing.anneal`

    The mean of the weights is unbiased for p(x) with any number of temperatures, so its logarithm
    is a lower bound in expectation. More temperatures tighten it. q may be the prior, or a guide,
    which is closer. The plan, such as `annealing.plan(annealing.sigmoid(100))`, holds the
    temperatures and the moves; a discrete z needs `annealing.gibbs` or `flip`.

    The standard error is that of C independent chains, and at least that of lognormal weights with
    the spread of the log-weights; k-hat is inf (not known) for C < 25. Where the log-joint is -inf
    the weight is zero. The evidence is `reliable` if all of these hold: k-hat is at most 0.7; the
    effective sample size is at least 1.3 C^(2/3); the standard deviation of the finite log-weights
    is at most sqrt(log(C^(1/3) / 1.3)) (0.93 for 30 chains, 1.06 for 64, 1.3 for 300); tuned moves
    have an acceptance of at least 0.05 at every temperature, or of half their target where the
    search's estimate is more than D nats below the interval; at most 5% of the weight is of chains
    whose end has a p(x, z) / q(z) below p(x) e^-5 / 20 (STUCK: such a share of draws of p(z | x)
    has the probability e^-5 at most); and the search finds no mass that the chains miss.

    The search is a second estimate of log p(x), `scouted`: ascents from `num_scouts` starts, and
    importance sampling from the modes that they reach, a normal and a Student t for each. Starts
    are other draws of q, of which a quarter is stretched 2, 4 or 8 times about the mean, and, with
    a `prior`, a quarter are its draws. The search does not change the first estimate. CONTRADICTED
    fails if the second estimate plus its own error is above the 95% interval, and it is above the
    first estimate by 2 of its own errors; TAIL if the ends of the chains, stretched about their
    mean, show mass beyond q, and the second estimate is below the interval by 2 of its own errors,
    or its error is above 0.1. A start costs one evaluation, and those on which no known mode's
    quadratic agrees are climbed by Newton's method, for at most 2 evaluations a start in all. The
    log-joint has to have two derivatives, unless num_scouts = 0, which omits the search and its
    checks. There is no search for a discrete z, or one of more than 128 numbers. If q is a guide,
    pass the prior: a guide may miss a mode, and so may its draws.

    Memory grows with C. The function is unjitted: jit it, or use `evidence.evaluate_annealed`.

    Raises ValueError for num_chains < 1, a log-joint that does not fit q, or a prior whose draws
    have other shapes than those of q; TypeError for continuous moves on a discrete z.

    Source: Neal (2001). A pilot run sets the step sizes; tuning on the chain itself would bias.
    """
    checks.key(key)
    checks.integer(num_chains, "num_chains", 1)
    transition = plan.transition
    num_scouts = checks.integer(num_scouts, "num_scouts", 0)
    key_pilot, key_start, key_chains, key_scouts = jax.random.split(key, 4)
    z = weights.draw(key_start, q, num_chains)
    check_prior(prior, z)
    path = make_path(log_joint, q, z, transition.continuous)
    schedule = plan.prepare(key_pilot, path, q, z)

    def one(key: Key[Array, ""], z: Latent) -> annealing.Trail:
        return annealing.trail(key, path, z, schedule, transition)

    chains = jax.vmap(one)(jax.random.split(key_chains, num_chains), z)
    log_w, accepted = chains.log_weights[:, -1], chains.acceptance.mean(0)
    tuned = transition.target is not None
    found = check_chains(from_log_weights(log_w), log_w, accepted, tuned)
    found = check_ends(found, chains.log_ratios[:, -1], log_w)
    scouted = scout(key_scouts, log_joint, q, transition, num_scouts, prior)
    long = long_tail(path, chains.z, log_w, transition.continuous)
    found = check_missed(found, scouted, chains.z, long, num_chains, accepted, transition.target)
    return Annealed(found, log_w, chains.z, accepted, schedule, scouted)


def evaluate_annealed(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity | None,
    x: Any,
    num_chains: int,
    plan: annealing.Plan,
    *,
    num_scouts: int = SCOUTS,
    index: ArrayLike | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Annealed:
    """`annealed` for every point of x [N, ...]: an Annealed whose leaves have a leading axis N.

    Chains start from q(z | x), or from the prior with q=None; the search has draws of both. Points
    run together up to `chunk_size` chains (32 times as many on a GPU or a TPU), so only the
    result's memory grows with N. Point i uses fold_in(key, i), or fold_in(key, index[i]) with an
    `index` [N] of unsigned integers: its result does not depend on the other points. Compiled once
    per shape of a point, model, guide, moves, numbers of chains and of temperatures, and for few
    numbers of points (N is padded to `compiling.bucket`; where a point has more than 20,000
    evaluations, 16 sizes of a batch per octave have less padding); key, parameters and temperatures
    may change.

    Raises as `annealed` and `evaluate` do.
    """
    checks.host("evidence.evaluate_annealed", "evidence.annealed", key, p, q, x)
    checks.key(key)
    num_chains = checks.integer(num_chains, "num_chains", 1)
    num_scouts = checks.integer(num_scouts, "num_scouts", 0)
    x = check_problem(p, q, x)
    index = np.arange(num_rows(x)) if index is None else np.asarray(index)
    checks.shape(index, (num_rows(x),), "index")
    cost = num_chains * (plan.temperatures.shape[0] - 1) * plan.transition.cost
    together = costly_batch_size(rows_for_device(chunk_size), num_chains, num_rows(x), cost)
    return for_points(_of_point, (num_chains, num_scouts), key, (p, q, plan), (index, x), together)


def _of_point(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity | None,
    plan: annealing.Plan,
    x: Any,
    num_chains: int,
    num_scouts: int,
) -> Annealed:
    prior = p.prior(x)
    start, other = (prior, None) if q is None else (q(x), prior)
    joint = p.log_joint(x)
    return annealed(key, joint, start, num_chains, plan, num_scouts=num_scouts, prior=other)
