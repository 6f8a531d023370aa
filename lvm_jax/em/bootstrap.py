"""The bootstrap of a fitted mixture: refits to weighted, drawn or simulated rows."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from lvm_jax._core import checks
from lvm_jax._core.outcome import Outcome
from lvm_jax._core.warn import warn
from lvm_jax.em import chunks, estimates, incomplete, inputs, refits, sources
from lvm_jax.em.compiling import over_data
from lvm_jax.em.estimates import Estimates
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.fit import INSIDE
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.priors import ConjugatePrior
from lvm_jax.em.refits import Refits
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.typing import Array, ArrayLike, Key

KINDS = ("weights", "nonparametric", "parametric")


class Bootstrap(NamedTuple):
    """The refits, with the components in the order of the fit's; leaves have an axis n."""

    mixtures: Mixture  # of NumPy arrays [n, ...] in float64
    estimates: Estimates  # [n, ...]
    log_likelihoods: np.ndarray  # [n], nats per unit of weight of the refit's own rows
    num_steps: np.ndarray  # [n]
    failed: int  # refits that are not among the n: degenerate, without a component, on a few points
    unconverged: int  # refits among the n that reached the step limit
    swapped: int  # refits among the n whose components had to be reordered

    def standard_errors(self) -> Estimates:
        """The standard deviations over the refits."""
        return jax.tree.map(lambda leaf: np.std(leaf, axis=0, ddof=1), self.estimates)

    def intervals(self, level: float = 0.95) -> tuple[Estimates, Estimates]:
        """Lower and upper limits: percentiles (Efron and Tibshirani 1993, section 13.3)."""
        level = checks.number(level, "level")
        if not 0 < level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {level:g}")
        low, high = (
            jax.tree.map(partial(np.quantile, q=q, axis=0), self.estimates)
            for q in ((1 - level) / 2, (1 + level) / 2)
        )
        return low, high


class Rows(NamedTuple):
    """Rows about the origin in the order of their family, [L, D], and the places of the user's."""

    family: ExponentialFamily
    x: np.ndarray
    weight: np.ndarray  # [L]
    places: np.ndarray  # [N]


def bootstrap(
    key: Key[Array, ""],
    fit: Any,
    x: ArrayLike,
    num_samples: int = 200,
    *,
    kind: str = "weights",
    sample_weight: ArrayLike | None = None,
    tolerance: float = 1e-7,
    max_steps: int = 1000,
    regularization: float = 1e-6,
    prior: ConjugatePrior | None = None,
    throw: bool = True,
) -> Bootstrap:
    """Refit a mixture `num_samples` times, each by EM from the fit, in one vmapped program.

    kind="weights" draws weights (w_1, ..., w_N) ~ N Dirichlet(1, ..., 1): the weighted likelihood
    bootstrap (Newton and Raftery 1994), in which no row is lost. "nonparametric" draws N rows with
    replacement (Efron 1979), as counts. "parametric" simulates N rows from the fit.

    Args:
        key: a typed PRNG key.
        fit: an em.MixtureFit or em.Mixture.
        x: the rows of the fit in memory, [N, D]. NaN is an entry missing at random; simulated
            rows miss the same entries.
        num_samples: the number of refits. 200 give a standard error to 5%, and 1,000 a limit of
            a 95% interval to about 0.1 standard errors.
        kind: weights, nonparametric or parametric.
        sample_weight: [N]; a weight of 2 is equivalent to duplicating the row.
        tolerance, max_steps, regularization, prior: those of `em.fit`, for the refits.
        throw: raise if every refit failed, and warn if some failed or reached the step limit.

    The components of a refit are matched with the fit's by the overlap of their responsibilities
    (Hungarian method). The computation is in float64. Memory does not grow with `num_samples`
    apart from the result.

    Raises ValueError or TypeError for an unknown kind, weights with kind="parametric", a fit with
    an empty component, data that stream, and the errors of `em.fit`; FloatingPointError if every
    refit failed.
    """
    checks.host("em.bootstrap", INSIDE, key, x, sample_weight)
    checks.key(key)
    mixture = estimates.as_mixture(fit)
    number = checks.integer(num_samples, "num_samples", 2)
    max_steps = checks.integer(max_steps, "max_steps", 1)
    checks.choice(kind, "kind", KINDS)
    if kind == "parametric" and sample_weight is not None:
        raise ValueError("sample_weight: expected None with kind='parametric'; repeat rows instead")
    rows = read_rows(mixture, x, sample_weight)
    parameters, origin = estimates.widened(mixture)
    with jax.enable_x64(True):
        controls = inputs.check_controls(
            mixture.family, checks.number(regularization, "regularization"), prior,
            len(parameters.log_weights), origin, tolerance, float(rows.weight.sum()),
        )  # fmt: skip
        still: Any = np.zeros_like(origin)
        whole = mixture.family.translate(parameters.components, still)  # with remainders
        parameters = jax.tree.map(np.asarray, parameters._replace(components=whole))
        refitted = refit(key, rows, parameters, number, kind, controls, max_steps)
        good = refits.is_proper(mixture.family, parameters, refitted[0], controls)
        found = finish(mixture, refitted, good, float(rows.weight.sum()), origin)
    if throw:
        report(found, number)
    return found


