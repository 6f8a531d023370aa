"""Rounds of importance sampling, each from a proposal fitted to the weighted draws of the last.

Source: Cappe et al. (2008), population Monte Carlo; Owen and Zhou (2000), the share of q.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import weights
from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence import Check, Evidence, from_log_weights
from lvm_jax.typing import Array, Distribution, Float, Int, Key
from lvm_jax.vi.density import Density
from lvm_jax.vi.proposal import Defended, fit_scales

ROUND, MAX_ROUNDS = 10_000, 12  # draws of a round
POOLED, NUM_FITTED = 4, 4_000  # rounds, and draws of them, for one fit
LEAST_SHARE, LEAST_ESS = 0.05, 300  # of tempered weights
SHARE = 0.1  # of q in the proposal
AGREE = 4.0  # standard errors between two rounds
POOR = int(Check.PARETO | Check.ESS | Check.NONFINITE)  # weights that give no proposal
LEAST_SHIFT = 0.005  # nats, of log Z by one more draw; a smaller one contradicts nothing


class Drawn(NamedTuple):
    """Draws of a proposal with log Z from their weights."""

    u: Float[np.ndarray, "S D"]
    log_weights: Float[np.ndarray, " S"]
    evidence: Evidence


class Adapted(NamedTuple):
    """The last proposal, the evidence of its round, and the draws of all rounds."""

    proposal: Distribution
    evidence: Evidence
    evaluations: int


def adapt(
    key: Key[Array, ""], q: Distribution, density: Density, start: Distribution, most: int
) -> Adapted:
    """The proposal after at most `most` rounds, until two in turn are reliable and agree.

    q keeps a share of 0.1 in each proposal.
    """
    pool: list[tuple[np.ndarray, np.ndarray]] = []
    before: Evidence | None = None
    now = start
    for index in range(min(most, MAX_ROUNDS)):
        drawn = draw(jax.random.fold_in(key, index), now, density, 1)
        found = drawn.evidence
        reliable = before is not None and before.reliable and found.reliable
        if before is not None and reliable and agree(before, found):
            break
        before = found if index else None
        pool = [*pool, (drawn.u, tempered(drawn.log_weights))][-POOLED:]
        u, w = (np.concatenate(parts) for parts in zip(*pool, strict=True))
        rows, counts = thinned(u, w, np.random.default_rng(index))
        now = Defended.of(fit_scales(rows, counts), q, SHARE)
    return Adapted(now, found, (index + 1) * ROUND)


def draw(key: Key[Array, ""], q: Distribution, density: Density, num_rounds: int) -> Drawn:
    """`num_rounds` times `ROUND` draws of q; NaN, where p and q are 0, is a weight of 0."""
    keys = split(key, num_rounds)
    u, log_w = (
        np.concatenate(part) for part in zip(*(_draw(one, q, density) for one in keys), strict=True)
    )
    return Drawn(u, log_w, _evidence(log_w))


def short_of_budget(found: Evidence) -> Evidence:
    """The evidence, not reliable because its budget did not pay for the search for missed mass."""
    return found._replace(failed=found.failed | int(Check.BUDGET))


def agree(one: Evidence, two: Evidence) -> bool:
    """Whether two independent estimates differ by at most four standard errors."""
    error = np.hypot(one.standard_error, two.standard_error)
    return bool(abs(one.log_evidence - two.log_evidence) <= AGREE * error)


def largest_log_weight(found: Evidence) -> float:
    """The log-weight that, as one more draw, shifts log Z by its standard error, at least 0.005."""
    shift = max(float(found.standard_error), LEAST_SHIFT)
    return float(found.log_evidence) + float(np.log(int(found.num_samples) * shift))


def tempered(log_w: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Weights to the largest power <= 1 with enough effective draws, scaled to sum to them."""
    log_w = np.asarray(log_w, float)
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


def thinned(
    u: Float[np.ndarray, "S D"], w: Float[np.ndarray, " S"], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """At most `NUM_FITTED` different rows by systematic resampling, and counts."""
    with np.errstate(divide="ignore"):
        rows = resampled(np.log(w), NUM_FITTED, rng)
    rows, counts = np.unique(rows, return_counts=True)
    return u[rows], counts.astype(float)


def resampled(
    log_w: Float[np.ndarray, " S"], number: int, rng: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """`number` rows by systematic resampling with weights w."""
    w = np.exp(np.asarray(log_w, float) - np.max(log_w))
    places = (np.arange(number) + rng.random()) / number
    return np.searchsorted(np.cumsum(w) / w.sum(), places).clip(0, w.size - 1)


@bounded_jit(lean=True)
def _draw(key: Key[Array, ""], q: Distribution, density: Density) -> tuple[Array, Array]:
    found = weights.weigh(key, density, q, ROUND)
    return found.z, jnp.where(jnp.isnan(found.log_weights), -jnp.inf, found.log_weights)


@bounded_jit(lean=True)
def _evidence(log_w: Float[Array, " S"]) -> Evidence:
    return from_log_weights(log_w)
