"""A proposal fitted to weighted draws: shares by EM, moments of the modes (adaptive importance).

The draws come from one mixture, whose density is the denominator of their weights, so that a weight
counts each region once, however many components cover it.

Source: Hesterberg (1995) and Owen and Zhou (2000) for mixtures; Cappe et al. (2008), equation 8,
for the shares; Cornuet et al. (2012) for the moments.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax import precision, weights
from lvm_jax.evidence.importance import BOUNDED, CHUNK_SIZE
from lvm_jax.evidence.modes import KINDS, Cover, Modes
from lvm_jax.typing import Array, Float, Key, Latent, Scalar

STEPS = 100  # of EM
NEAREST = 50  # draws that give a component its covariance
LEAST_Q, LEAST_MODES = 0.01, 0.01  # least shares of q, and of all modes
EDGE = 32  # draws kept: half with the largest weights, half in proportion to their weights
TAIL = 0.05  # least share of the Student component in that of its mode


class Pilot(NamedTuple):
    """The proposal that draws suggest, of ONE point."""

    log_shares: Float[Array, " C"]  # fitted to the draws, for the same components
    modes: Modes | None  # with the moments of the draws
    variance: Scalar  # Var(w) / E[w]^2 of the fitted proposal
    masses: Float[Array, " K"]  # shares of the modes in the evidence
    reach: Scalar  # the largest log-weight of the loose ends under the fitted proposal, nats


class Loose(NamedTuple):
    """Points that the proposal has to cover, though no mode was found there."""

    z: Latent  # leaves [L, ...]
    log_p: Float[Array, " L"]  # -inf in an unused row


class Edge(NamedTuple):
    """Draws from which chains leave the proposal, of ONE point."""

    largest: Scalar  # log-weight of all draws
    z: Float[Array, "B D"]  # flat


def first_shares(modes: Modes | None, number: np.ndarray, prior_share: float) -> np.ndarray:
    """Log-shares [N, C] of the first pilot: of the modes 0.5, half of it in equal parts.

    `modes` have NumPy leaves [N, ...]; the first `number` [N] are modes, and the others shoulders.
    The prior has a tenth, unless prior_share is 0, q the rest.
    """
    prior = np.full((len(number), 1), min(max(prior_share, 0.1), 0.5) if prior_share else 0.0)
    own = np.zeros((len(number), 0))
    if modes is not None:
        used = ~np.isneginf(modes.heights)
        equal = used / np.maximum(used.sum(1, keepdims=True), 1)
        log_det = np.log(np.diagonal(modes.factors, axis1=2, axis2=3)).sum(2)
        log_mass = np.where(used, modes.heights - log_det, -np.inf)
        # The mass of a shoulder is extrapolated: it counts as at most that of the largest mode.
        is_mode = np.arange(used.shape[1])[None] < np.asarray(number)[:, None]
        most = np.where(is_mode, log_mass, -np.inf).max(1, keepdims=True)
        log_mass = np.minimum(log_mass, np.where(np.isfinite(most), most, np.inf))
        high = log_mass.max(1, keepdims=True)
        mass = np.exp(log_mass - np.where(np.isfinite(high), high, 0.0))
        by_mass = mass / np.maximum(mass.sum(1, keepdims=True), 1e-30)
        own = np.repeat(0.25 * (equal + by_mass) / KINDS, KINDS, axis=1)
    q = 1 - prior - own.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_shares = np.log(np.concatenate([q, prior, own], 1))
    return log_shares.astype(jax.dtypes.canonicalize_dtype(np.float64))


class Chunk(NamedTuple):
    """S draws of a proposal."""

    z: Latent  # leaves [S, ...]
    log_p: Float[Array, " S"]  # log p(x, z), nats
    log_parts: Float[Array, "S C"]  # of the components


def chunk(
    key: Key[Array, ""], log_joint: weights.LogJoint, proposal: Cover
) -> tuple[Float[Array, " S"], Chunk]:
    """The log-weights of CHUNK_SIZE draws of the proposal, and the draws."""
    z = weights.draw(key, proposal, CHUNK_SIZE)
    log_p, parts = jax.vmap(lambda z: (log_joint(z), proposal.log_parts(z)))(z)
    log_w = log_p - jax.nn.logsumexp(parts + proposal.log_shares[None], axis=1)
    return log_w, Chunk(z, log_p, parts)


def edge(largest: Scalar, draws: Chunk, proposal: Cover) -> Edge:
    """EDGE draws: those with the largest weights, and others in proportion to their weights."""
    log_w = draws.log_p - jax.nn.logsumexp(draws.log_parts + proposal.log_shares[None], axis=1)
    usable, half = jnp.where(jnp.isfinite(log_w), log_w, -jnp.inf), EDGE // 2
    below = jnp.cumsum(jax.nn.softmax(usable))
    weighted = jnp.searchsorted(below, (jnp.arange(half, dtype=below.dtype) + 0.5) / half)
    rows = [jax.lax.top_k(usable, half)[1], jnp.minimum(weighted, log_w.size - 1)]
    picked = jax.tree.map(lambda leaf: leaf[jnp.concatenate(rows)], draws.z)
    return Edge(largest, jax.vmap(lambda one: ravel_pytree(one)[0])(picked))


@precision.full
def fit(draws: Chunk, proposal: Cover, loose: Loose | None, prior_share: float) -> Pilot:
    """The shares, and the moments of the modes, fitted to draws of the proposal."""
    parts = draws.log_parts
    log_w = draws.log_p - jax.nn.logsumexp(parts + proposal.log_shares[None], axis=1)
    usable = jnp.where(jnp.isfinite(log_w), log_w, -jnp.inf)
    weight = jnp.exp(usable - jnp.maximum(usable.max(), jnp.finfo(usable.dtype).min))
    shares = fitted_shares(parts, weight, proposal, prior_share)
    ratio = weight / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)
    log_fitted = draws.log_p - jax.nn.logsumexp(parts + jnp.log(shares)[None], axis=1)
    # E[w^2] of the fitted proposal is E[w w_fitted] of these draws.
    relative = jnp.where(ratio > 0, jnp.exp(log_fitted - usable.max()), 0.0)
    variance = len(ratio) * (ratio * relative).sum() / weight.sum() - 1
    variance = jnp.where(weight.sum() > 0, jnp.maximum(variance, 0.0), jnp.inf)
    log_shares = jnp.log(shares)
    modes = None
    masses = jnp.zeros(0)
    if proposal.modes is not None:
        flat = jax.vmap(lambda one: ravel_pytree(one)[0])(draws.z)
        modes, masses = _moments(proposal.modes, flat, parts, ratio, shares)
        modes = _with_component(modes, flat, jnp.where(ratio > 0, log_fitted, -jnp.inf), ratio)
    reach = _reach(proposal._replace(log_shares=log_shares), loose)
    return Pilot(log_shares, modes, variance, masses, reach)


def _reach(proposal: Cover, loose: Loose | None) -> Scalar:
    if loose is None:
        return jnp.asarray(-jnp.inf)
    log_w = jax.vmap(lambda z, log_p: log_p - proposal.log_prob(z))(loose.z, loose.log_p)
    return jnp.where(jnp.isneginf(loose.log_p), -jnp.inf, log_w).max()


def fitted_shares(
    parts: Float[Array, "S C"], weight: Float[Array, " S"], proposal: Cover, prior_share: float
) -> Float[Array, " C"]:
    """The shares a that maximise sum_s w_s log sum_c a_c q_c(z_s), by EM, and least shares."""
    high = parts.max(1, keepdims=True)
    likely = jnp.exp(parts - jnp.where(jnp.isfinite(high), high, 0.0))
    weight = weight / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)
    tiny = jnp.finfo(parts.dtype).tiny

    def step(_: Array, share: Array) -> Array:
        share = share * ((weight / jnp.maximum(likely @ share, tiny)) @ likely)
        return share / jnp.maximum(share.sum(), tiny)

    first = jnp.exp(proposal.log_shares)
    parts, weight, first = jax.tree.map(
        lambda part: part.astype(jnp.result_type(parts, first)), (parts, weight, first)
    )
    share = jax.lax.fori_loop(0, STEPS, step, first)
    share = jnp.where(jnp.isfinite(share).all() & (share.sum() > 0.5), share, first)
    least = jnp.zeros_like(share).at[0].set(LEAST_Q).at[1].set(prior_share)
    if proposal.modes is not None:
        pairs = share[2:].reshape(-1, KINDS)
        both = pairs.sum(1)
        tail = jnp.maximum(pairs[:, 1], TAIL * both)
        share = share.at[2:].set(jnp.stack([both - tail, tail], 1).ravel())
        least = least.at[2:].set(LEAST_MODES * first[2:] / jnp.maximum(first[2:].sum(), tiny))
    return least + (1 - least.sum()) * share


def _moments(
    modes: Modes,
    flat: Float[Array, "S D"],
    parts: Float[Array, "S C"],
    ratio: Float[Array, " S"],
    shares: Float[Array, " C"],
) -> tuple[Modes, Float[Array, " K"]]:
    """The modes with means and covariances of the weighted draws, and their masses.

    A draw belongs to the modes in proportion to their parts of the proposal. The covariance is a
    mean of that of the draws, with the weight of their effective number, and the old one, with the
    weight D + 2.
    """
    own = parts[:, 2:] + jnp.log(shares[2:])[None]
    own = jax.nn.logsumexp(own.reshape(len(own), -1, KINDS), axis=2)
    belongs = jax.nn.softmax(jnp.where(modes.used[None], own, -jnp.inf), axis=1)
    weight = ratio[:, None] * jnp.where(jnp.isfinite(belongs), belongs, 0.0)  # [S, K]
    masses = weight.sum(0)
    tiny = jnp.finfo(weight.dtype).tiny
    number = masses**2 / jnp.maximum((weight**2).sum(0), tiny)
    weight = weight / jnp.maximum(masses, tiny)[None]

    def moment(mean: Array, factor: Array, weight: Array, number: Scalar) -> tuple[Array, Array]:
        white = (flat - mean[None]) @ factor  # by the old normal, whose covariance is then I
        prior = mean.size + 2.0
        centre = number / (number + prior) * (weight @ white)
        away = white - centre[None]
        covariance = (number * (away.T * weight[None]) @ away + prior * jnp.eye(mean.size)) / (
            number + prior
        )
        root = jnp.linalg.cholesky(jnp.linalg.inv(covariance))
        new = jax.scipy.linalg.solve_triangular(factor, centre, trans=1, lower=True)
        product = factor @ root
        proper = jnp.isfinite(product).all() & jnp.isfinite(new).all()
        return jnp.where(proper, mean + new, mean), jnp.where(proper, product, factor)

    means, factors = jax.vmap(moment)(modes.means, modes.factors, weight.T, number)
    return Modes(means, factors, modes.heights), masses


def _with_component(
    modes: Modes,
    flat: Float[Array, "S D"],
    log_w: Float[Array, " S"],
    ratio: Float[Array, " S"],
) -> Modes:
    """With a normal where the largest weight exceeds BOUNDED times the mean, in a free slot.

    It is at that draw, with the covariance of its NEAREST draws, by the metric of the nearest mode,
    and D + 2 draws at their mean distance. Source: Raftery and Bao (2010), section 2.2.
    """
    centre = flat[log_w.argmax()]
    size, dim = flat.shape
    white = jnp.einsum("kd,kde->ke", centre[None] - modes.means, modes.factors)
    nearest = jnp.where(modes.used, (white**2).sum(1), jnp.inf).argmin()
    factor = modes.factors[nearest]
    away = (flat - centre[None]) @ factor
    near = jax.lax.top_k(-(away**2).sum(1), NEAREST)[1]
    away, weight = away[near], ratio[near] + 1 / size
    weight = weight / weight.sum()
    spread = (away.T * weight[None]) @ away
    even = (dim + 2) * jnp.trace(spread) / dim
    covariance = (NEAREST * spread + even * jnp.eye(dim)) / (NEAREST + dim + 2)
    product = factor @ jnp.linalg.cholesky(jnp.linalg.inv(covariance))
    uneven = log_w.max() - jax.nn.logsumexp(log_w) + jnp.log(size) > jnp.log(BOUNDED)
    slot = (~modes.used).argmax()
    new = uneven & ~modes.used[slot] & modes.used.any() & jnp.isfinite(product).all()
    pairs = zip(modes, (centre, product, jnp.zeros(())), strict=True)
    return Modes(*(jnp.where(new, all_.at[slot].set(one), all_) for all_, one in pairs))
