"""log Z by a proposal that gets one part after another where Markov chains of p show it to fail.

k-hat does not show mass that no draw has reached. Chains of p start at weighted draws and move into
such mass. A state whose weight, as one more draw, would shift log Z by more than its error
contradicts the estimate, and the states are the data of the next part.

Source: Guo et al. (2016), boosting, for the parts; Douc et al. (2007) for their least variance.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence import Check, Evidence
from lvm_jax.typing import Array, Distribution, Float, Key
from lvm_jax.vi import adaptive, chains
from lvm_jax.vi.adaptive import (
    ROUND,
    Drawn,
    adapt,
    draw,
    largest_log_weight,
    resampled,
    short_of_budget,
    tempered,
    thinned,
)
from lvm_jax.vi.density import Density
from lvm_jax.vi.proposal import Defended, fit_scales

MAX_DIM = 64  # of a proposal with conditional scales
ERROR = 0.02  # nats, the standard error of log Z to reach
MIN_ROUNDS, MAX_ROUNDS = 2, 16  # of draws for log Z
MISSED = 0.01  # share of states of p without draws that contradicts any estimate
ATTEMPTS = 6  # proposals, each with one more part
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of a new part
FIRST, THINNING = 3, 2  # of the states that are kept
JITTER = 1e-6  # relative, of the covariance of weighted draws


class Measured(NamedTuple):
    """log Z, the distribution of u whose draws measured it or may be resampled, and the cost."""

    evidence: Evidence
    proposal: Distribution  # of u, [D]
    evaluations: int  # values and gradients of log_density


class Checked(NamedTuple):
    """States of chains of p, and whether their weights by a proposal contradict its log Z."""

    u: Float[np.ndarray, "N D"]
    log_p: Float[np.ndarray, " N"]
    log_weights: Float[np.ndarray, " N"]
    contradicted: bool
    share: float  # of the states of chains from draws as p that contradict


def boost(
    key: Key[Array, ""], q: Distribution, density: Density, drawn: Drawn, budget: int
) -> Measured:
    """log Z by q, whose draws are `drawn`, or by a proposal with more parts.

    C chains see no mass below about Z / C: the standard error of a proposal that replaces a
    contradicted one includes 1 / C, and the share of states that still contradict it. Above
    `MISSED` of them the result has `Check.CONTRADICTED`. It has `Check.BUDGET` where `budget`
    evaluations do not pay for the chains of the last proposal.
    """
    key_adapt, *keys = split(key, 1 + ATTEMPTS)
    now, spent = q, 0
    attempt_cost = MIN_ROUNDS * ROUND + chains.NARROW.cost
    if int(drawn.evidence.failed) & adaptive.POOR:
        if budget < 2 * ROUND + attempt_cost:
            return Measured(short_of_budget(drawn.evidence), q, 0)
        adapted = adapt(key_adapt, q, density, q, (budget - attempt_cost) // ROUND)
        now, spent = adapted.proposal, adapted.evaluations
        drawn = draw(jax.random.fold_in(key_adapt, 1), now, density, MIN_ROUNDS)
        spent += MIN_ROUNDS * ROUND
    checked: Checked | None = None
    if spent + chains.NARROW.cost > budget:
        return Measured(short_of_budget(drawn.evidence), now, spent)
    for attempt, key_one in enumerate(keys):
        key_chains, key_draws = split(key_one)
        checked = check(key_chains, now, density, drawn, checked)
        spent += chains.NARROW.cost
        if drawn.evidence.reliable and not checked.contradicted:
            break
        if spent + attempt_cost > budget:
            return Measured(short_of_budget(drawn.evidence), now, spent)
        if attempt + 1 < ATTEMPTS:
            now = _extended(now, q, checked)
            drawn = draw(key_draws, now, density, MIN_ROUNDS)
            spent += MIN_ROUNDS * ROUND
    found = drawn.evidence
    number = min(_rounds(found), (budget - spent) // ROUND)
    if float(found.standard_error) > ERROR and number > MIN_ROUNDS:
        found = draw(jax.random.fold_in(key, 1), now, density, number).evidence
        spent += number * ROUND
    if now is not q and checked is not None:
        found = _with_unseen(found, checked.share)
    return Measured(found, now, spent)


def check(
    key: Key[Array, ""],
    now: Distribution,
    density: Density,
    drawn: Drawn,
    before: Checked | None = None,
) -> Checked:
    """Chains of p from weighted draws of `now`, and whether their weights contradict log Z.

    Half of the chains start from draws with weights w, as p. The others start where `now` has the
    least mass for p: with w^2, as p^2 / g, from the draws and the states `before`, which must be
    covered too.
    """
    known, of_known = drawn.u, drawn.log_weights
    if before is not None:
        old = np.asarray(_log_weights(jnp.asarray(before.u), jnp.asarray(before.log_p), now))
        known, of_known = np.concatenate([known, before.u]), np.concatenate([of_known, old])
    rng, half = np.random.default_rng(chains.seed(key)), chains.NUM_CHAINS // 2
    starts = [
        drawn.u[resampled(drawn.log_weights, half, rng)],
        known[resampled(2 * of_known, half, rng)],
    ]
    loc, factor = _moments(drawn.u, tempered(drawn.log_weights))
    arrays = (np.asarray(part, density.dtype) for part in (np.concatenate(starts), loc, factor))
    states = jax.tree.map(np.asarray, chains.run_chains(key, *arrays, density, chains.NARROW))
    u = states.u[:, FIRST::THINNING].reshape(-1, density.dim)
    log_p = states.log_p[:, FIRST::THINNING].ravel()
    log_w = np.asarray(_log_weights(u, log_p, now))
    cut = largest_log_weight(drawn.evidence)
    share = float((log_w[: log_w.size // 2] > cut).mean())
    every = Checked(u, log_p, log_w, bool((log_w > cut).any()), share)
    if before is None:
        return every
    return Checked(
        np.concatenate([every.u, before.u]),
        np.concatenate([every.log_p, before.log_p]),
        np.concatenate([log_w, old]),
        every.contradicted or bool((old > cut).any()),
        share,
    )


def _with_unseen(found: Evidence, share: float) -> Evidence:
    """With the mass that the chains may not have seen in the standard error."""
    unseen = share + 2 / chains.NUM_CHAINS
    failed = np.int32(found.failed) | np.int32(Check.CONTRADICTED if share > MISSED else 0)
    error = np.hypot(found.standard_error, unseen, dtype=found.standard_error.dtype)
    error, failed = jax.device_put((error, failed))
    return found._replace(standard_error=error, failed=failed)


def _extended(now: Distribution, q: Distribution, checked: Checked) -> Defended:
    """With one more part, for the least variance of the weights.

    The variance falls fastest by a part like p^2 / g, of which the states are draws with weights w.
    The share of the part minimises the mean of p / g over the states, an estimate of E_g[w^2] / Z.
    """
    log_w = np.asarray(checked.log_weights, float)
    part = fit_scales(*thinned(checked.u, tempered(log_w), np.random.default_rng(len(log_w))))
    log_part = np.asarray(_log_prob(jnp.asarray(checked.u), part), float)
    ratio = log_part - (checked.log_p - log_w)  # log part - log g
    second = [
        np.logaddexp.reduce(log_w - np.logaddexp(np.log1p(-share), np.log(share) + ratio))
        for share in SHARES
    ]
    share = SHARES[int(np.argmin(second))]
    if isinstance(now, Defended):
        return now.extended(part, share)
    return Defended.of(part, q, 1 - share)


@bounded_jit(lean=True)
def _log_prob(u: Float[Array, "N D"], part: Distribution) -> Float[Array, " N"]:
    return jax.vmap(part.log_prob)(u)


def _rounds(found: Evidence) -> int:
    """Rounds of draws for `ERROR`, a power of two."""
    needed = (float(found.standard_error) / ERROR) ** 2 * int(found.num_samples) / ROUND * 1.5
    return 2 ** int(np.ceil(np.log2(np.clip(needed, MIN_ROUNDS, MAX_ROUNDS))))


def _moments(
    u: Float[np.ndarray, "S D"], w: Float[np.ndarray, " S"]
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    """The weighted mean, and the lower factor of the weighted covariance."""
    p, u = w / w.sum(), np.asarray(u, float)
    loc = p @ u
    covariance = (u - loc).T @ ((u - loc) * p[:, None])
    ridge = JITTER * np.diagonal(covariance) + np.finfo(float).tiny
    return loc, np.linalg.cholesky(covariance + np.diag(ridge))


@bounded_jit(lean=True)
def _log_weights(
    u: Float[Array, "N D"], log_p: Float[Array, " N"], q: Distribution
) -> Float[Array, " N"]:
    log_w = log_p - jax.vmap(q.log_prob)(u)
    return jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)
