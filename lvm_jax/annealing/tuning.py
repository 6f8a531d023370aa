"""Step sizes and temperatures from a pilot run.

A kernel that adapts to its own chain does not leave the density invariant, and the weights are
biased. Here separate pilot chains with other random numbers choose a schedule, which then stays
fixed. The pilot has few chains: what they measure is smoothed over the temperatures.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision, weights
from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, Place, check_temperatures, make_path
from lvm_jax.annealing.transitions import Transition
from lvm_jax.typing import Array, ArrayLike, Bool, Distribution, Float, Int, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

NUM_SPREAD = 100  # draws of q, to estimate its standard deviations
NUM_WARM = 5  # warm-up moves of the pilot at beta = 0
MOST = 50  # maximum number of pilot temperatures
GAIN = 0.7  # of the log step size, see `tune`
RISE = 0.5  # the most that the log step size rises after a move
WINDOW = 4.0  # standard deviation of the smoothing kernel, in pilot temperatures
BLIND = 1e-4  # weight of a step size with an acceptance of 0 or 1; a (1 - a) is added to it
FARTHEST = -60.0  # the least logarithm of the kernel, which keeps it above 0
RIDGE = 0.05  # of the slopes of the local regression, in variances of x in the kernel


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


def tune(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    temperatures: ArrayLike,
    transition: Transition,
    num_chains: int = 4,
    *,
    adaptive: bool = False,
) -> Tuned:
    """A `Schedule` from a pilot run of `num_chains` chains, for ONE data point.

    The pilot makes five moves at beta = 0 and one at each temperature, or at 50 of more. After each
    the step size e changes by

        log e <- log e + min(0.5, 0.7 log(g(target) / g(a))),    g(a) = log(2 / a - 1)

    with the mean acceptance a of the chains. It is about 2 Phi(-c e^k), with k = 2 for HMC (Beskos
    et al. 2013) and 1 for a random walk (Roberts, Gelman and Gilks 1997), and g(a) about
    -1.6 Phi^-1(a / 2), so that Newton's method has 1 / k in place of 0.7. The schedule has local
    linear regressions of these log e on the index of the temperature, with a normal kernel of
    standard deviation 4 and weights a (1 - a), and interpolates them. With `adaptive` the T
    temperatures are moved such that the conditional effective sample size (Zhou, Johansen and Aston
    2016) is the same at every step, to second order in Delta beta:

        CESS / S = 1 / (1 + (Delta beta)^2 Var_beta(log p(x, z) - log q(z)) + ...)

    This holds for equidistant values of int sd_beta(log p - log q) d beta; the deviation is that
    of the chains, smoothed in the same way as a power of beta. Use another `key` for the run that
    follows.

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
    size and a deviation of 0. Without a target the step size is that of the transition.
    """
    num_chains = jax.tree.leaves(z)[0].shape[0]
    betas = jnp.concatenate([jnp.zeros(NUM_WARM, temperatures.dtype), temperatures])
    number = temperatures.shape[0] - 1 if number is None else number

    def step(index: Array, now: tuple[Place, Scalar, Array]) -> tuple[Place, Scalar, Array]:
        places, log_step, table = now
        deviation = _deviation(places.log_weight)
        move = lambda key, one: transition.apply(  # noqa: E731
            key, path, betas[index + 1], one, scale, jnp.exp(log_step)
        )
        keys = jax.random.split(jax.random.fold_in(key, index), num_chains)
        places, accepted = jax.vmap(move)(keys, places)
        log_step = log_step + _correction(accepted.mean(), transition.target)
        row = jnp.stack([log_step, accepted.mean(), deviation])
        return places, log_step, table.at[:, index].set(row)

    places = jax.vmap(lambda z: path.place(z, transition.slopes))(z)
    first = jnp.log(jnp.asarray(transition.step_size, betas.dtype))
    empty = jnp.zeros((3, betas.shape[0] - 1), betas.dtype)
    table = jax.lax.fori_loop(0, NUM_WARM + number, step, (places, first, empty))[2]
    log_steps, accepted, deviation = table[:, NUM_WARM:]
    index = jnp.arange(log_steps.shape[0], dtype=betas.dtype)
    ran = index < number
    if transition.target is None:
        log_steps = jnp.full_like(log_steps, first)
    else:
        informed = jnp.where(ran, accepted * (1 - accepted) + BLIND, 0.0)
        log_steps = _smooth(log_steps, index, informed, ran)
        log_steps = jnp.where(ran, log_steps, log_steps[number - 1])
    # At beta = 0 the deviation may be far larger than at the next temperature.
    later, spread = ran[1:], deviation[1:]
    known = later & (spread > 0)
    log_spread = jnp.log(jnp.where(known, spread, 1.0))
    smooth = _smooth(log_spread, jnp.log(temperatures[1:-1]), known.astype(betas.dtype), later)
    deviation = deviation.at[1:].set(jnp.where(later & known.any(), jnp.exp(smooth), 0.0))
    return jnp.exp(log_steps), accepted, deviation


@precision.full
def _deviation(values: Float[Array, " C"]) -> Scalar:
    """Standard deviation of the finite values."""
    good = jnp.isfinite(values)
    values, number = jnp.where(good, values, 0.0), jnp.maximum(good.sum(), 1)
    off = jnp.where(good, values - values.sum() / number, 0.0)
    return jnp.sqrt((off**2).sum() / number)


def _correction(accepted: Scalar, target: float | None) -> Scalar:
    """The change of the log step size after a move, see `tune`."""
    if target is None:
        return jnp.zeros_like(accepted)
    wanted, found = (jnp.log(2 / a - 1) for a in (target, jnp.clip(accepted, 1e-6, 1.0)))
    return jnp.minimum(GAIN * (jnp.log(wanted) - jnp.log(found)), RISE)


@precision.full
def _smooth(
    y: Float[Array, " P"], x: Float[Array, " P"], weight: Float[Array, " P"], ran: Bool[Array, " P"]
) -> Float[Array, " P"]:
    """Local linear regressions of y on x at every x; the kernel is normal in the index.

    A ridge shrinks the slopes by 5%, and by more where few temperatures have a weight. Those that
    have not `ran` do not count.
    """
    index = jnp.arange(y.shape[0])
    distance = (index[:, None] - index[None]) / WINDOW
    kernel = jnp.exp(jnp.maximum(-0.5 * distance**2, FARTHEST))
    kernel, near = (_rows(kernel * part[None]) for part in (weight, ran))
    (off, mean_x), (apart, _) = _centred(kernel, x), _centred(near, x)
    square = (kernel * off**2).sum(1) + RIDGE * (near * apart**2).sum(1)
    slope = (kernel * off * y[None]).sum(1) / jnp.where(square > 0, square, 1.0)
    return kernel @ y + slope * (x - mean_x)


def _centred(kernel: Float[Array, "P P"], x: Float[Array, " P"]) -> tuple[Array, Array]:
    """x less its mean under every row of the kernel, [P, P], and the means."""
    mean = kernel @ x
    return x[None] - mean[:, None], mean


def _rows(kernel: Float[Array, "P P"]) -> Float[Array, "P P"]:
    """Rows with a sum of 1, or of 0."""
    return kernel / jnp.maximum(kernel.sum(1, keepdims=True), jnp.finfo(kernel.dtype).tiny)


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
