"""log p(x) by annealed importance sampling: where q alone is too far from the posterior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import annealing, checks, weights
from lvm_jax.annealing.path import Path, check_temperatures, make_path
from lvm_jax.evidence.dataset import check_data, check_guide
from lvm_jax.evidence.importance import CHUNK_SIZE, from_log_weights
from lvm_jax.evidence.result import Evidence
from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model, log_joint
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Key, Latent, Params
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
    *,
    temperatures: ArrayLike | None = None,
    transition: annealing.Transition | None = None,
    num_pilot: int = 8,
    adaptive: bool = False,
    schedule: annealing.Schedule | None = None,
) -> Annealed:
    """log p(x) = log E[w] by C independent annealed chains from q, of ONE data point, in nats.

        log (1/C) sum_c w_c,    w_c of `annealing.anneal`

    The mean of the weights is unbiased for p(x) with any number of temperatures, so its logarithm
    is a lower bound in expectation, which more temperatures tighten. q may be the prior, or a
    guide, which is closer. Moves are `annealing.hmc()` unless `transition` says otherwise; a
    discrete z needs `gibbs` or `flip`. Step sizes, and with `adaptive` the temperatures too, come
    from a pilot run of `num_pilot` other chains, which costs as much as so many chains more; with
    num_pilot = 0 the transition's own step size is used throughout, in z's own units. A `schedule`
    from `annealing.tune` replaces all that.

    The standard error is over chains, which are independent; k-hat needs 25 of them, and is inf
    (not known) below. A log-joint of -inf on part of the space gives weights of zero, which are
    counted. An `acceptance` near 0 at some temperature says that nothing moves there.

    Memory is that of C chains; unjitted: jit around it, or use `evidence.evaluate_annealed`.

    Raises ValueError for num_chains < 1, temperatures that do not rise from 0 to 1, or a log-joint
    that does not fit q; TypeError for continuous moves on a discrete z.

    Source: Neal (2001); step sizes from a pilot run instead of the chain itself, which would bias.
    """
    checks.integer(num_chains, "num_chains", 1)
    transition = annealing.hmc() if transition is None else transition
    key_pilot, key_start, key_chains = jax.random.split(checks.key(key), 3)
    z = weights.draw(key_start, q, num_chains)
    path = make_path(log_joint, q, z, transition.continuous)
    schedule = make_schedule(
        key_pilot, path, q, z, schedule, temperatures, transition, num_pilot, adaptive
    )

    def one(key: Key[Array, ""], z: Latent) -> annealing.Journey:
        return annealing.anneal(key, path, z, schedule, transition)

    journeys = jax.vmap(one)(jax.random.split(key_chains, num_chains), z)
    return Annealed(
        from_log_weights(journeys.log_weight),
        journeys.log_weight,
        journeys.z,
        journeys.acceptance.mean(0),
        schedule,
    )


def make_schedule(
    key: Key[Array, ""],
    path: Path,
    q: Distribution,
    z: Latent,
    schedule: annealing.Schedule | None,
    temperatures: ArrayLike | None,
    transition: annealing.Transition,
    num_pilot: int,
    adaptive: bool,
) -> annealing.Schedule:
    """The schedule as given, a tuned one, or without pilot chains the plain one; in z's dtype."""
    if schedule is None:
        schedule = _new_schedule(
            key, path.log_joint, q, z, temperatures, transition, num_pilot, adaptive
        )
    dtype = path.dtype(z)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), schedule)


def _new_schedule(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    z: Latent,
    temperatures: ArrayLike | None,
    transition: annealing.Transition,
    num_pilot: int,
    adaptive: bool,
) -> annealing.Schedule:
    if temperatures is None:
        raise ValueError(
            "temperatures: expected [T + 1] numbers from 0 to 1, or a schedule, got neither; "
            "annealing.sigmoid(100) makes 100"
        )
    if checks.integer(num_pilot, "num_pilot", 0) > 0:
        return annealing.tune(
            key, log_joint, q, temperatures, transition, num_pilot, adaptive=adaptive
        ).schedule
    if adaptive:
        raise ValueError("num_pilot: expected at least 2 with adaptive=True, got 0")
    one = jax.tree.map(lambda leaf: leaf[0], z)
    return annealing.schedule(temperatures, transition, one)


def evaluate_annealed(
    key: Key[Array, ""],
    model: Model,
    guide: Guide | None,
    theta: Params,
    phi: Params,
    x: ArrayLike,
    num_chains: int,
    *,
    temperatures: ArrayLike,
    transition: annealing.Transition | None = None,
    num_pilot: int = 8,
    adaptive: bool = False,
    chunk_size: int = CHUNK_SIZE // 2,  # a gradient keeps twice the rows of a value
) -> Annealed:
    """`annealed` for every point of x [N, ...]: an Annealed whose leaves have a leading axis N.

    From q(z | x; phi), or with guide=None from the prior (phi is then not read). Points run
    together as far as their chains make at most `chunk_size` rows, so memory grows in N by the
    result alone. Point i draws from fold_in(key, i): its answer does not depend on the others.
    Compiled once per shape, model, guide, transition and number of chains; the key, theta, phi and
    the temperatures' values may change.

    Raises as `annealed` and `evaluate` do.
    """
    checks.key(key)
    num_chains = checks.integer(num_chains, "num_chains", 1)
    temperatures = check_temperatures(temperatures)
    check_data(model, theta, x)
    if guide is not None:
        check_guide(model, guide, theta, phi, x)
    transition = annealing.hmc() if transition is None else transition
    together = max(checks.integer(chunk_size, "chunk_size", 1) // num_chains, 1)
    points = (jnp.arange(x.shape[0]), jnp.asarray(x))
    return _evaluate(
        *(key, theta, None if guide is None else phi, points, temperatures),
        *(model, guide, num_chains, transition, num_pilot, adaptive),
        min(together, x.shape[0]),
    )


@partial(jax.jit, static_argnums=(5, 6, 7, 8, 9, 10, 11))
def _evaluate(
    key: Key[Array, ""],
    theta: Params,
    phi: Params,
    points: tuple[Array, Array],
    temperatures: Float[Array, " T1"],
    model: Model,
    guide: Guide | None,
    num_chains: int,
    transition: annealing.Transition,
    num_pilot: int,
    adaptive: bool,
    together: int,
) -> Annealed:
    def one(point: tuple[Array, Array]) -> Annealed:
        index, x = point
        q = model.prior(theta) if guide is None else guide.posterior(phi, x)
        return annealed(
            jax.random.fold_in(key, index), log_joint(model, theta, x), q, num_chains,
            temperatures=temperatures, transition=transition, num_pilot=num_pilot,
            adaptive=adaptive,
        )  # fmt: skip

    return jax.lax.map(one, points, batch_size=together if together > 1 else None)
