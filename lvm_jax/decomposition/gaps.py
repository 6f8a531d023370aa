"""The approximation gap and the amortisation gap of the ELBO.

    log p(x) - ELBO(q) = [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q)]
                           approximation gap         amortisation gap

q is the guide's, and q* is the best of a family for one x.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import evidence, weights
from lvm_jax._core import checks, keys
from lvm_jax._core.batching import batch_size, for_points, num_rows
from lvm_jax._core.inputs import check_family, check_problem, one_of
from lvm_jax._core.moments import moments
from lvm_jax.compiling import bucket
from lvm_jax.decomposition.local import NUM_SELECTION, Ascent, fit_local
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Evidence
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.guides.base import Family
from lvm_jax.typing import (
    Array,
    ArrayLike,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Params,
    Scalar,
)


class FamilyGaps(NamedTuple):
    """The two gaps with the q* of one family, leaves [N, ...], in nats."""

    elbo: Estimate  # of q*
    approximation: Estimate  # log p - ELBO(q*)
    amortization: Estimate  # ELBO(q*) - ELBO(q)
    gain: Estimate  # of the ELBO in the last tenth of the ascent: near 0 once converged
    start: Int[Array, " N"]  # the start that led to q*, see `fit_local`
    eta: Params  # of q*, for `guides.per_point` and `evidence.evaluate`


class Gaps(NamedTuple):
    """log p, the guide's ELBO, their gap, and its parts for each family, leaves [N], in nats."""

    log_evidence: Estimate
    k_hat: Float[Array, " N"]  # of the weights of log p; NaN if numbers were given
    source: str  # of log p: "given", or "importance"
    elbo: Estimate  # of the guide's q
    inference: Estimate  # log p - ELBO(q), the sum of both gaps
    families: dict[str, FamilyGaps]


def gaps(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    *,
    families: Mapping[str, Family],
    num_samples: int = 1_000,
    log_evidence: Evidence | ArrayLike | None = None,
    ascent: Ascent = Ascent(),  # noqa: B008
    chunk_size: int = CHUNK_SIZE,
) -> Gaps:
    """Approximation and amortisation gap of every point of x [N, ...], for each of the families.

    `fit_local` with `ascent` finds q*. All ELBOs use S = `num_samples` draws with the same random
    numbers, so that differences of similar q have little variance. The draws are independent of the
    ascent and of its choices, so the gaps have no selection bias.

    `log_evidence` is an Evidence or numbers, leaves [N]; use `evidence.evaluate_annealed` for
    publication. Without it, log p comes from importance sampling with the best q (chosen by other
    draws) and the same S draws: its error is correlated with that of the ELBO, and the gap's error
    is much smaller than either. It is low by half its variance, and not reliable for k_hat > 0.7.

    For a family other than the guide's own, the amortisation gap is the difference of its best q
    and the guide's q; it may be negative. An ascent that has not converged moves its deficit from
    the second gap to the first: see `gain`.

    No families, {}, give the inference gap only, such as for a hierarchy, whose z has several parts
    that no family of `guides` draws.

    Raises ValueError for a log_evidence that is not [N], and as `fit_local`.

    Source: Cremer, Li and Duvenaud (2018), table 1.
    """
    checks.host("decomposition.gaps", "decomposition.decompose", key, p, q, x)
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 2)
    x = check_problem(p, q, x)
    for family in families.values():
        check_family(p, family, one_of(x))
    given = _given(log_evidence, x)
    key_fit, key_weigh = keys.split(key)
    local = [
        fit_local(
            *(jax.random.fold_in(key_fit, place), p, q, x, family),
            ascent=ascent, chunk_size=chunk_size,
        )
        for place, family in enumerate(families.values())
    ]  # fmt: skip
    points = (np.arange(num_rows(x)), x, tuple(one.eta for one in local), given)
    together = batch_size(chunk_size, num_samples, bucket(num_rows(x)))
    static = tuple(families.values()), num_samples
    log_p, k_hat, elbo, inference, split = for_points(
        _weigh, static, key_weigh, (p, q), points, together
    )
    by_family = {
        name: FamilyGaps(**parts._asdict(), gain=one.gain, start=one.start, eta=one.eta)
        for name, one, parts in zip(families, local, split, strict=True)
    }
    if isinstance(log_evidence, Evidence):
        k_hat = log_evidence.k_hat
    source = "importance" if given is None else "given"
    return Gaps(log_p, k_hat, source, elbo, inference, by_family)


def _given(log_evidence: Evidence | ArrayLike | None, x: Any) -> Estimate | None:
    """The given log p, [N], with its errors."""
    if log_evidence is None:
        return None
    if isinstance(log_evidence, Evidence):
        found = Estimate(log_evidence.log_evidence, log_evidence.standard_error)
    else:
        found = Estimate.exact(checks.float_array(log_evidence, "log_evidence"))
    checks.shape(found.value, (num_rows(x),), "log_evidence")
    return found


class _Split(NamedTuple):
    """The first fields of `FamilyGaps`."""

    elbo: Estimate
    approximation: Estimate
    amortization: Estimate


def _weigh(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    etas: tuple[Params, ...],
    given: Estimate | None,
    families: tuple[Family, ...],
    num_samples: int,
) -> tuple[Estimate, Array, Estimate, Estimate, list[_Split]]:
    """log p, k-hat, and the gaps of one point."""
    key_weigh, key_select = jax.random.split(key)
    joint = p.log_joint(x)
    every = [q(x), *(family.build(eta) for family, eta in zip(families, etas, strict=True))]
    log_w = [weights.log_weights(key_weigh, joint, q, num_samples) for q in every]
    if given is None:
        elbos = [_safe_elbo(key_select, joint, q) for q in every]
        log_p, k_hat, influence = _importance(jnp.stack(log_w)[jnp.argmax(jnp.stack(elbos))])
    else:
        log_p, k_hat = given, jnp.full_like(given.value, jnp.nan)
        influence = jnp.zeros_like(log_w[0])

    def gap(log_w: Float[Array, " S"]) -> Estimate:
        error = moments(influence - log_w).variance / num_samples
        error += 0.0 if given is None else given.standard_error**2
        return Estimate(log_p.value - log_w.mean(), jnp.sqrt(error))

    mean = Estimate.of_draws
    split = [_Split(mean(w), gap(w), mean(w - log_w[0])) for w in log_w[1:]]
    return log_p, k_hat, mean(log_w[0]), gap(log_w[0]), split


def _safe_elbo(key: Key[Array, ""], joint: weights.LogJoint, q: Distribution) -> Scalar:
    """The ELBO minus 4 errors, which prefers the smaller variance among nearly equal q."""
    found = Estimate.of_draws(weights.log_weights(key, joint, q, NUM_SELECTION))
    safe = found.value - 4 * found.standard_error
    return jnp.where(jnp.isnan(safe), -jnp.inf, safe)


def _importance(log_w: Float[Array, " S"]) -> tuple[Estimate, Array, Float[Array, " S"]]:
    """log p, its k-hat, and the influence of each draw to first order, w_s / p(x) - 1."""
    found = evidence.from_log_weights(log_w)
    influence = jnp.exp(log_w - found.log_evidence) - 1
    return Estimate(found.log_evidence, found.standard_error), found.k_hat, influence
