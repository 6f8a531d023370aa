"""Step sizes and temperatures from a pilot run.

A kernel that adapts to its own chain does not leave the density invariant, and the weights are
biased. Here separate pilot chains with other random numbers choose a schedule, which then stays
fixed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision, weights
from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, Place, check_temperatures, make_path
from lvm_jax.annealing.transitions import Transition
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Int, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

NUM_SPREAD = 100  # draws of q, to estimate its standard deviations
GAIN = 1.0  # change of the log step size per unit of acceptance - target
NUM_WARM = 10  # warm-up moves of the pilot at beta = 0
MOST = 100  # maximum number of pilot temperatures


class Schedule(NamedTuple):
    """The temperatures, and the step size of the move at each but the first."""

    temperatures: Float[Array, " T1"]  # 0 = beta_0 < ... < beta_T = 1
    step_sizes: Float[Array, " T"]  # at beta_1, ..., beta_T; in units of `scale`
    scale: Latent  # of each coordinate of z


class Tuned(NamedTuple):
    """A schedule, with measurements of the pilot run."""

    schedule: Schedule
    temperatures: Float[Array, " P1"]  # the pilot's own
    acceptance: Float[Array, " P"]  # at those but the first
    deviation: Float[Array, " P"]  # of log p(x, z) - log q(z), at those but the last


def schedule(temperatures: ArrayLike, transition: Transition, like: Latent) -> Schedule:
    """A schedule with the transition's step size and scales of 1, like z."""
    temperatures = check_temperatures(temperatures)
    steps = jnp.full(temperatures.shape[0] - 1, transition.step_size, temperatures.dtype)
    scale = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), steps.dtype), like)
    return Schedule(temperatures, steps, scale)


def spread(key: Key[Array, ""], q: Distribution) -> Latent:
    """Standard deviations of z under q from 100 draws, and 1 for constant coordinates."""
    checks.key(key)
    z = weights.draw(key, q, NUM_SPREAD)

    def deviation(leaf: Array) -> Array:
        scale = leaf.astype(jnp.result_type(float)).std(0)
        return jnp.where(scale > 0, scale, 1.0)

    return jax.tree.map(deviation, z)


class _State(NamedTuple):
    places: Place  # leaves [C, ...]
    log_w: Float[Array, " C"]
    log_step: Scalar


def tune(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    temperatures: ArrayLike,
    transition: Transition,
    num_chains: int = 8,
    *,
    adaptive: bool = False,
) -> Tuned:
    """A `Schedule` from a pilot run of `num_chains` chains, for ONE data point.

    After ten moves at beta = 0 and after every temperature the step size e is updated by
    log e <- log e + acceptance - target, with the mean acceptance of the chains. For more than 100
    temperatures the pilot visits 100, and log e is interpolated. With `adaptive` the T temperatures
    are moved such that the conditional effective sample size (Zhou, Johansen and Aston 2016) is the
    same at every step, to second order in Delta beta:

        CESS / S = 1 / (1 + (Delta beta)^2 Var_beta(log p(x, z) - log q(z)) + ...)

    This holds for equidistant values of int sd_beta(log p - log q) d beta. Use another `key` for
    the run that follows.

    Raises ValueError for num_chains < 2 or temperatures that do not rise from 0 to 1.
    """
    checks.key(key)
    temperatures = check_temperatures(temperatures)
    num_chains = checks.integer(num_chains, "num_chains", 2)
    key_scale, key_start, key_moves = jax.random.split(key, 3)
    scale = spread(key_scale, q)
    z = weights.draw(key_start, q, num_chains)
    path = make_path(log_joint, q, z, transition.continuous)
    temperatures = temperatures.astype(path.dtype(z))
    own = _thin(temperatures)
    steps, accepted, deviation = pilot(key_moves, path, z, own, transition, scale)
    if adaptive:
        even = jnp.linspace(0.0, 1.0, temperatures.shape[0], dtype=temperatures.dtype)
        temperatures = equalize(own, deviation, even)
    steps = jnp.exp(jnp.interp(temperatures[1:], own[1:], jnp.log(steps)))
    return Tuned(Schedule(temperatures, steps, scale), own, accepted, deviation)


