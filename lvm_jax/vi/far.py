"""log Z where no proposal is fitted: bridge sampling between q and chains of p, or annealing.

Draws of q and states of chains of p, which start at weighted draws of q and move in its
coordinates, give log Z by the bridge where q and p overlap, in any number of dimensions. Where the
chains still drift, or the overlap is too small, chains are annealed from q.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, evidence
from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Annealed, Check, Evidence
from lvm_jax.typing import Array, Distribution, Float, Key
from lvm_jax.vi import chains
from lvm_jax.vi.adaptive import AGREE, ROUND, Drawn, draw, resampled, short_of_budget, tempered
from lvm_jax.vi.bridge import bridge
from lvm_jax.vi.density import Density

NUM_CHAINS, NUM_TEMPERATURES, NUM_LEAPFROGS = 256, 200, 10  # of annealing
ANNEALING = annealing.chain_cost(NUM_CHAINS, NUM_TEMPERATURES, NUM_LEAPFROGS)
ANNEALING += annealing.pilot_cost(NUM_TEMPERATURES, NUM_LEAPFROGS)
BRIDGE = ROUND + chains.LONG.cost  # evaluations
MAX_FULL = 2_000  # dimensions with the full covariance of q in the coordinates of the chains
WARM_UP = 4  # moves that no estimate uses
MIXED = 1.2  # the largest R-hat of chains that have moved through p
ERROR = 0.2  # nats, the largest standard error of a bridge; its linear formula holds below


class Bridged(NamedTuple):
    """log Z by all later states of the chains, and by parts of the states."""

    every: Estimate
    early: Estimate  # by earlier states
    unweighted: Estimate  # by later states of chains from draws of q
    weighted: Estimate  # by those of chains from weighted draws
    r_hat: float  # of later states, the largest over coordinates and log p

    @property
    def drift(self) -> float:
        """The rise from earlier to all later states [nats]: chains reach mass that starts miss."""
        return max(float(self.every.value - self.early.value), 0.0)

    @property
    def settled(self) -> bool:
        """Whether the error is small and every chain moves through p, without drift or start."""
        within = self.drift <= np.hypot(self.every.standard_error, self.early.standard_error)
        error = np.hypot(self.unweighted.standard_error, self.weighted.standard_error)
        apart = abs(self.unweighted.value - self.weighted.value)
        small = self.every.standard_error <= ERROR and self.r_hat <= MIXED
        return bool(small and within and apart <= 2 * error)

    @property
    def estimate(self) -> Estimate:
        """log Z, with the drift in its standard error."""
        return Estimate(self.every.value, np.hypot(self.every.standard_error, self.drift))


def from_afar(
    key: Key[Array, ""], q: Distribution, density: Density, budget: int
) -> tuple[Evidence, int]:
    """log Z, and its evaluations: by the bridge if it is settled, else by annealing from q.

    The evidence of annealing is contradicted where the bridge from the ends of its chains, which
    have moved on, is not settled or disagrees. `budget` has to pay for a round of draws and the
    bridge; it is not reliable (BUDGET) where it does not pay for the annealing that is needed.
    """
    key_draw, key_chains, key_anneal, key_ends = split(key, 4)
    drawn = draw(key_draw, q, density, 1)
    rng = np.random.default_rng(chains.seed(key))
    half = chains.NUM_CHAINS // 2
    weighted = drawn.u[resampled(np.log(tempered(drawn.log_weights)), half, rng)]
    starts = np.concatenate([drawn.u[:half], weighted])
    bridged = _bridged(key_chains, q, density, drawn, starts)
    spent = BRIDGE
    if bridged.settled:
        return _as_evidence(drawn.evidence, bridged.estimate), spent
    if spent + ANNEALING + chains.LONG.cost > budget:
        return short_of_budget(drawn.evidence), spent
    found = _anneal(key_anneal, q, density)
    spent += ANNEALING
    if not np.isfinite(found.evidence.log_evidence):
        return found.evidence, spent
    log_w = np.nan_to_num(np.asarray(found.log_weights), nan=-np.inf)
    ends = np.asarray(found.z)[resampled(log_w, chains.NUM_CHAINS, rng)]
    bridged = _bridged(key_ends, q, density, drawn, ends)
    error = np.hypot(bridged.every.standard_error, found.evidence.standard_error)
    apart = abs(bridged.every.value - found.evidence.log_evidence)
    failed = found.evidence.failed
    if not (bridged.settled and apart <= AGREE * error):
        failed = failed | int(Check.CONTRADICTED)
    return found.evidence._replace(failed=failed), spent + chains.LONG.cost


def _bridged(
    key: Key[Array, ""], q: Distribution, density: Density, drawn: Drawn, starts: np.ndarray
) -> Bridged:
    loc, factor = _coordinates(drawn.u)
    arrays = (jnp.asarray(part, density.dtype) for part in (starts, loc, factor))
    states = chains.run_chains(key, *arrays, density, chains.LONG)
    log_w = np.asarray(_log_weights(states, q), float)
    middle, half = log_w.shape[1] // 2, len(log_w) // 2
    late = log_w[:, middle:]
    parts = late, log_w[:, WARM_UP:middle], late[:half], late[half:]
    every, early, unweighted, weighted = (bridge(drawn.log_weights, part) for part in parts)
    rows = np.concatenate([states.u, np.asarray(states.log_p)[..., None]], 2)[:, middle:]
    return Bridged(every, early, unweighted, weighted, r_hat(rows))


def r_hat(states: Float[np.ndarray, "C T D"]) -> float:
    """The largest over D of Gelman and Rubin's sqrt(1 + Var(chain means) / Var(within chains))."""
    between = states.mean(1, dtype=float).var(0, ddof=1)
    within = states.var(1, dtype=float, ddof=1).mean(0)
    return float(np.sqrt(1 + between / np.maximum(within, np.finfo(float).tiny)).max())


def _coordinates(u: Float[np.ndarray, "S D"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower factor of the covariance of draws; of its diagonal in many dimensions."""
    loc, dim = u.mean(0), u.shape[1]
    if dim > MAX_FULL:
        return loc, np.diag(u.std(0))
    covariance = np.cov(u.T.astype(float)).reshape(dim, dim)
    return loc, np.linalg.cholesky(covariance + 1e-6 * np.diag(np.diagonal(covariance)))


def _as_evidence(found: Evidence, bridged: Estimate) -> Evidence:
    """The bridge with the diagnostics of the draws of q, whose tails it does not need."""
    dtype = found.log_evidence.dtype
    value, error = (jnp.asarray(part, dtype) for part in bridged)
    return found._replace(log_evidence=value, standard_error=error, failed=jnp.int32(0))


@bounded_jit(lean=True)
def _log_weights(states: chains.States, q: Distribution) -> Float[Array, "C T"]:
    return states.log_p - jax.lax.map(jax.vmap(q.log_prob), states.u)


@bounded_jit(lean=True)
def _anneal(key: Key[Array, ""], q: Distribution, density: Density) -> Annealed:
    moves = annealing.hmc(NUM_LEAPFROGS)
    plan = annealing.plan(annealing.sigmoid(NUM_TEMPERATURES), moves)
    return evidence.annealed(key, density, q, NUM_CHAINS, plan, num_scouts=0)
