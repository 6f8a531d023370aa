"""What the mixture experiment measures: fits, their comparison, held-out likelihood, agreement."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.progress import Progress
from experiments.run_directory import RunDirectory
from lvm_jax import checks, em
from lvm_jax.data import Dataset
from lvm_jax.em import inputs

if TYPE_CHECKING:
    from experiments.gmm_em import Config, Covariance


class Candidate(NamedTuple):
    """One cell of the comparison: a covariance type and a K, with what the fit is worth."""

    covariance: str
    num_components: int
    outcome: str
    criteria: em.Criteria
    smallest_spread: float

    @property
    def is_collapsed(self) -> bool:
        """Whether a component has shrunk onto a few points, which buys likelihood without limit."""
        return self.smallest_spread < 1e-4


class HeldOut(NamedTuple):
    """Cross-validated log-likelihood [nats per point], beside that on the data fitted."""

    mean: float
    standard_error: float
    in_sample: float
    num_points: int


def check(
    x: np.ndarray,
    grid: "list[tuple[Covariance, int]]",
    folds: list[np.ndarray],
    regularization: float,
) -> None:
    """Refuse, before anything is written, data that a fit of the grid or a fold would refuse later.

    The grid begins with the mixture that is fitted without each fold.
    """
    if (x == x[0]).all():
        raise ValueError(f"data: expected rows that differ, got {len(x)} equal ones")
    with warnings.catch_warnings(action="ignore"):  # the fits say it again
        for covariance, k in grid:
            inputs.check_data(x, k, em.GAUSSIANS[covariance], None, regularization)
    k = grid[0][1]
    for number, fold in enumerate(folds, 1):
        try:
            checks.distinct_rows(np.delete(x, fold, axis=0), k, "data")
        except ValueError as error:
            raise ValueError(
                f"data: expected at least {k} distinct rows outside fold {number} of {len(folds)} "
                f"for {k} components, but it holds every copy of some; lower --num-components, or "
                "raise --num-folds where they have several copies"
            ) from error


def split_folds(key: jax.Array, num_points: int, num_folds: int) -> list[np.ndarray]:
    """The indices of the points in random folds of nearly equal size."""
    return np.array_split(np.asarray(jax.random.permutation(key, num_points)), num_folds)


def fit_once(key: jax.Array, x: np.ndarray, config: "Config", **changes: Any) -> em.Fit:
    """Fit one mixture with the options of the configuration, some of them changed."""
    options: dict[str, Any] = {
        "num_components": config.num_components,
        "covariance_type": config.covariance,
        "start": config.start,
        "num_restarts": config.num_restarts,
        "max_steps": config.max_steps,
        "tolerance": config.tolerance,
        "regularization": config.regularization,
        "sample_weight": np.ones(len(x)),  # as the folds have weights: they run the same program
    }
    return em.fit(key, x, **{**options, **changes}, throw=False)


def fit_mixture(
    key: jax.Array,
    x: np.ndarray,
    config: "Config",
    run: RunDirectory,
    bar: Progress,
) -> em.Fit:
    """The fit that the experiment is about, logged as it goes."""

    def on_progress(info: dict[str, Any]) -> None:
        run.log(stage="fit", **info)
        bar.note(f"EM step {info['step']}: {info['objective']:.6f} nats per point")

    bar.note("compiling")
    fit = fit_once(key, x, config, on_progress=on_progress)
    info = fit.info
    if not np.isfinite(info.log_likelihood):
        raise FloatingPointError(
            f"no restart made a single step ({info.outcome.name.lower()}): a covariance is singular "
            "from the start; raise --regularization or lower --num-components"
        )
    bar.done(
        f"K = {config.num_components}, {config.covariance}: {info.log_likelihood:.6f} nats per "
        f"point, {info.outcome.name.lower()} after {info.num_steps} steps"
    )
    return fit


def compare(
    key: jax.Array,
    x: np.ndarray,
    config: "Config",
    grid: list[tuple[str, int]],
    fit: em.Fit,
    run: RunDirectory,
    bar: Progress,
) -> list[Candidate]:
    """A candidate for every cell of the grid; the first is the fit there is already.

    One after the other, never in threads: jaxlib's batched Cholesky waits, inside a thread of
    XLA's pool, for work that it queued to that pool. As many fits as threads wait for ever.
    """
    candidates = []
    for index, (covariance, k) in enumerate(grid):
        cell = fit
        if index:
            cell_key = jax.random.fold_in(key, index)
            changes = {"covariance_type": covariance, "num_components": k}
            cell = fit_once(cell_key, x, config, **changes)
        criteria = em.criteria(cell.mixture, x)
        spread = smallest_spread(np.asarray(cell.mixture.covariances), x)
        found = Candidate(covariance, k, cell.info.outcome.name, criteria, spread)
        candidates.append(found)
        run.log(stage="compare", **found._asdict())
        bar.done(f"K = {k}, {covariance}: BIC {criteria.bic:.3f}")
    return candidates


def smallest_spread(covariances: np.ndarray, x: np.ndarray) -> float:
    """The smallest variance of any component in any direction, as a share of the data's there."""
    if not np.isfinite(covariances).all():  # a fit that failed from the start
        return float("nan")
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))
    kept = values > 1e-12 * values.max()
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    return float(np.linalg.eigvalsh(whiten.T @ covariances @ whiten).min())


def cross_validate(
    key: jax.Array, x: np.ndarray, folds: list[np.ndarray], config: "Config", bar: Progress
) -> HeldOut:
    """Log-likelihood of each point under the mixture fitted without its fold.

    The standard error is that of a mean over points; it treats the fits as given.
    """
    unseen, seen = [], []
    for i, fold in enumerate(folds):
        weight = np.ones(len(x))
        weight[fold] = 0.0  # a row without weight is not there, and all folds share one program
        fit = fit_once(jax.random.fold_in(key, i), x, config, sample_weight=weight)
        unseen.append(np.asarray(fit.mixture.log_prob(x))[fold])
        seen.append(fit.info.log_likelihood)
        bar.done(f"fold {i + 1} held out: {unseen[-1].mean():.4f} nats per point")
    every = np.concatenate(unseen).astype(np.float64)
    error = every.std(ddof=1) / np.sqrt(len(every))
    return HeldOut(float(every.mean()), float(error), float(np.mean(seen)), len(every))


def agreement(mixture: em.Mixture, dataset: Dataset) -> dict[str, float]:
    """How far the clusters are the true classes; with the truth, how far any could be."""
    if dataset.labels is None:
        return {}
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    assigned = np.asarray(mixture.assign(dataset.x))
    scores = {
        "adjusted Rand index": float(adjusted_rand_score(dataset.labels, assigned)),
        "normalised mutual information": float(
            normalized_mutual_info_score(dataset.labels, assigned)
        ),
    }
    if dataset.truth is not None:
        truth = em.gaussian_mixture(*dataset.truth)
        best = np.asarray(truth.assign(dataset.x))
        scores["adjusted Rand index of the true mixture"] = float(
            adjusted_rand_score(dataset.labels, best)
        )
        scores["log-likelihood per point of the true mixture"] = float(
            np.mean(truth.log_prob(dataset.x))
        )
    return scores
