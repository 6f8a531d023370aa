"""Fit a mixture by EM: the entry point, its result, errors and warnings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lvm_jax._core import checks
from lvm_jax.em import (
    assigned,
    labels,
    loop,
    padding,
    priors,
    sources,
    streaming,
)
from lvm_jax.em.families import ExponentialFamily, Settings
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.preparation import Prepared, Request, check, conclude, prepare
from lvm_jax.em.result import MixtureFit, report
from lvm_jax.em.state import Problem
from lvm_jax.typing import Array, ArrayLike, Key

INSIDE = "the log_evidence of models.gaussian_mixture"
MAX_STEPS = 100


def fit(
    key: Key[Array, ""],
    x: Any,
    num_components: int,
    family: ExponentialFamily | str = "full",
    *,
    start: str | Mixture | np.ndarray | Array = "kmeans",
    num_restarts: int = 1,
    max_steps: int = MAX_STEPS,
    tolerance: float = 1e-3,
    regularization: float = 1e-6,
    prior: priors.ConjugatePrior | None = None,
    sample_weight: ArrayLike | None = None,
    y: ArrayLike | None = None,
    acceleration: str | None = None,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    throw: bool = True,
) -> MixtureFit:
    """Fit a mixture by EM from `num_restarts` starts, and return the best.

    Maximises the mean log-likelihood (1/W) sum_n w_n log p(x_n), or with a prior the MAP
    objective (1/W) (sum_n w_n log p(x_n) + log p(theta)), W = sum_n w_n.

    Args:
        key: a typed PRNG key.
        x: data, [N, D]. float64 is kept if x64 is on; otherwise float32. NaN is an entry missing
            at random, except for multinomial and von Mises-Fisher components. A memory map, a Zarr
            array, the path of a .npy or Parquet file or of a folder of them, a pyarrow dataset,
            `em.parquet(...)`, and a function that returns an iterator of batches stream: each step
            reads them once, in chunks, and k-means starts use a sample of at most 65,536 rows.
        num_components: K.
        family: the covariance type of a Gaussian mixture: full, tied, diag, spherical or a name of
            `em.COVARIANCE_FAMILIES`, such as VEV; or another family of components, such as
            `em.Bernoulli()`.
        start: kmeans, k-means++, random or random_from_data; or a mixture, whose leaves may have a
            leading axis R; or labels, integers [N] from 0 to K - 1, of another clustering.
        num_restarts: R, unless `start` is a mixture.
        max_steps: maximum number of EM steps of a restart.
        tolerance: stop when the objective changes by less, in nats per unit of weight.
        regularization: added to every variance, in squared units of the data.
        prior: conjugate prior for MAP estimation; see `em.default_prior`.
        sample_weight: non-negative weights [N]; a weight of 2 is equivalent to duplicating the row.
        y: known components of some rows, integers [N]: a label k is component k, and -1 is unknown.
            The objective is then the likelihood of rows and labels; x is in memory.
        acceleration: "squarem" extrapolates every second step (Varadhan and Roland 2008), and takes
            the step back if the objective falls. A slow fit needs a half to a fortieth of the
            passes over the data; a step that is taken back counts in `num_steps`.
        checkpoint: a file that is replaced after each step, and every minute within one, so that
            the same call resumes a killed fit to the same bits.
        mesh: of `lvm_jax.parallel.data_mesh`: the rows are divided over its devices. Of several
            processes each gives its own rows and weights, and all return the same fit.
        on_progress: called every 8 steps with a dict of step, objective (the
            best so far) and running (number of unfinished restarts). For data that stream it is
            called every second and after each step; the dict then has rows (of this pass),
            rows_per_second and seconds_left (until max_steps) too.
        throw: raise if every restart failed, and warn at the step limit or at empty components.
            With False the result's `Info` alone reports the outcome.

    Raises:
        ValueError, TypeError: for invalid arguments, before compilation.
        FloatingPointError: if every restart degenerated or diverged (with `throw`).

    With missing entries the objective is the likelihood of the observed ones. Full and tied
    covariances group the rows by the pattern of their missing entries: a step costs about
    N K D^2 multiplications and K D^3 for each pattern. Diagonal and spherical ones cost two
    matrix products, as for complete rows.

    Source: Dempster, Laird and Rubin (1977); Bishop (2006), section 9.2.2; for missing entries
    Ghahramani and Jordan (1994).
    """
    source = sources.as_source(x)
    x = x if source is None else source
    checks.host("em.fit", INSIDE, key, x, sample_weight)
    request = Request(
        x, num_components, family, start, num_restarts,
        regularization, prior, sample_weight, tolerance, acceleration,
    )  # fmt: skip
    request = with_labels(request)
    if y is not None:
        request = labels.attach(request, y, partial(_initialize, key))
    max_steps = checks.integer(max_steps, "max_steps", 0)
    if source is not None or checkpoint is not None or mesh is not None:
        options = streaming.Options(max_steps, on_progress, checkpoint, mesh)
        result = fit_stream(key, request, options)
    else:
        prepared = prepare(key, request)
        result = conclude(*loop.run(prepared.problem, max_steps, on_progress), prepared)
    if y is not None:
        result = labels.detach(result, Settings(regularization))
    if throw:
        report(result)
    return result


def fit_stream(
    key: Key[Array, ""],
    request: Request,
    options: streaming.Options,
    begin: Callable[[np.ndarray, np.ndarray | None], Mixture] | None = None,
) -> MixtureFit:
    """`fit` of data that stream or are on a mesh; begin(rows, weights) makes the starts."""
    checks.key(key)
    family = check(request)

    def by_name(x: np.ndarray, weight: np.ndarray | None) -> Mixture:
        names = ("num_restarts", "regularization", "prior", "start")
        same: Any = {name: getattr(request, name) for name in names}
        return initialize(key, x, request.num_components, family, sample_weight=weight, **same)

    ran = streaming.run(key, request, family, begin or by_name, options)
    nothing: Any = None
    problem = Problem(
        family, False, 0, False, key, nothing, nothing, nothing, ran.controls, np.int32(0)
    )
    return conclude(*ran[:3], Prepared(problem, ran.origin, request.num_components))


def initialize(
    key: Key[Array, ""],
    x: ArrayLike,
    num_components: int,
    family: ExponentialFamily | str = "full",
    *,
    start: str | np.ndarray | Array = "kmeans",
    num_restarts: int = 1,
    regularization: float = 1e-6,
    prior: priors.ConjugatePrior | None = None,
    sample_weight: ArrayLike | None = None,
) -> Mixture:
    """The initial mixtures of `fit`; every leaf has a leading restart axis R (1 for labels).

    start: a method or labels, as in `fit`. Raises ValueError and TypeError as `fit` does.
    """
    checks.host("em.initialize", INSIDE, key, x, sample_weight)
    request = Request(
        x, num_components, family, start, num_restarts, regularization, prior, sample_weight, 0.0
    )
    return _initialize(key, with_labels(request))


def with_labels(request: Request) -> Request:
    """The request with the mixture of its start, if the start is labels."""
    is_array = isinstance(request.start, np.ndarray | jax.Array)
    return assigned.attach(request) if is_array else request


def _initialize(key: Key[Array, ""], request: Request) -> Mixture:
    problem, origin, num_components, _ = prepare(key, request)
    family = problem.family.original
    state, *_ = loop.run(problem, 0)
    begun = padding.each(padding.cut, family, state.parameters, num_components)
    log_weights, components = jax.device_put(begun)
    return Mixture(log_weights, components, jax.device_put(origin), family)