def read_rows(mixture: Mixture, x: ArrayLike, sample_weight: ArrayLike | None) -> Rows:
    """Validate the rows, and order them for their family."""
    if sources.as_source(x) is not None:
        raise ValueError("x: expected rows in memory, got data that stream; bootstrap a sample")
    rows, missing = incomplete.read_rows(x, mixture.family)
    if rows.shape[1] != mixture.origin.shape[0]:
        raise ValueError(
            f"x: expected {mixture.origin.shape[0]} columns as in the mixture, got {rows.shape[1]}"
        )
    lost = np.flatnonzero(np.isneginf(mixture.log_weights)).tolist()
    if lost:
        raise ValueError(f"fit: expected components with points, got weight 0 in {lost}")
    weight = np.ones(len(rows))
    if sample_weight is not None:
        weight = np.asarray(checks.weights(sample_weight, len(rows)), np.float64)
    rows = np.asarray(rows, np.float64) - np.asarray(mixture.origin, np.float64)[None]
    family, places = mixture.family, None
    if missing:
        family, rows, spread, places, _ = incomplete.arrange(family, rows, weight)
        weight = weight if spread is None else spread
    return Rows(family, rows, weight, np.arange(len(rows)) if places is None else places)


def refit(
    key: Key[Array, ""],
    rows: Rows,
    parameters: MixtureParameters,
    number: int,
    kind: str,
    controls: Any,
    max_steps: int,
) -> tuple[Refits, np.ndarray]:
    """The refits, and the overlaps [n, K, K] of their components with the fit's."""
    num_rows, dim = rows.x.shape
    size = refits.batch_size(number, num_rows, 2 * dim + 3 * len(parameters.log_weights))
    way = refits.way(rows.family, parameters, num_rows, size)
    missing, seed = np.isnan(rows.x), chunks.seed_of(key)

    def rows_of(group: np.ndarray) -> tuple[Any, Any]:
        if kind != "parametric":
            return rows.x, drawn_weights(seed, rows, kind, group)
        keys = jax.vmap(partial(jax.random.fold_in, key))(group)
        return refits.simulate(keys, parameters, missing, rows.family.original), rows.weight

    begin = jax.tree.map(lambda leaf: np.stack([leaf] * number), parameters)
    found = refits.run(way, begin, rows_of, size, controls, max_steps)
    shared = []
    for group in refits.batches(number, size):
        others = jax.tree.map(lambda leaf: leaf[group], found.parameters)  # noqa: B023
        shared.append(np.asarray(overlap(rows.family, parameters, others, rows.x, rows.weight)))
    return found, np.concatenate(shared)[:number]


