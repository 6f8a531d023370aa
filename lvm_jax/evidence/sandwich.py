"""Lower and upper bounds of log p(x): chains from q, and reverse chains from the posterior.

For data simulated from the model, the z that generated x is an exact posterior draw.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, map_points, rows_for_device
from lvm_jax._core.inputs import check_simulated
from lvm_jax.annealing.path import make_path
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.importance import CHUNK_SIZE, from_log_weights
from lvm_jax.evidence.result import Check, Evidence, check_chains, describe
from lvm_jax.typing import (
    Array,
    Bool,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Scalar,
)
from lvm_jax.weights import LogJoint

CROSSED = 4.0  # standard errors by which the lower bound may exceed the upper


class Sandwich(NamedTuple):
    """Two stochastic bounds of log p(x), of one point or leaves [N] of N."""

    lower: Evidence  # C forward chains: E[lower] <= log p(x)
    upper: Evidence  # C reverse chains: E[upper] >= log p(x)
    forward_acceptance: Float[Array, "... T"]
    reverse_acceptance: Float[Array, "... T"]

    @property
    def gap(self) -> Float[Array, "..."]:
        """upper - lower, in nats; its expectation bounds the error of both."""
        return self.upper.log_evidence - self.lower.log_evidence

    @property
    def failed(self) -> Int[Array, "..."]:
        """NONFINITE of either bound; `interval` is valid if other checks fail."""
        return (self.lower.failed | self.upper.failed) & int(Check.NONFINITE)

    @property
    def reliable(self) -> Bool[Array, "..."]:
        """True where no log-weight is NaN or +inf."""
        return self.failed == 0

    def verdict(self) -> str:
        """A sentence: reliable, or the number of unreliable points and the reasons; on the host."""
        return describe(self.failed)

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """[lower - b, upper + b], b = log(2 / (1 - level)), contains log p(x) with prob. `level`.

        It is valid for all numbers of chains and temperatures and for any weights, over draws of x,
        z and the chains. exp(lower) is unbiased for p(x), so P(lower > log p(x) + b) < exp(-b) by
        Markov's inequality; exp(-upper) is unbiased for 1 / p(x).
        """
        margin = np.log(2 / (1 - checks.level(level)))
        return self.lower.log_evidence - margin, self.upper.log_evidence + margin


def sandwich(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    z: Latent,
    num_chains: int,
    plan: annealing.Plan,
) -> Sandwich:
    """A lower and an upper bound of log p(x) from C chains each, of ONE data point, in nats.

        lower = log (1/C) sum_c w_c,    upper = -log (1/C) sum_c 1 / w'_c

    w are the weights of `annealing.anneal` from q, w' those of `annealing.reverse` from `z`, ONE
    exact draw of p(z | x) that all C chains share. Both use one schedule, the plan's or its forward
    pilot's. The reverse chains share z: the standard error of the upper bound is conditional on z.

    Raises ValueError for a z that is not as q draws it, and as `annealed`.

    Source: Grosse, Ghahramani and Adams (2015); Grosse, Ancha and Roy (2016).
    """
    checks.key(key)
    checks.integer(num_chains, "num_chains", 1)
    transition = plan.transition
    key_pilot, key_start, key_forward, key_reverse = jax.random.split(key, 4)
    start = weights.draw(key_start, q, num_chains)
    _check_draw(z, start)
    path = make_path(log_joint, q, start, transition.continuous)
    schedule = plan.prepare(key_pilot, path, q, start)
    keys = jax.random.split(key_forward, num_chains), jax.random.split(key_reverse, num_chains)
    forward = jax.vmap(lambda key, z: annealing.anneal(key, path, z, schedule, transition))(
        keys[0], start
    )
    reverse = jax.vmap(lambda key: annealing.reverse(key, path, z, schedule, transition))(keys[1])
    tuned = transition.target is not None
    accepted = forward.acceptance.mean(0), reverse.acceptance.mean(0)
    log_w = forward.log_weight, -reverse.log_weight
    lower, inverse = (
        check_chains(from_log_weights(one), one, rate, tuned)
        for one, rate in zip(log_w, accepted, strict=True)
    )
    return Sandwich(lower, inverse._replace(log_evidence=-inverse.log_evidence), *accepted)


class Bidirectional(NamedTuple):
    """`sandwich` on simulated data, and its summary over the N points, in nats."""

    x: Array  # simulated, [N, ...]
    sandwich: Sandwich  # leaves [N, ...]
    lower: Estimate  # mean over the points
    upper: Estimate
    gap: Estimate  # mean of upper - lower: bounds the mean error of `annealed` on such data


def bidirectional(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity | None,
    num_points: int,
    num_chains: int,
    plan: annealing.Plan,
    *,
    chunk_size: int = CHUNK_SIZE // 2,
) -> Bidirectional:
    """Bidirectional Monte Carlo: the error of `annealed`, measured on data of the model.

    Draws N pairs z ~ p(z), x ~ p(x | z), where z is an exact draw of p(z | x), and computes the
    `sandwich` of each. On real data the error of `annealed` is not observable; a small gap here
    validates the settings, as far as real data resemble the model's. The forward chains start from
    q(z | x), or from the prior with q=None. Points run together as in `evaluate_annealed`.

    Raises ValueError if the mean lower bound exceeds the upper by more than 4 standard errors (then
    draws of the prior or the likelihood do not follow their log_prob), and as `sandwich`.

    Source: Grosse, Ancha and Roy (2016).
    """
    checks.key(key)
    checks.host("evidence.bidirectional", "evidence.sandwich", key, p, q)
    num_points = checks.integer(num_points, "num_points", 2)
    num_chains = checks.integer(num_chains, "num_chains", 1)
    check_simulated(p, q)
    x, found = _bidirectional(
        *(key, p, q, plan, num_points, num_chains),
        batch_size(rows_for_device(chunk_size), 2 * num_chains, num_points),
    )
    means = _means(found)
    _check_order(*means[-1])
    return Bidirectional(x, found, *means)


@bounded_jit(4, 5, 6)
def _bidirectional(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity | None,
    plan: annealing.Plan,
    num_points: int,
    num_chains: int,
    together: int,
) -> tuple[Array, Sandwich]:
    def one(index: Array) -> tuple[Array, Sandwich]:
        key_z, key_x, key_chains = jax.random.split(jax.random.fold_in(key, index), 3)
        z = p.prior().sample(seed=key_z)
        x = p.likelihood(z).sample(seed=key_x)
        start = p.prior() if q is None else q(x)
        return x, sandwich(key_chains, p.log_joint(x), start, z, num_chains, plan)

    return map_points(one, jnp.arange(num_points), together)


@bounded_jit()
def _means(found: Sandwich) -> list[Estimate]:
    """Means over the points of lower bound, upper bound and gap."""
    each = found.lower.log_evidence, found.upper.log_evidence, found.gap
    return [Estimate.of_draws(values) for values in each]


def _check_order(gap: Scalar, error: Scalar) -> None:
    """Refuse a lower bound that exceeds the upper by more than chance."""
    if gap < -CROSSED * error:
        raise ValueError(
            f"p: expected E[upper] >= E[lower], got a mean gap of {gap:.3f} +- {error:.3f} "
            "nats; draws of the prior or the likelihood do not follow their log_prob"
        )


def _check_draw(z: Latent, draws: Latent) -> None:
    """Refuse a posterior draw of another structure or shape than q's draws [C, ...]."""
    expected = jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), draws)
    got = jax.tree.map(lambda leaf: tuple(jnp.shape(leaf)), z)
    if expected != got:
        raise ValueError(
            f"z: expected one draw of the posterior with shapes as q draws them, {expected}, "
            f"got {got}"
        )
