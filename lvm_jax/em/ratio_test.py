"""The likelihood-ratio test of k against k + 1 components, by the parametric bootstrap."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from lvm_jax._core import checks
from lvm_jax._core.outcome import Outcome
from lvm_jax._core.warn import warn
from lvm_jax.em import estimates, inputs, refits
from lvm_jax.em.bootstrap import Rows, read_rows
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.fit import INSIDE, fit
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.refits import Refits, Way
from lvm_jax.em.state import Controls
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.typing import Array, ArrayLike, Float, Key

RESTARTS = 10  # of the fit of k components to the data


class LikelihoodRatioTest(NamedTuple):
    """The test of k components (H0) against k + 1 (H1)."""

    statistic: float  # 2 (l_(k+1) - l_k) of the data, in nats
    p_value: float  # (r + 1) / (B + 1), of B samples with r statistics at least as large
    interval: tuple[float, float]  # 95% limits of the p-value of infinitely many samples
    samples: np.ndarray  # [B] statistics of data simulated under H0
    log_likelihoods: tuple[float, float]  # l_k and l_(k+1) of the data, total, nats
    mixtures: tuple[Mixture, Mixture]  # the fits to the data, of NumPy arrays in float64
    failed: int  # samples without a proper fit of k or k + 1 components, which are left out
    spurious: int  # starts that ended at a component on a few points, of all data sets
    unconverged: int  # fits that reached the step limit


class Search(NamedTuple):
    """The best fits of k + 1 components to n data sets, and the starts that failed."""

    found: Refits  # [n]; log-likelihood -inf if all starts failed
    spurious: int


class Problem(NamedTuple):
    """What all fits of a test share."""

    keys: Any  # of the fit to the data, of the samples and of the starts
    rows: Rows
    null: MixtureParameters  # the fit of k components to the data
    options: dict[str, Any]
    max_steps: int
    num_starts: int


def likelihood_ratio_test(
    key: Key[Array, ""],
    x: ArrayLike,
    k: int,
    family: ExponentialFamily | str = "full",
    *,
    num_samples: int = 999,
    num_starts: int = 8,
    tolerance: float = 1e-7,
    max_steps: int = 2000,
    regularization: float = 1e-6,
    throw: bool = True,
) -> LikelihoodRatioTest:
    """Test H0: k components against H1: k + 1 by the parametric bootstrap (McLachlan 1987).

    The statistic 2 (l_(k+1) - l_k) has no chi-squared law, because the weight of the new component
    is at its boundary under H0. Its law is that of `num_samples` data sets simulated from the fit
    of k components. To each of these k components are fitted from the parameters it was drawn from,
    and k + 1 from `num_starts` starts, each of which divides a component between two of its rows.
    The data have the same starts, so that a local maximum is as probable for them as for a sample.

    Args:
        key: a typed PRNG key.
        x: rows in memory, [N, D]. NaN is an entry missing at random; simulated rows miss the same.
        k: the number of components under H0.
        family: as in `em.fit`.
        num_samples: B. The smallest p-value is 1 / (B + 1).
        num_starts: of k + 1 components for each data set; the most likely after 30 steps goes on.
        tolerance, max_steps, regularization: those of `em.fit`, in float64.
        throw: warn about fits that failed.

    A Gaussian component is spurious, because the likelihood has no bound there (Day 1969), if half
    of its variance in a direction is `regularization`, or if it has fewer than 2 (D + 1) points and
    less than 1e-4 of the mixture's variance in a direction. Such a start counts as failed.

    Raises ValueError or TypeError for the errors of `em.fit`; FloatingPointError if no start of
    k + 1 components is proper on the data.

    Source: McLachlan (1987), Applied Statistics 36; McLachlan and Peel (2000), section 6.4.
    """
    checks.host("em.likelihood_ratio_test", INSIDE, key, x)
    checks.key(key)
    k, number = checks.integer(k, "k", 1), checks.integer(num_samples, "num_samples", 1)
    num_starts = checks.integer(num_starts, "num_starts", 1)
    max_steps = checks.integer(max_steps, "max_steps", 1)
    options: dict[str, Any] = {"regularization": regularization, "tolerance": tolerance}
    with jax.enable_x64(True):
        x = np.asarray(checks.points_or_nan(x, "x")[0], np.float64)
        inputs.check_data(x, k + 1, inputs.as_family(family), None, regularization)
        keys = jax.random.split(key, 3)
        first = fit(
            keys[0], x, k, family, num_restarts=1 if k == 1 else RESTARTS, max_steps=max_steps,
            acceleration="squarem", **options,
        ).mixture  # fmt: skip
        rows = read_rows(first, x, None)
        null = estimates.widened(first)[0]
        problem = Problem(keys, rows, null, options, max_steps, num_starts)
        fits = fit_null(problem, number)
        search = search_alternative(problem, fits)
    found = conclude(first, fits, search)
    if throw:
        report(found, number)
    return found


def rows_of(problem: Problem, group: np.ndarray) -> tuple[Any, Any]:
    """Rows [b, N, D] and weights [N] of data sets: number 0 are the data, the others samples."""
    rows = problem.rows
    keys = jax.vmap(partial(jax.random.fold_in, problem.keys[1]))(group)
    drawn = refits.simulate(keys, problem.null, np.isnan(rows.x), rows.family.original)
    return np.where((group == 0)[:, None, None], rows.x[None], drawn), rows.weight


def plan(problem: Problem, k: int, number: int) -> tuple[Way, Controls, int]:
    """The way and the controls of fits of k components, and the number of fits of a program."""
    rows, null = problem.rows, problem.null
    num_rows, dim = rows.x.shape
    size = refits.batch_size(number, num_rows, 2 * dim + 3 * k)
    controls = inputs.check_controls(
        rows.family, problem.options["regularization"], None, k, np.zeros(dim),
        problem.options["tolerance"], float(rows.weight.sum()),
    )  # fmt: skip
    return refits.way(rows.family, null, num_rows, size), controls, size


def fit_null(problem: Problem, number: int) -> Refits:
    """The fits of k components to the data and to `number` samples."""
    k = len(problem.null.log_weights)
    way, controls, size = plan(problem, k, number + 1)
    begin = jax.tree.map(lambda leaf: np.stack([leaf] * (number + 1)), problem.null)
    return refits.run(way, begin, partial(rows_of, problem), size, controls, problem.max_steps)


def search_alternative(problem: Problem, fits: Refits) -> Search:
    """Fits of k + 1 components to every data set, from the best start after a few steps."""
    k, number, starts = len(problem.null.log_weights) + 1, len(fits.outcome), problem.num_starts
    way, controls, size = plan(problem, k, number * starts)
    each = -(-size // starts)
    chosen, spurious = [], 0
    for group in refits.batches(number, each):
        x, weight = rows_of(problem, group)
        null = jax.tree.map(lambda leaf: leaf[group], fits.parameters)  # noqa: B023
        keys = jax.vmap(partial(jax.random.fold_in, problem.keys[2]))(group)
        begin = divide(way, starts, keys, null, x, weight, controls)
        many = np.repeat(x, starts, axis=0)
        short = refits.refit(way, begin, many, weight, controls, np.int32(refits.ROUND))
        short = jax.tree.map(np.asarray, short)
        proper = refits.is_proper(way.family, problem.null, short, controls)
        spurious += int((~proper)[np.unique(group, return_index=True)[1]].sum())
        score = np.where(proper, short.log_likelihood, -np.inf).reshape(len(group), starts)
        best = score.argmax(1) + starts * np.arange(len(group))
        chosen.append(jax.tree.map(lambda leaf: leaf[best], short.parameters))  # noqa: B023
    begin = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *chosen)
    found = refits.run(way, begin, partial(rows_of, problem), size, controls, problem.max_steps)
    proper = refits.is_proper(way.family, problem.null, found, controls)
    value = np.where(proper, found.log_likelihood, -np.inf)
    return Search(found._replace(log_likelihood=value), spurious + int((~proper).sum()))


@over_data(0, 1)
def divide(
    way: Way,
    num_starts: int,
    keys: Array,
    null: MixtureParameters,
    x: Float[Array, "B N D"],
    weight: Float[Array, " N"],
    controls: Controls,
) -> MixtureParameters:
    """Starts of k + 1 components, [B S, ...]: start s divides component s mod k of the fit.

    Each row of the component goes to the nearer of two of its rows, in standardised columns.
    """
    null = jax.tree.map(jnp.asarray, null)
    family, k = way.family, null.log_weights.shape[1]
    again = jnp.append(jnp.arange(k), 0)

    def one(key: Array, null: MixtureParameters, x: Array, resp: Array, j: Array) -> Any:
        white = x / jnp.nanstd(x, axis=0)[None]
        ends = jax.random.categorical(key, jnp.log(resp[:, j] * weight), shape=(2,))
        gaps = jnp.nan_to_num((white[None] - white[ends][:, None]) ** 2).sum(-1)
        share = jnp.where(gaps[0] < gaps[1], resp[:, j], 0)
        resp = jnp.concatenate([resp.at[:, j].add(-share), share[:, None]], 1)
        components = family.select(null.components, again.at[k].set(j))
        return refits.assigned(way, controls, components, x, resp * weight[:, None])

    def all_starts(key: Array, null: MixtureParameters, x: Array) -> Any:
        joint = family.exact_log_prob(null.components, x) + null.log_weights[None]
        resp = jax.nn.softmax(joint, axis=1)
        numbers = jnp.arange(num_starts)
        split = jax.random.split(key, num_starts)
        return jax.vmap(lambda key, s: one(key, null, x, resp, s % k))(split, numbers)

    begun = jax.vmap(all_starts)(keys, null, x)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), begun)


def conclude(first: Mixture, fits: Refits, search: Search) -> LikelihoodRatioTest:
    """The statistics and the p-value; H1 contains H0, so that no statistic is negative."""
    found = search.found
    if np.isneginf(found.log_likelihood[0]):
        raise FloatingPointError(
            f"em.likelihood_ratio_test: every start of {len(first.log_weights) + 1} components "
            "failed on the data: a component has no points, or is on a few; lower k, or raise "
            "num_starts"
        )
    values = np.maximum(2 * (found.log_likelihood - fits.log_likelihood), 0)
    good = np.isfinite(values) & (fits.outcome < Outcome.DEGENERATE)
    samples = values[1:][good[1:]]
    above, number = int((samples >= values[0]).sum()), len(samples)
    low = special.betaincinv(above, number - above + 1, 0.025) if above else 0.0
    high = special.betaincinv(above + 1, number - above, 0.975) if above < number else 1.0
    origin: Any = np.asarray(first.origin, np.float64)
    leaves: Any = [jax.tree.map(lambda leaf: leaf[0], one.parameters) for one in (fits, found)]
    pair = [Mixture(one.log_weights, one.components, origin, first.family) for one in leaves]
    slow = sum((each.outcome == Outcome.MAX_STEPS).sum() for each in (fits, found))
    return LikelihoodRatioTest(
        float(values[0]), (above + 1) / (number + 1), (float(low), float(high)), samples,
        (float(fits.log_likelihood[0]), float(found.log_likelihood[0])), (pair[0], pair[1]),
        len(values) - 1 - number, search.spurious, int(slow),
    )  # fmt: skip


def report(found: LikelihoodRatioTest, number: int) -> None:
    """Warn about samples without a proper fit, and about fits that did not converge."""
    if found.failed:
        warn(
            f"em.likelihood_ratio_test: {found.failed} of {number} samples have no proper fit "
            "(degenerate, diverged, without a component or on a few points) and are left out; "
            "raise num_starts",
        )
    if found.unconverged:
        warn(
            f"em.likelihood_ratio_test: {found.unconverged} fits did not converge; raise "
            "max_steps or tolerance",
        )
