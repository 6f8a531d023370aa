"""One annealed chain with its weight, forward from q or backward from the posterior."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, Place
from lvm_jax.annealing.transitions import Transition
from lvm_jax.annealing.tuning import Schedule
from lvm_jax.typing import Array, Float, Key, Latent, Scalar


class AnnealedChain(NamedTuple):
    """The end of one chain, its log-weight and its acceptance probabilities."""

    z: Latent
    log_weight: Scalar
    acceptance: Float[Array, " T"]  # of the moves at beta_1, ..., beta_T


class Trail(NamedTuple):
    """The log-weights of one chain at each temperature, including beta_0 = 0."""

    z: Latent  # at the end
    log_weights: Float[Array, " T1"]  # log w_t, log w_0 = 0
    log_ratios: Float[Array, " T1"]  # log p(x, z_t) - log q(z_t)
    acceptance: Float[Array, " T"]


def anneal(
    key: Key[Array, ""], path: Path, z: Latent, schedule: Schedule, transition: Transition
) -> AnnealedChain:
    """A chain from z_0 ~ q to beta = 1, with a weight and a move at every temperature.

        log w = sum_t (beta_t - beta_{t-1}) (log p(x, z_{t-1}) - log q(z_{t-1}))

    with z_t ~ K_t(z_{t-1}), where K_t leaves f_{beta_t} invariant. E[w] = p(x) for any such moves.
    T = 1 is importance sampling. With its weight w, the last z is a draw from the posterior.

    Source: Neal (2001).
    """
    checks.key(key)
    found = trail(key, path, z, schedule, transition)
    return AnnealedChain(found.z, found.log_weights[-1], found.acceptance)


def trail(
    key: Key[Array, ""], path: Path, z: Latent, schedule: Schedule, transition: Transition
) -> Trail:
    """`anneal` with all log-weights; w_t is the weight of z_t as a draw from f_{beta_t}."""
    checks.key(key)

    def step(state: tuple[Place, Scalar], now: tuple) -> tuple[tuple, tuple]:
        place, log_w = state
        index, before, beta, step_size = now
        log_w = log_w + (beta - before) * place.log_weight
        key_move = jax.random.fold_in(key, index)
        new, accepted = transition.apply(key_move, path, beta, place, schedule.scale, step_size)
        return (new, log_w), (log_w, place.log_weight, accepted)

    betas = schedule.temperatures
    times = (jnp.arange(betas.shape[0] - 1), betas[:-1], betas[1:], schedule.step_sizes)
    start = (path.place(z, transition.slopes), jnp.zeros((), betas.dtype))
    (end, _), (log_w, ratio, accepted) = jax.lax.scan(step, start, times)
    return Trail(
        end.z,
        jnp.concatenate([start[1][None], log_w]),
        jnp.concatenate([ratio, end.log_weight[None]]),
        accepted,
    )


def reverse(
    key: Key[Array, ""], path: Path, z: Latent, schedule: Schedule, transition: Transition
) -> AnnealedChain:
    """A chain from z_T ~ p(z | x) back to beta = 0: `anneal` in the reverse direction.

        log w = sum_t (beta_t - beta_{t-1}) (log p(x, z_{t-1}) - log q(z_{t-1}))

    with z_{t-1} ~ K_t(z_t), which must be reversible. If z_T is an exact draw, E[1 / w] = 1 / p(x),
    so E[log w] >= log p(x). `acceptance` is ordered by increasing temperature, as in `anneal`.

    Source: Grosse, Ghahramani and Adams (2015).
    """
    checks.key(key)

    def step(place: Place, now: tuple) -> tuple[Place, tuple[Scalar, Scalar]]:
        index, beta, step_size = now
        key_move = jax.random.fold_in(key, index)
        new, accepted = transition.apply(key_move, path, beta, place, schedule.scale, step_size)
        return new, (new.log_weight, accepted)

    betas = schedule.temperatures
    times = (jnp.arange(betas.shape[0] - 1), betas[1:], schedule.step_sizes)
    start = path.place(z, transition.slopes)
    end, (ratio, accepted) = jax.lax.scan(step, start, times, reverse=True)  # of z_0, ..., z_(T-1)
    return AnnealedChain(end.z, (jnp.diff(betas) * ratio).sum(), accepted)
