"""Online EM: one step on each batch of a stream (Cappe and Moulines 2009).

The statistics per unit of weight are a moving average,

    s <- (1 - g) s + g s_batch,        g = t^-0.6,

and the parameters maximize at s. Time t counts units of UNIT_ROWS rows a component, so that the
size of the batches matters little. The statistics of the second half of the stream are averaged
(Polyak and Juditsky 1992).
"""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax.em import incomplete, priors
from lvm_jax.em.accumulation import Statistics, accumulate, mark_of, maximize
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.fit import fit, initialize
from lvm_jax.em.inputs import as_family
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.passes import wide
from lvm_jax.em.starts import STARTS
from lvm_jax.typing import Array, ArrayLike, Key

POWER, DELAY = 0.6, 2.0  # g = (t + DELAY)^-POWER
UNIT_ROWS = 10  # rows a component in a unit of time
STEP_UNITS = 5.0  # of a step, at least
START_ROWS = 100  # a component, which start the mixture


@dataclass(frozen=True)
class Online:
    """Online EM of one mixture; `partial_fit` returns the next state. It can be pickled.

    Attributes:
        key: the data of the key, and its implementation.
        num_rows: rows seen.
        current: the mixture at the moving average `statistics`, or None until there are K distinct
            rows, which wait in `waiting`.
        log_likelihood: mean log-likelihood of the last batch under the `current` before it.
        averages: of `statistics`, since two times.
    """

    key: tuple[np.ndarray, str]
    num_components: int
    family: ExponentialFamily
    start: str
    regularization: float
    prior: priors.ConjugatePrior | None
    num_rows: int = 0
    total_weight: float = 0.0
    time: float = 0.0
    log_likelihood: float = float("nan")
    current: Mixture | None = None
    statistics: Statistics | None = None  # of weight 1
    averages: "tuple[Average, ...]" = ()
    waiting: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def mixture(self) -> Mixture | None:
        """The estimate: the mixture at the averaged statistics; None without K distinct rows."""
        if self.current is None or not self.averages or not self.averages[0].size:
            return self.current
        return self.maximized(self.averages[0].statistics, self.current)

    def maximized(self, statistics: Statistics, current: Mixture) -> Mixture:
        """The M-step at statistics of weight 1, which a prior sees as those of all rows."""
        whole = _reweighted(statistics, self.total_weight)
        whole = dataclasses.replace(whole, mark=mark_of(current))
        return maximize(whole, current, self.regularization, self.prior)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that `fit` and `initialize` share."""
        names = ("num_components", "family", "start", "regularization", "prior")
        key = jax.random.wrap_key_data(jax.device_put(self.key[0]), impl=self.key[1])
        return {"key": key, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Average:
    """The average of the statistics since the time `begin`, over `size` units of time."""

    begin: float
    size: float
    statistics: Statistics

    def extended(self, statistics: Statistics, units: float) -> "Average":
        """The average after `units` more."""
        size = self.size + units
        mean = _blend(self.statistics, statistics, units / size)
        return Average(self.begin, size, mean)


def online(
    key: Key[Array, ""],
    num_components: int,
    family: ExponentialFamily | str = "full",
    *,
    start: str = "kmeans",
    regularization: float = 1e-6,
    prior: priors.ConjugatePrior | None = None,
) -> Online:
    """Online EM before its first batch, for `partial_fit`; the arguments are those of `fit`."""
    checks.key(key)
    number = checks.integer(num_components, "num_components", 1)
    checks.choice(start, "start", STARTS)
    regularization = checks.number(regularization, "regularization")
    seed = np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))
    return Online(seed, number, as_family(family), start, regularization, prior)


def partial_fit(state: Online, x: ArrayLike, sample_weight: ArrayLike | None = None) -> Online:
    """The state after the rows x, [n, D]; `state.mixture` is the estimate.

    The first START_ROWS rows a component wait, and start the mixture by the best of several fits
    to them; from K distinct rows on, a start of `initialize` is the estimate until then. A large
    batch makes several steps, so that one pass over many draws of a distribution approaches its
    maximum-likelihood fit, whatever the size of the batches.

    NaN is an entry missing at random; a row without any observed entry has weight 0. Raises
    ValueError or TypeError for another width, for invalid rows and weights, and for a column that
    is not observed in the first rows.

    Source: Cappe and Moulines (2009), equations 10 and 11.
    """
    x, missing = incomplete.read_rows(x, state.family)
    given = np.ones(len(x)) if sample_weight is None else sample_weight
    weight = checks.weights(given, len(x)).astype(np.float64)
    if missing:
        weight = incomplete.observed_weight(x, weight)
    state = dataclasses.replace(
        state, num_rows=state.num_rows + len(x), total_weight=state.total_weight + weight.sum()
    )
    if state.statistics is None:
        state, x, weight = _begin(state, x, weight)
    elif x.shape[1] != state.statistics.origin.size:
        width = state.statistics.origin.size
        raise ValueError(f"x: expected {width} columns as in the mixture, got {x.shape[1]}")
    done = 0
    while done < len(x):
        units = max(STEP_UNITS, state.time**POWER / 4)  # a quarter of the memory of the average
        rows = slice(done, done + int(units * UNIT_ROWS * state.num_components))
        if weight[rows].any():
            state = _step(state, x[rows], weight[rows])
        done = rows.stop
    return state


def _step(state: Online, x: np.ndarray, weight: np.ndarray) -> Online:
    """One step of the moving average and of its parameters."""
    current, statistics = state.current, state.statistics
    if current is None or statistics is None:
        return state
    batch = accumulate(current, x, weight)
    units = batch.total_weight / (UNIT_ROWS * state.num_components)
    share = _share(state.time, state.time + units)
    found = _blend(statistics, _reweighted(batch, 1 / batch.total_weight), share)
    time = state.time + units
    averages = tuple(average.extended(found, units) for average in state.averages)
    if time >= 2 * averages[1].begin:  # the first covers the last half of the time, or more
        averages = (averages[1], Average(time, 0.0, found))
    return dataclasses.replace(
        state, time=time, statistics=found, averages=averages,
        log_likelihood=batch.log_likelihood / batch.total_weight,
        current=state.maximized(found, current),
    )  # fmt: skip


def _begin(
    state: Online, x: np.ndarray, weight: np.ndarray
) -> tuple[Online, np.ndarray, np.ndarray]:
    """Start from the rows that wait and x, if they are enough: the state and the rows left."""
    if state.waiting is not None:
        width = state.waiting[0].shape[1]
        if x.shape[1] != width:
            raise ValueError(f"x: expected {width} columns as before, got {x.shape[1]}")
        x, weight = (np.concatenate(pair) for pair in zip(state.waiting, (x, weight), strict=True))
    live, needed = np.flatnonzero(weight > 0), START_ROWS * state.num_components
    first = len(x) if len(live) < needed else int(live[needed - 1]) + 1
    same = np.where(np.isnan(x[live]), np.inf, x[live])  # NaN differs from NaN, infinity does not
    distinct = len(np.unique(same, axis=0)) >= state.num_components
    if len(live) >= needed:
        incomplete.check_columns(x[live[:needed]], f"x: the first {needed:,} rows")
    elif np.isnan(x[live]).all(0).any():
        distinct = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of columns that are constant so far
        if distinct and len(live) >= needed:
            return _started(state, x[:first], weight[:first]), x[first:], weight[first:]
        if distinct:
            some = initialize(x=x, sample_weight=weight, **state.options)
            some = dataclasses.replace(some, origin=some.origin[None])
            state = dataclasses.replace(state, current=jax.tree.map(lambda leaf: leaf[0], some))
    return dataclasses.replace(state, waiting=(x, weight)), x[:0], weight[:0]


def _started(state: Online, x: np.ndarray, weight: np.ndarray) -> Online:
    """The state after the first step, from a fit to its rows."""
    settings: dict[str, Any] = {"num_restarts": 4, "max_steps": 20, "throw": False}
    current = fit(x=x, sample_weight=weight, **state.options, **settings).mixture
    batch = accumulate(current, x, weight)
    found = _reweighted(batch, 1 / batch.total_weight)
    time = batch.total_weight / (UNIT_ROWS * state.num_components)
    average = Average(time, 0.0, found)
    return dataclasses.replace(
        state, current=current, time=time, statistics=found, averages=(average, average),
        log_likelihood=batch.log_likelihood / batch.total_weight, waiting=None,
    )  # fmt: skip


def _share(begin: float, end: float) -> float:
    """The weight of a batch: 1 - exp(-integral of g from `begin` to `end`)."""
    power = 1 - POWER
    return float(-np.expm1(((begin + DELAY) ** power - (end + DELAY) ** power) / power))


def _reweighted(statistics: Statistics, factor: float) -> Statistics:
    """The statistics of the same rows with `factor` times their weights."""
    with wide():
        summary = _reweight(statistics.family, statistics.summary, np.float64(factor))
    return dataclasses.replace(
        statistics, summary=jax.tree.map(np.asarray, summary),
        total_weight=factor * statistics.total_weight,
        log_likelihood=factor * statistics.log_likelihood,
    )  # fmt: skip


def _blend(old: Statistics, new: Statistics, share: float) -> Statistics:
    """(1 - share) old + share new."""
    kept = dataclasses.replace(_reweighted(old, 1 - share), mark=new.mark)
    return kept + _reweighted(new, share)


@over_data(0)
def _reweight(family: ExponentialFamily, summary: Any, factor: Array) -> Any:
    return family.reweight(summary, factor)
