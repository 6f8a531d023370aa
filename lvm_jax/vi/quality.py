"""How good q is: the ELBO and log Z from new draws, by a better proposal where q's weights fail.

Source: Yao et al. (2018) for k-hat of q; `vi.boosting`, `vi.far` and `vi.scouts` for log Z.
"""

from concurrent.futures import Executor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import weights
from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Check, Evidence, from_log_weights
from lvm_jax.typing import Array, Distribution, Float, Key
from lvm_jax.vi import chains
from lvm_jax.vi.adaptive import Drawn, agree, short_of_budget
from lvm_jax.vi.boosting import MAX_DIM, Measured, boost
from lvm_jax.vi.density import Density
from lvm_jax.vi.far import BRIDGE, from_afar
from lvm_jax.vi.method import Task
from lvm_jax.vi.modes_table import UNSEEN, Modes
from lvm_jax.vi.scouts import compile_ascents, scout

CHUNK = 1_000  # draws in one evaluation of the weights
MISSED = 0.01  # share of Z at modes without draws, above which they contradict log Z


def compile_ahead(key: Key[Array, ""], density: Density, budget: int, pool: Executor) -> None:
    """Compile the programs of `refine` that do not depend on q in a thread, while q is fitted.

    Not where the budget does not pay for the chains, without which there are no ascents.
    """
    if density.dim > MAX_DIM:
        compile_ascents(density, pool)
    elif budget >= chains.NARROW.cost:
        chains.compile_ahead(key, density, chains.NARROW, pool)
        compile_ascents(density, pool)


class First(NamedTuple):
    """The ELBO and log Z by draws of q, and the first of these draws."""

    elbo: Estimate
    importance: Evidence
    u: Float[Array, "S D"]  # CHUNK of them
    log_weights: Float[Array, " S"]


@bounded_jit(3, lean=True)
def measure(key: Key[Array, ""], q: Distribution, density: Density, num_chunks: int) -> First:
    """The ELBO and log Z, from the same draws of u by q."""

    def chunk(kept: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        index, key = now
        found = weights.weigh(key, density, q, CHUNK)
        return jnp.where(index == 0, found.z, kept), found.log_weights

    rows = jnp.arange(num_chunks), jax.random.split(key, num_chunks)
    none = jnp.zeros((CHUNK, density.dim), density.dtype)
    u, log_w = jax.lax.scan(chunk, none, rows)
    every = log_w.ravel()
    return First(Estimate.of_draws(every), from_log_weights(every), u, log_w[0])


def unknown(first: First) -> First:
    """The ELBO and log Z of a density that has none: NaN, not reliable."""
    log_w = jnp.full(CHUNK, jnp.nan, first.log_weights.dtype)
    return First(Estimate.of_draws(log_w), from_log_weights(log_w), first.u, log_w)


def refine(key: Key[Array, ""], q: Distribution, task: Task, first: First, budget: int) -> Measured:
    """log Z by q's own draws if no check contradicts them, else by those of a better proposal.

    1. Where the weights of q are not trusted, rounds of importance sampling (`vi.adaptive`) lead to
       a first proposal.
    2. Chains of p (`vi.chains`) start at weighted draws. A state whose weight, as one more draw,
       would shift log Z by more than its standard error contradicts it. The proposal then gets one
       more part, fitted to the states with their weights, and new draws (`vi.boosting`).
    3. Ascents from far points (`vi.scouts`) search for modes without draws.

    For D > 64, or where k-hat distrusts the last proposal, log Z is that of the bridge from q to
    chains of p, or of chains annealed from q (`vi.far`). An annealed log Z that disagrees with that
    of the proposal is contradicted. The evidence has `Check.BUDGET` where `budget` evaluations do
    not pay for this.
    """
    importance, density = first.importance, task.density
    if not 0 < float(importance.ess) < np.inf:
        return Measured(importance, q, 0)
    key_near, key_far, key_scouts = split(key, 3)
    found = Measured(importance, q, 0)
    if density.dim <= MAX_DIM:
        log_w = np.nan_to_num(np.asarray(first.log_weights), nan=-np.inf, posinf=np.inf)
        drawn = Drawn(np.asarray(first.u), log_w, importance)
        found = boost(key_near, q, density, drawn, budget)
    far = density.dim > MAX_DIM and not importance.reliable
    if far or int(found.evidence.failed) & int(Check.PARETO):
        left = budget - found.evaluations
        if left < BRIDGE:
            return found._replace(evidence=short_of_budget(found.evidence))
        evidence, spent = from_afar(key_far, q, density, left)
        if not far and not agree(found.evidence, evidence):
            evidence = evidence._replace(failed=evidence.failed | int(Check.CONTRADICTED))
        found = Measured(evidence, found.proposal, found.evaluations + spent)
    found = found._replace(evidence=_with_rounding(found.evidence, density.dim))
    return _scouted(key_scouts, q, task, found)


def _with_rounding(found: Evidence, dim: int) -> Evidence:
    """With the rounding of log p and log q, sums of D terms, in the standard error.

    It is the largest part where the weights are nearly equal.
    """
    log_z = np.asarray(found.log_evidence)
    rounding = np.finfo(log_z.dtype).eps * np.maximum(np.abs(log_z), dim)
    error = np.hypot(np.asarray(found.standard_error), rounding, dtype=log_z.dtype)
    return found._replace(standard_error=jax.device_put(error))


def with_unseen(found: Evidence, modes: Modes | None) -> Evidence:
    """The evidence, not reliable (`Check.BUDGET`) where many modes may not have been found."""
    if modes is None or modes.unseen <= UNSEEN:
        return found
    return short_of_budget(found)


def _scouted(key: Key[Array, ""], q: Distribution, task: Task, found: Measured) -> Measured:
    """The same, contradicted where scouts find modes that hold more than `MISSED` of Z."""
    evidence = found.evidence
    if not evidence.reliable:
        return found
    scouted = scout(key, q, found.proposal, task.density, evidence, task.draw_start)
    spent = found.evaluations + scouted.evaluations
    if scouted.share > MISSED:
        evidence = evidence._replace(failed=evidence.failed | int(Check.CONTRADICTED))
    return Measured(evidence, found.proposal, spent)
