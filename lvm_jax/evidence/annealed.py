"""log p(x) by annealed importance sampling: where q alone is too far from the posterior."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax import annealing, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import few_together, for_first, num_rows, padded, plenty, unpadded
from lvm_jax._core.inputs import check_problem
from lvm_jax.annealing.path import make_path
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence.importance import CHUNK_SIZE, from_log_weights
from lvm_jax.evidence.result import Evidence, check_chains
from lvm_jax.typing import (
    Array,
    ArrayLike,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
)
from lvm_jax.weights import LogJoint


class Annealed(NamedTuple):
    """The evidence of C chains, and how they travelled."""

    evidence: Evidence  # num_samples is the number of chains
    log_weights: Float[Array, " C"]
    z: Latent  # where the chains ended, leaves [C, ...]; with the weights, draws of the posterior
    acceptance: Float[Array, " T"]  # by temperature, mean over the chains
    schedule: annealing.Schedule


def annealed(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_chains: int,
    plan: annealing.Plan,
) -> Annealed:
    """log p(x) = log E[w] by C independent annealed chains from q, of ONE data point, in nats.

        log (1/C) sum_c w_c,    w_c of `annealing.anneal`

    The mean of the weights is unbiased for p(x) with any number of temperatures, so its logarithm
    is a lower bound in expectation, which more temperatures tighten. q may be the prior, or a
    guide, which is closer. The plan, `annealing.plan(annealing.sigmoid(100))` for one, has the
    temperatures and the moves; a discrete z needs `annealing.gibbs` or `flip`.

    The standard error is over chains, which are independent; k-hat needs 25 of them, and is inf
    (not known) below. A log-joint of -inf on part of the space gives weights of zero, which are
    counted. The evidence is `reliable` where k-hat is at most 0.7, the effective sample size at
    least 1.3 C^(2/3), the standard deviation of the finite log-weights at most
    sqrt(log(C^(1/3) / 1.3)) (0.93 for 30 chains, 1.06 for 64, 1.3 for 300) and, of tuned moves,
    the acceptance at least 0.05 at every temperature.

    Memory is that of C chains; unjitted: jit around it, or use `evidence.evaluate_annealed`.

    Raises ValueError for num_chains < 1, or a log-joint that does not fit q; TypeError for
    continuous moves on a discrete z.

    Source: Neal (2001); step sizes from a pilot run instead of the chain itself, which would bias.
    """
    checks.key(key)
    checks.integer(num_chains, "num_chains", 1)
    transition = plan.transition
    key_pilot, key_start, key_chains = jax.random.split(key, 3)
    z = weights.draw(key_start, q, num_chains)
    path = make_path(log_joint, q, z, transition.continuous)
    schedule = plan.prepare(key_pilot, path, q, z)

    def one(key: Key[Array, ""], z: Latent) -> annealing.AnnealedChain:
        return annealing.anneal(key, path, z, schedule, transition)

    journeys = jax.vmap(one)(jax.random.split(key_chains, num_chains), z)
    log_w, accepted = journeys.log_weight, journeys.acceptance.mean(0)
    tuned = transition.target is not None
    found = check_chains(from_log_weights(log_w), log_w, accepted, tuned)
    return Annealed(found, log_w, journeys.z, accepted, schedule)


def evaluate_annealed(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity | None,
    x: Any,
    num_chains: int,
    plan: annealing.Plan,
    *,
    index: ArrayLike | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Annealed:
    """`annealed` for every point of x [N, ...]: an Annealed whose leaves have a leading axis N.

    From q(z | x), or with q=None from the prior. Points run
    together as far as their chains make at most `chunk_size` rows (on a GPU or a TPU 32 times as
    many), so memory grows in N by the result alone. Point i draws from fold_in(key, i), or
    fold_in(key, index[i]) with an `index` [N] of unsigned integers: its answer does not depend on
    the others.
    Compiled once per shape of a point, model, guide, moves, number of chains and of temperatures,
    and for few numbers of points (N is padded to `compiling.bucket`); the key, the parameters and
    the temperatures' values may change.

    Raises as `annealed` and `evaluate` do.
    """
    checks.host("evidence.evaluate_annealed", "evidence.annealed", key, p, q, x)
    checks.key(key)
    num_chains = checks.integer(num_chains, "num_chains", 1)
    x = check_problem(p, q, x)
    index = np.arange(num_rows(x)) if index is None else np.asarray(index)
    checks.shape(index, (num_rows(x),), "index")
    points, _, number = padded((index, x))
    found = _evaluate(
        *(key, p, q, points, number, plan, num_chains),
        few_together(plenty(chunk_size), num_chains, num_rows(x)),
    )
    return unpadded(found, number)


@bounded_jit(6, 7)
def _evaluate(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity | None,
    points: tuple[Array, Any],
    number: Int[Array, ""],
    plan: annealing.Plan,
    num_chains: int,
    together: int,
) -> Annealed:
    def one(point: tuple[Array, Any]) -> Annealed:
        index, x = point
        start = p.prior(x) if q is None else q(x)
        return annealed(jax.random.fold_in(key, index), p.log_joint(x), start, num_chains, plan)

    return for_first(one, points, together, number)