def _thin(temperatures: Float[Array, " T1"]) -> Float[Array, " P1"]:
    """At most MOST + 1 of the temperatures, including the first and the last."""
    last = temperatures.shape[0] - 1
    return temperatures[np.linspace(0, last, min(last, MOST) + 1).round().astype(int)]


def pilot(
    key: Key[Array, ""],
    path: Path,
    z: Latent,
    temperatures: Float[Array, " T1"],
    transition: Transition,
    scale: Latent,
    number: int | Int[Array, ""] | None = None,
) -> tuple[Array, Array, Array]:
    """Step size, acceptance and deviation of chains z [C, ...] at every temperature, [T] each.

    `number` limits the temperatures and may be traced; temperatures beyond it have the last step
    size and a deviation of 0.
    """
    num_chains = jax.tree.leaves(z)[0].shape[0]
    betas = jnp.concatenate([jnp.zeros(NUM_WARM, temperatures.dtype), temperatures])
    last = NUM_WARM + (temperatures.shape[0] - 1 if number is None else number)

    def step(index: Array, now: tuple[_State, Array]) -> tuple[_State, Array]:
        state, table = now
        before, beta = betas[index], betas[index + 1]
        log_w = state.places.log_weight
        step_size, deviation = jnp.exp(state.log_step), _deviation(log_w, state.log_w)
        move = lambda key, one: transition.apply(key, path, beta, one, scale, step_size)  # noqa: E731
        keys = jax.random.split(jax.random.fold_in(key, index), num_chains)
        places, accepted = jax.vmap(move)(keys, state.places)
        excess = 0.0 if transition.target is None else accepted.mean() - transition.target
        # No gain during warm-up, also for infinite log_w.
        gain = jnp.where(beta > before, (beta - before) * log_w, 0.0)
        state = _State(places, state.log_w + gain, state.log_step + GAIN * excess)
        return state, table.at[:, index].set(jnp.stack([step_size, accepted.mean(), deviation]))

    first = jnp.log(jnp.asarray(transition.step_size, betas.dtype))
    places = jax.vmap(lambda z: path.place(z, transition.slopes))(z)
    start = _State(places, jnp.zeros(num_chains, betas.dtype), first)
    empty = jnp.zeros((3, betas.shape[0] - 1), betas.dtype)
    table = jax.lax.fori_loop(0, last, step, (start, empty))[1]
    steps, accepted, deviation = table[:, NUM_WARM:]
    ran = jnp.arange(steps.shape[0]) < last - NUM_WARM
    return jnp.where(ran, steps, table[0, last - 1]), accepted, deviation


@precision.full
def _deviation(values: Float[Array, " C"], log_w: Float[Array, " C"]) -> Scalar:
    """Weighted standard deviation of the finite `values`."""
    good = jnp.isfinite(values) & jnp.isfinite(log_w)
    values, log_w = jnp.where(good, values, 0.0), jnp.where(good, log_w, -jnp.inf)
    w = jnp.where(good, jnp.exp(log_w - log_w.max()), 0.0)
    p = w / jnp.maximum(w.sum(), jnp.finfo(w.dtype).tiny)
    return jnp.sqrt(p @ (values - p @ values) ** 2)


def equalize(
    temperatures: Float[Array, " P1"], deviation: Float[Array, " P"], even: Float[Array, " T1"]
) -> Float[Array, " T1"]:
    """Temperatures at the fractions `even` of the integral of the deviation."""
    most = deviation.max()
    # A minimum keeps the map invertible for deviations of 0, and bounds the steps.
    shares = jnp.maximum(deviation / most, 0.01)
    lengths = jnp.diff(temperatures) * jnp.where(most > jnp.finfo(most.dtype).tiny, shares, 1.0)
    distance = jnp.concatenate([jnp.zeros(1, lengths.dtype), jnp.cumsum(lengths)])
    placed = jnp.interp(even * distance[-1], distance, temperatures)
    return jnp.where(even == 1, 1.0, placed.at[0].set(0.0))
