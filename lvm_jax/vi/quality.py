"""How good q is: the ELBO and log Z from new draws, by a better proposal where q's weights fail."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, weights
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Check, Evidence, annealed, from_log_weights
from lvm_jax.evidence.result import TRUSTED_K_HAT
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar
from lvm_jax.vi.density import Density
from lvm_jax.vi.modes_table import UNSEEN, Modes
from lvm_jax.vi.proposal import Defended, fit_scales

CHUNK = 1_000  # draws in one evaluation of the weights
NUM_CHAINS, NUM_TEMPERATURES = 256, 200  # of annealing
ERROR = 0.02  # nats, the standard error of log Z to reach
ROUND, MAX_ROUNDS, MAX_DRAWS = 10_000, 24, 160_000  # draws of adaptive importance sampling
MAX_DIM = 64  # of a proposal with conditional scales
POOLED, NUM_FITTED = 4, 4_000  # rounds, and draws of them, for one fit
LEAST_SHARE, LEAST_ESS = 0.05, 300  # of tempered weights
SHARE = 0.1  # of q in the proposal
ATTEMPTS = 4  # at a reliable proposal
AGREE = 4.0  # standard errors between two rounds


class Measured(NamedTuple):
    """log Z, and the distribution of u whose draws measured it or may be resampled."""

    evidence: Evidence
    proposal: Distribution  # of u, [D]


@bounded_jit(3)
def measure(
    key: Key[Array, ""], q: Distribution, density: Density, num_chunks: int
) -> tuple[Estimate, Evidence]:
    """The ELBO and log Z, from the same draws of u by q."""

    def chunk(key: Key[Array, ""]) -> Float[Array, " S"]:
        return weights.log_weights(key, density, q, CHUNK)

    log_w = jax.lax.map(chunk, jax.random.split(key, num_chunks)).ravel()
    return Estimate.of_draws(log_w), from_log_weights(log_w)


def unknown(dtype: Any) -> tuple[Estimate, Evidence]:
    """The ELBO and log Z of a density that has none: NaN, not reliable."""
    log_w = jnp.full(CHUNK, jnp.nan, dtype)
    return Estimate.of_draws(log_w), from_log_weights(log_w)


def refine(
    key: Key[Array, ""], q: Distribution, density: Density, importance: Evidence
) -> Measured:
    """log Z by q's own draws if they are reliable and precise, else by those of a better proposal.

    The better proposal, `lvm_jax.vi.proposal`, is fitted in rounds to the weighted draws of the
    last one. Where k-hat distrusts it too, or D > 64, chains are annealed from q.
    """
    if importance.reliable and importance.standard_error <= ERROR:
        return Measured(importance, q)
    if not np.isfinite(importance.ess) or importance.ess == 0:
        return Measured(importance, q)
    key_rounds, key_chains = jax.random.split(key)
    found = Measured(importance, q)
    for attempt in range(ATTEMPTS if density.dim <= MAX_DIM else 0):
        key_adapt, key_last = jax.random.split(jax.random.fold_in(key_rounds, attempt))
        start = q if attempt == 0 else found.proposal
        found = _conclude(key_last, density, _adapt(key_adapt, q, density, start))
        if found.evidence.reliable:
            return found
    if found.evidence.k_hat <= TRUSTED_K_HAT:
        return found
    return Measured(anneal(key_chains, q, density), found.proposal)


def with_unseen(found: Evidence, modes: Modes | None) -> Evidence:
    """The evidence, not reliable (`Check.BUDGET`) where many modes may not have been found."""
    if modes is None or modes.unseen <= UNSEEN:
        return found
    return found._replace(failed=found.failed | int(Check.BUDGET))


def _adapt(key: Key[Array, ""], q: Distribution, density: Density, now: Distribution) -> Measured:
    """The proposal after rounds from `now`, until two in turn are reliable and agree."""
    pool: list[tuple[np.ndarray, np.ndarray]] = []
    before = None
    share = jnp.asarray(SHARE, density.dtype)
    for index in range(MAX_ROUNDS):
        u, log_w = _draw(jax.random.fold_in(key, index), now, density)
        found = _evidence(log_w)
        if before is not None and before.reliable and found.reliable and _agree(before, found):
            return Measured(found, now)
        before = found if index else None
        pool = [*pool, (np.asarray(u), _tempered(np.asarray(log_w, float)))][-POOLED:]
        rows, counts = _thinned(pool, np.random.default_rng(index))
        now = Defended(fit_scales(rows, counts), q, share)
    return Measured(found, now)


def _conclude(key: Key[Array, ""], density: Density, adapted: Measured) -> Measured:
    """log Z from new draws of the proposal, as many as its error needs."""
    needed = (float(adapted.evidence.standard_error) / ERROR) ** 2 * 1.5
    number = 2 ** int(np.ceil(np.log2(np.clip(needed, 4, MAX_DRAWS / ROUND))))
    keys = jax.random.split(key, number)
    log_w = jnp.concatenate([_draw(one, adapted.proposal, density)[1] for one in keys])
    found = _evidence(log_w)
    if not _agree(adapted.evidence, found):
        found = found._replace(failed=found.failed | int(Check.CONTRADICTED))
    return Measured(found, adapted.proposal)


def _agree(one: Evidence, two: Evidence) -> bool:
    error = np.hypot(one.standard_error, two.standard_error)
    return bool(abs(one.log_evidence - two.log_evidence) <= AGREE * error)


def _tempered(log_w: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Weights to the largest power <= 1 with enough effective draws, scaled to sum to them."""
    log_w = np.where(np.isfinite(log_w), log_w - np.nanmax(log_w[log_w < np.inf]), -np.inf)
    least = max(LEAST_ESS, LEAST_SHARE * log_w.size)

    def ess(power: float) -> float:
        w = np.exp(power * log_w)
        return float(w.sum() ** 2 / (w**2).sum())

    low, high = (1.0, 1.0) if ess(1.0) >= least else (0.0, 1.0)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if ess(middle) >= least else (low, middle)
    w = np.exp(low * log_w)
    return w * w.sum() / (w**2).sum()


def _thinned(
    pool: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """At most `NUM_FITTED` different rows of the pool by systematic resampling, and counts."""
    u, w = (np.concatenate(parts) for parts in zip(*pool, strict=True))
    places = (np.arange(NUM_FITTED) + rng.random()) / NUM_FITTED
    rows = np.searchsorted(np.cumsum(w) / w.sum(), places).clip(0, w.size - 1)
    rows, counts = np.unique(rows, return_counts=True)
    return u[rows], counts.astype(float)


@bounded_jit()
def _draw(key: Key[Array, ""], q: Distribution, density: Density) -> tuple[Array, Array]:
    """`ROUND` draws of u with their log-weights; NaN, where p and q are 0, is a weight of 0."""
    found = weights.weigh(key, density, q, ROUND)
    return found.z, jnp.where(jnp.isnan(found.log_weights), -jnp.inf, found.log_weights)


@bounded_jit()
def _evidence(log_w: Float[Array, " S"]) -> Evidence:
    return from_log_weights(log_w)


@bounded_jit()
def anneal(key: Key[Array, ""], q: Distribution, density: Density) -> Evidence:
    """log Z by annealed chains from q, for a q whose weights are not trusted."""
    plan = annealing.plan(annealing.sigmoid(NUM_TEMPERATURES))
    return annealed(key, density, q, NUM_CHAINS, plan).evidence


@bounded_jit()
def value_and_grad(u: Float[Array, " D"], density: Density) -> tuple[Scalar, Array]:
    """The log-density of one u with its gradient."""
    return jax.value_and_grad(density)(u)