def drawn_weights(seed: int, rows: Rows, kind: str, group: np.ndarray) -> np.ndarray:
    """Weights [b, L] of the replicates `group`, whose sum is that of the rows' weights."""
    given = rows.weight[rows.places]
    total, out = given.sum(), np.zeros((len(group), len(rows.x)))
    for row, replicate in zip(out, group.tolist(), strict=True):
        rng = np.random.default_rng([seed, replicate])
        if kind == "weights":
            drawn = rng.standard_gamma(given)
        else:
            drawn = rng.multinomial(max(1, round(total)), given / total).astype(float)
        row[rows.places] = drawn * (total / drawn.sum())
    return out


@over_data(0)
def overlap(
    family: ExponentialFamily,
    reference: MixtureParameters,
    others: MixtureParameters,
    x: Array,
    weight: Array,
) -> Array:
    """Cosines [B, K, K] between the responsibilities of the components of two mixtures."""
    lifted = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], reference)
    size = jnp.sqrt(weight)[None, :, None]
    mine = size * refits.posterior(family, lifted, x)
    theirs = size * refits.posterior(family, others, x)
    shared = jnp.einsum("nj,bnk->bjk", mine[0], theirs)
    norms = jnp.sqrt((mine**2).sum(1)[..., None] * (theirs**2).sum(1)[:, None])
    return shared / jnp.where(norms > 0, norms, 1)


@over_data(0)
def all_numbers(
    family: ExponentialFamily, parameters: MixtureParameters, origin: Array
) -> Estimates:
    """The estimates of n mixtures."""
    parameters = jax.tree.map(jnp.asarray, parameters)
    return jax.vmap(lambda each: estimates.numbers(family, each, origin))(parameters)


def finish(
    mixture: Mixture,
    refitted: tuple[Refits, np.ndarray],
    good: np.ndarray,
    total: float,
    origin: np.ndarray,
) -> Bootstrap:
    """The refits that are `good`, with their components in the order of the fit's."""
    found, shared = refitted
    kept: Refits = jax.tree.map(lambda leaf: leaf[good], found)
    k = shared.shape[1]
    pairs = [linear_sum_assignment(-one)[1] for one in shared[good]]
    orders: Any = np.array(pairs, int).reshape(-1, k)
    swapped = orders != np.arange(k)[None]
    family, parameters = mixture.family, kept.parameters
    ordered = [
        MixtureParameters(
            parameters.log_weights[i][order],
            family.select(jax.tree.map(lambda leaf, i=i: leaf[i], parameters.components), order),
        )
        for i, order in enumerate(orders)
    ]
    if ordered:
        parameters = jax.tree.map(lambda *leaves: np.stack(leaves), *ordered)
    numbers = jax.tree.map(np.asarray, all_numbers(family, parameters, origin))
    place: Any = origin
    stacked = Mixture(parameters.log_weights, parameters.components, place, family)
    return Bootstrap(
        stacked, numbers, kept.log_likelihood / total, kept.num_steps, int((~good).sum()),
        int((kept.outcome == Outcome.MAX_STEPS).sum()), int(swapped.any(1).sum()),
    )  # fmt: skip


def report(found: Bootstrap, number: int) -> None:
    """Raise if every refit failed; warn about refits that failed or did not converge."""
    if found.failed == number:
        raise FloatingPointError(
            f"em.bootstrap: all {number} refits failed (degenerate, diverged, without a "
            "component or on a few points); lower num_components, or raise regularization"
        )
    if found.failed:
        warn(
            f"em.bootstrap: {found.failed} of {number} refits failed (degenerate, diverged, "
            "without a component or on a few points) and are left out; errors and intervals are "
            "too small",
        )
    if found.unconverged:
        warn(
            f"em.bootstrap: {found.unconverged} of {number} refits did not converge; raise "
            "max_steps or tolerance",
        )
