"""Checks of chains of ONE data point: for mass of p(x, z) that they miss, and where they end.

`scout` estimates log p(x) a second time, from Laplace's normals of the modes that ascents from
draws of q reach. A mode without chains raises it above the chains' interval.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.nn import logsumexp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, map_points
from lvm_jax.annealing import Transition
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.evidence.merging import SAME, arrived
from lvm_jax.evidence.modes import FREEDOM, WIDTH, Modes, inverses
from lvm_jax.evidence.result import Check, Evidence, bit
from lvm_jax.evidence.stretching import dimension
from lvm_jax.guides.laplace import NEAR as CONVERGED
from lvm_jax.guides.laplace import factor_of
from lvm_jax.guides.newton import maximize
from lvm_jax.typing import Array, Bool, Distribution, Float, Int, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

SCOUTS = 3_072  # default number of starts
MOST = 2  # evaluations of the ascents for each start
PATIENCE = 32  # ascents after the last one that ended in a new mode
LARGEST = 128  # numbers in z; the Hessians of a larger z are too expensive
SLOTS, DRAWS = 32, 1_024  # modes, and draws from their normals
ROWS = 64  # densities that are evaluated together
DEFENSIVE = 0.1  # share of the draws that is the same for all modes
LEVEL, OWN = 0.95, 2.0  # of the interval that is compared; errors of the scouts' estimate
PRECISE = 0.1  # nats, the largest error of a scouts' estimate that confirms chains with a long tail
STUCK, CHANCE = 0.05, 5.0  # share of the ends without mass; -log of the probability of such a share
SLOW = 0.5  # smallest acceptance far from all modes, relative to its target


class Scouted(NamedTuple):
    """A second estimate of log p(x), from the modes that a search reached."""

    log_evidence: Scalar  # in nats; -inf without a mode
    standard_error: Scalar  # of log_evidence, from the draws; inf without a mode
    num_modes: Int[Array, ""]
    evaluations: Int[Array, ""]  # of log p(x, z) or its gradient


class _Search(NamedTuple):
    modes: Modes
    left: Bool[Array, " S"]  # starts that no mode explains
    evaluations: Int[Array, ""]
    idle: Int[Array, ""]  # ascents since the last new mode


def check_prior(prior: Distribution | None, z: Latent) -> None:
    """Refuse a prior that is no distribution, or whose draws have other shapes than z [S, ...]."""
    if prior is None:
        return
    checks.distribution(prior, "prior")
    draws = jax.eval_shape(lambda key: weights.draw(key, prior, 1), jax.random.key(0))
    expected, got = (jax.tree.map(lambda leaf: leaf.shape[1:], tree) for tree in (z, draws))
    if expected != got:
        raise ValueError(
            f"prior: expected draws of the shapes of those of q, {expected}, got {got}"
        )


def scout(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    transition: Transition,
    num_scouts: int,
    prior: Distribution | None = None,
) -> Scouted | None:
    """log p(x) by importance sampling from modes, which ascents from `num_scouts` draws reach.

    A quarter of the draws of q is stretched about the mean, 2, 4 or 8 times, because q may be
    narrow. With a `prior` a quarter of the starts are draws of it.

    Starts whose value and gradient are those of a known mode's quadratic are not climbed. The
    proposal is a mixture of Laplace's normal and a Student t for each mode, with 1,024 draws.
    None for num_scouts = 0, a z that is not of floats, or one of more than 128 numbers.
    """
    key_starts, key_draws, key_prior = jax.random.split(key, 3)
    shapes = jax.eval_shape(lambda key: weights.draw(key, q, 1), key)
    floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shapes))
    dim = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if not (num_scouts and transition.continuous and floats and dim <= LARGEST):
        return None
    z = weights.draw(key_starts, q, num_scouts)
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], z))[1]
    flatten = jax.vmap(lambda one: ravel_pytree(one)[0])
    flat, row = flatten(z), jnp.arange(num_scouts)
    mean = flat.mean(0)[None]
    factor = jnp.where(row % 4 == 3, 2.0 ** (1 + row // 4 % 3), 1.0).astype(flat.dtype)
    flat = mean + factor[:, None] * (flat - mean)
    if prior is not None:
        others = flatten(weights.draw(key_prior, prior, num_scouts))
        flat = jnp.where((row % 4 == 1)[:, None], others, flat)
    try:
        found = _search(lambda u: log_joint(unravel(u)), flat)
    except TypeError as refusal:  # of JAX, for a function with a derivative of its own (custom_vjp)
        raise TypeError(
            "log_joint: expected two derivatives for the search of modes; num_scouts=0 omits it"
        ) from refusal
    modes, evaluations = found.modes, found.evaluations + num_scouts + DRAWS
    draws, log_density = _propose(key_draws, modes)
    log_p = map_points(lambda u: log_joint(unravel(u)), draws, ROWS)
    log_w = jnp.where(jnp.isnan(log_p) | ~modes.used.any(), -jnp.inf, log_p - log_density)
    total = logsumexp(log_w)
    error = jnp.sqrt(jnp.maximum(jnp.exp(logsumexp(2 * log_w) - 2 * total) - 1 / DRAWS, 0.0))
    error = jnp.where(total == -jnp.inf, jnp.inf, error)
    return Scouted(total - math.log(DRAWS), error, modes.number, evaluations)


@precision.full
def _search(density: LogJoint, z: Float[Array, "S D"]) -> _Search:
    """The modes uphill from the starts that no other mode explains, the highest or any of them."""
    together = batch_size(ROWS, 1, len(z))
    value, gradient = map_points(jax.value_and_grad(density), z, together)

    def more(state: _Search) -> Bool[Array, ""]:
        late = (state.evaluations >= MOST * len(z)) | (state.idle >= PATIENCE)
        return state.left.any() & ~late & (state.modes.number < SLOTS)

    def step(state: _Search) -> _Search:
        highest = jnp.where(state.left, value, -jnp.inf).argmax()
        # A start at random after one in vain: the highest are near the known modes.
        pick = jnp.where(state.idle % 2 == 0, highest, state.left.argmax())
        top = maximize(density, z[pick])
        factor = factor_of(top.curvature)
        mode = Modes(top.u[None], factor[None], density(top.u)[None])
        proper = jnp.isfinite(factor).all() & jnp.isfinite(top.u).all() & (top.distance < CONVERGED)
        explained = arrived(mode, inverses(mode.factors), z, value, gradient) >= 0
        left = (state.left & ~(explained & proper)).at[pick].set(False)
        spent = state.evaluations + top.num_steps * (z.shape[1] + 1) + 1
        modes = _with(state.modes, mode, proper)
        idle = jnp.where(modes.number > state.modes.number, 0, state.idle + 1)
        return _Search(modes, left, spent, idle)

    starts = jnp.isfinite(value) & jnp.isfinite(gradient).all(1)
    first = _Search(Modes.none(z[0], SLOTS), starts, jnp.int32(0), jnp.int32(0))
    found: _Search = jax.lax.while_loop(more, step, first)
    return found


def _with(modes: Modes, mode: Modes, proper: Bool[Array, ""]) -> Modes:
    """The modes with one more, unless it is known or not proper."""
    away = mode.means - modes.means
    by_known = (jnp.einsum("kd,kde->ke", away, modes.factors) ** 2).sum(1)
    square = jnp.maximum(by_known, ((away @ mode.factors[0]) ** 2).sum(1))
    new = proper & (jnp.where(modes.used, square, jnp.inf).min() >= SAME**2)
    pairs = zip(modes, mode, strict=True)
    slot = jnp.minimum(modes.number, SLOTS - 1)
    return Modes(*(jnp.where(new, all_.at[slot].set(one[0]), all_) for all_, one in pairs))


@precision.full
def _propose(key: Key[Array, ""], modes: Modes) -> tuple[Float[Array, "S D"], Float[Array, " S"]]:
    """Draws of the mixture of a normal and a Student t for each mode, and their log-densities."""
    dtype, dim = modes.means.dtype, modes.means.shape[1]
    shares = jax.nn.softmax(jnp.where(modes.used, modes.log_masses(), -jnp.inf))
    shares = (1 - DEFENSIVE) * shares + DEFENSIVE * modes.used / jnp.maximum(modes.number, 1)
    rank = (jnp.arange(DRAWS) + 0.5) / DRAWS
    pick = jnp.minimum((jnp.cumsum(shares)[None] < rank[:, None]).sum(1), SLOTS - 1)
    noise = jax.random.normal(key, (DRAWS, dim + int(FREEDOM)), dtype)
    wide = WIDTH * jnp.sqrt(FREEDOM / (noise[:, dim:] ** 2).sum(1))
    noise = jnp.where(jnp.arange(DRAWS) % 2 == 0, 1.0, wide)[:, None] * noise[:, :dim]

    def place(mode: Int[Array, ""], noise: Float[Array, " D"]) -> Float[Array, " D"]:
        return modes.means[mode] + solve_triangular(modes.factors[mode], noise, trans=1, lower=True)

    z = jax.vmap(place)(pick, noise)
    return z, jax.vmap(lambda one: _log_mixture(modes, jnp.log(shares), one))(z)


def _log_mixture(modes: Modes, log_shares: Float[Array, " K"], z: Float[Array, " D"]) -> Scalar:
    """The log-density of the mixture at one z."""
    dim, nu = z.size, FREEDOM
    square = (jnp.einsum("kd,kde->ke", z[None] - modes.means, modes.factors) ** 2).sum(1)
    constant = math.lgamma(0.5 * (nu + dim)) - math.lgamma(0.5 * nu)
    constant -= dim * (0.5 * math.log(nu * math.pi) + math.log(WIDTH))
    student = constant - 0.5 * (nu + dim) * jnp.log1p(square / (nu * WIDTH**2))
    both = jnp.logaddexp(-0.5 * (square + dim * LOG_2PI), student) - math.log(2.0)
    log_det = jnp.log(jnp.diagonal(modes.factors, axis1=1, axis2=2)).sum(1)
    return logsumexp(log_shares + log_det + both)


def check_missed(
    found: Evidence,
    scouted: Scouted | None,
    z: Latent,
    long: Bool[Array, ""],
    size: int,
    acceptance: Float[Array, " T"],
    target: float | None,
) -> Evidence:
    """The Evidence of `size` weights, with the checks that the second estimate allows.

    CONTRADICTED: the scouts' estimate plus its own error is above the 95% interval, and the
    scouts' estimate is above the estimate by 2 of its own errors. TAIL: `long_tail` holds, and the
    scouts' estimate does not confirm the chains: it is below the interval by more than 2 of its own
    errors, or its error is above 0.1 nats. ACCEPTANCE: the scouts' estimate
    is below the interval by more than D nats, so that the mass is not near the modes, and the
    acceptance of the moves is below half of its target at some temperature. z [S, ...] are the
    draws of the chains.
    """
    from scipy.special import stdtrit

    if scouted is None:
        return found
    half = float(stdtrit(max(size - 1, 1), 0.5 + LEVEL / 2)) * found.standard_error
    low, high = found.log_evidence - half, found.log_evidence + half
    second, error = scouted.log_evidence, scouted.standard_error
    above = (second + error > high) & (second - OWN * error > found.log_evidence)
    failed = bit(above, Check.CONTRADICTED)
    confirmed = (second + OWN * error >= low) & (error <= PRECISE)
    failed |= bit(long & ~confirmed, Check.TAIL)
    if target is not None:
        slow = ~(acceptance.min() >= SLOW * target)
        failed |= bit(slow & ~(second >= low - dimension(z)), Check.ACCEPTANCE)
    return found._replace(failed=found.failed | failed)


def check_ends(found: Evidence, log_ratio: Array, log_w: Array) -> Evidence:
    """The Evidence of chains whose ends have these log-weights, with STUCK in `failed` too.

    For z of p(z | x), log_ratio = log p(x, z) - log q(z) is below log p(x) - t with probability
    e^-t at most, because E[q(z) / p(x, z)] <= 1 / p(x). For weights with E[w f(z)] =
    p(x) E[f(z) | x], the mean of the w whose log_ratio is below log p(x) - log 20 - 5 is above
    0.05 p(x) with probability e^-5 at most, by Markov's inequality, however the chains depend on
    each other. STUCK: more than 5% of the weight is below this limit, with the estimate in place
    of p(x).
    """
    low = log_ratio < found.log_evidence - (CHANCE - math.log(STUCK))
    share = logsumexp(jnp.where(low, log_w, -jnp.inf)) - logsumexp(log_w)
    return found._replace(failed=found.failed | bit(share > math.log(STUCK), Check.STUCK))
