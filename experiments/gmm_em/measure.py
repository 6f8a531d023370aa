"""Fits, their comparison, held-out likelihoods, samples, agreement with true classes."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import sem
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from experiments.gmm_em import refits
from experiments.gmm_em.all_rows import AllRows, fit_all
from experiments.gmm_em.config import Config
from experiments.gmm_em.loading import Loaded, comparison_grid, filled, keys
from experiments.gmm_em.loading import load as load
from experiments.gmm_em.search import NONE, lowest, search
from experiments.gmm_em.search import rows as search_rows
from lvm_jax import data, em
from lvm_jax.report import Check, Run, near, point_ids

RAND, INFORMATION = "adjusted Rand index", "normalised mutual information"
TRUE_RAND, TRUE_MEAN = f"{RAND} of the true mixture", "log-likelihood per point of the true mixture"
# Results of scikit-learn's GaussianMixture with 10 starts and tolerance 1e-10 for the default
# options: log-likelihood, the same per point, BIC, smaller weight, adjusted Rand index.
KNOWN = {
    "old_faithful": (-1130.264, -4.155382, 2322.192, 0.355873),
    "three_clusters": (-4752.983, -3.168655, 9630.290, 0.331237, 0.896269),
}
TOLERANCES = (2e-3, 1e-5, 4e-3, 1e-4, 2e-3)
# Options that KNOWN does not depend on.
FREE = ("seed", "max_components", "compare", "num_folds", "search", "num_refits")


class Candidate(NamedTuple):
    """One cell of the comparison: a covariance type and a K, with the quality of the fit."""

    covariance: str
    num_components: int
    outcome: str
    criteria: em.Criteria
    smallest_spread: float

    @property
    def is_collapsed(self) -> bool:
        """Whether a component has collapsed onto few points, where the likelihood is unbounded."""
        return self.smallest_spread < 1e-4


class HeldOut(NamedTuple):
    """Cross-validated log-likelihood, nats per point."""

    mean: float
    standard_error: float  # of the mean over points, for these fits
    in_sample: float  # on the fitted points
    num_points: int


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    dataset: data.Dataset
    original: data.Dataset
    pca: data.PCA | None
    fit: em.MixtureFit
    candidates: list[Candidate]  # the mixture's own first
    held_out: HeldOut
    points: dict[str, np.ndarray]  # log p(x) of each point under the fit without its fold
    samples: np.ndarray  # [N, D], drawn from the fitted mixture
    samples_z: np.ndarray  # [N], their components
    agreement: dict[str, float]  # with the true labels, if there are any
    all_rows: AllRows | None = None  # the fit to all rows, if `dataset` is a sample
    search: em.Selection | None = None  # over the covariance models of mclust
    refits: em.Bootstrap | None = None

    @property
    def missing(self) -> np.ndarray:
        """Which entries are missing, [N, D]."""
        return np.isnan(self.dataset.x)

    @property
    def shown(self) -> data.Dataset:
        """The data of the figures, with the expectations of missing entries."""
        if not self.missing.any():
            return self.dataset
        return self.dataset._replace(x=np.asarray(self.fit.mixture.impute(self.dataset.x)))

    @property
    def best(self) -> Candidate | None:
        """The candidate of lowest BIC among those that did not collapse or fail."""
        sound = [c for c in self.candidates if not c.is_collapsed and c.outcome == "CONVERGED"]
        return min(sound, key=lambda c: c.criteria.bic, default=None)

    @property
    def leading(self) -> list[em.Candidate]:
        """The five fits of the search with the lowest BIC."""
        return [] if self.search is None else lowest(self.search)

    @property
    def components(self) -> list[tuple[Any, ...]]:
        """Name, weight, points, mean and sd of each component, and of the nearest true ones."""
        mixture, truth = self.fit.mixture, self.dataset.truth
        points = np.bincount(mixture.assign(self.dataset.x), minlength=len(mixture.weights))
        names = range(1, len(points) + 1)
        columns = (mixture.weights, points, mixture.means, spread(mixture.covariances))
        rows = [*zip(names, *columns, strict=True)]
        if truth is not None and len(truth.weights) == len(points):
            _, near_to = linear_sum_assignment(cdist(mixture.means, truth.means))
            sd = spread(truth.covariances)
            for k, t in zip(names, near_to, strict=True):
                rows.append((f"truth of {k}", truth.weights[t], "", truth.means[t], sd[t]))
        return rows

    @property
    def majority(self) -> list[tuple[int, float]]:
        """The majority class of each component, and its share."""
        assigned = np.asarray(self.fit.mixture.assign(self.dataset.x))
        counts = np.zeros((len(self.fit.mixture.weights), self.dataset.labels.max() + 1))
        np.add.at(counts, (assigned, self.dataset.labels), 1)
        shares = counts.max(1) / np.maximum(counts.sum(1), 1)
        return [*zip(counts.argmax(1), shares, strict=True)]

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        mixture, info = self.fit.mixture, self.fit.info
        names = ("weights", "means", "covariances")
        return {
            "mixture": {name: getattr(mixture, name) for name in names},
            "info": info._asdict() | {"outcome": info.outcome.name},
            "criteria": self.candidates[0].criteria,
            "candidates": [c._asdict() | {"collapsed": c.is_collapsed} for c in self.candidates],
            "best_by_bic": self.best,
            "held_out": self.held_out,
            "agreement": self.agreement,
            "all_rows": self.all_rows and self.all_rows.numbers,
            "search": self.search and search_rows(self.search),
            "refits": self.refits and refits.numbers(self.refits),
        }


def spread(covariances: np.ndarray) -> np.ndarray:
    """Standard deviations [K, D] of covariances [K, D, D]."""
    return np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))


def measure(config: Config, run: Run, loaded: Loaded) -> Result:
    """Fit the mixture, compare candidates, cross-validate, and sample."""
    config, dataset, original, pca, folds, source = loaded
    x, grid = dataset.x, comparison_grid(config)
    key_fit, key_grid, (_, key_folds), key_samples = keys(config)
    run.begin(len(grid) + len(folds) + 2 + (source is not None) + (config.search != NONE))
    fit = run.stage("fit", fit_mixture, key_fit, x, config, run)
    whole = source and run.stage("all rows", fit_all, key_fit, source, config, fit.mixture, run)
    # Not in threads: jaxlib's batched Cholesky waits, in a thread of XLA's pool, for work queued to
    # that pool, so that as many fits as threads deadlock.
    candidates = [
        run.stage(
            f"K = {k}, {covariance}", compare, jax.random.fold_in(key_grid, index), x, config,
            covariance, k, run, None if index else fit,
        )
        for index, (covariance, k) in enumerate(grid)
    ]  # fmt: skip
    is_searched = config.search != NONE
    found = run.stage("search", search, key_grid, x, config, run) if is_searched else None
    scores = [
        run.stage(f"fold {i + 1}", hold_out, jax.random.fold_in(key_folds, i), x, fold, config)
        for i, fold in enumerate(folds)
    ]
    every = np.concatenate([unseen for unseen, _ in scores]).astype(np.float64)
    seen = float(np.mean([mean for _, mean in scores]))
    again = run.stage("bootstrap", refits.refit, jax.random.fold_in(key_samples, 1), x, config, fit)
    points = {"point": point_ids(x), "log_evidence": every[np.argsort(np.concatenate(folds))]}
    return Result(
        config, dataset, original, pca, fit, candidates,
        HeldOut(float(every.mean()), float(sem(every)), seen, len(every)), points,
        *jax.device_get(fit.mixture.sample(key_samples, len(x))), agreement(fit.mixture, dataset),
        whole, found, again,
    )  # fmt: skip


def fit_once(key: jax.Array, x: np.ndarray, config: Config, **changes: Any) -> em.MixtureFit:
    """Fit one mixture with the options of the configuration, some of them changed."""
    names = ("num_components", "start", "num_restarts", "max_steps", "tolerance", "regularization")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    options["family"] = config.covariance
    options["sample_weight"] = np.ones(len(x))  # so that the folds run the same program
    return em.fit(key, x, **{**options, **changes}, throw=False)


def fit_mixture(key: jax.Array, x: np.ndarray, config: Config, run: Run) -> em.MixtureFit:
    """The fit of the mixture, with a log of its steps."""

    def on_progress(info: dict[str, Any]) -> None:
        run.log(**info, stage="fit")
        run.note(f"EM step {info['step']}: {info['objective']:.6f} nats per point")

    fit = fit_once(key, x, config, on_progress=on_progress)
    if not np.isfinite(fit.info.log_likelihood):
        raise FloatingPointError(
            f"no restart made a single step ({fit.info.outcome.name.lower()}): a covariance is "
            "singular from the start; raise --regularization or lower --num-components"
        )
    return fit


def compare(
    key: jax.Array, x: np.ndarray, config: Config, covariance: str, k: int, run: Run,
    fit: em.MixtureFit | None,
) -> Candidate:  # fmt: skip
    """A cell of the comparison, fitted unless `fit` is given."""
    if fit is None:
        fit = fit_once(key, x, config, family=covariance, num_components=k)
    spread = em.smallest_spread(fit.mixture, x)
    criteria = em.criteria(fit.mixture, x)
    found = Candidate(covariance, k, fit.info.outcome.name, criteria, spread)
    run.log(**{"num_components": k, "stage": "compare"} | found._asdict())
    return found


def hold_out(
    key: jax.Array, x: np.ndarray, fold: np.ndarray, config: Config
) -> tuple[np.ndarray, float]:
    """log p of the points of a fold under the fit without them, and the mean of the others."""
    weight = np.ones(len(x))
    weight[fold] = 0.0  # equivalent to removing the row; all folds share one program
    fit = fit_once(key, x, config, sample_weight=weight)
    return np.asarray(fit.mixture.log_prob(x))[fold], fit.info.log_likelihood


def agreement(mixture: em.Mixture, dataset: data.Dataset) -> dict[str, float]:
    """Agreement of the clusters, and of the true mixture if known, with the true classes."""
    if dataset.labels is None:
        return {}
    assigned = np.asarray(mixture.assign(dataset.x))
    found = {
        RAND: adjusted_rand_score(dataset.labels, assigned),
        INFORMATION: normalized_mutual_info_score(dataset.labels, assigned),
    }
    if dataset.truth is not None:
        truth = em.gaussian_mixture(*dataset.truth)
        found[TRUE_RAND] = adjusted_rand_score(dataset.labels, truth.assign(dataset.x))
        found[TRUE_MEAN] = np.mean(truth.log_prob(dataset.x))
    return {name: float(value) for name, value in found.items()}


def checks(result: Result) -> list[Check]:
    """Moments that every M-step conserves, and known values for the default options."""
    config, fit, found = result.config, result.fit, result.candidates[0].criteria
    obtained = {
        "log-likelihood": found.log_likelihood,
        "log-likelihood per point": fit.info.log_likelihood,
        "BIC": found.bic,
        "smaller weight": float(np.min(fit.mixture.weights)),
        RAND: result.agreement.get(RAND, np.nan),
    }
    default = filled(Config(data=config.data), result.original.x)
    is_default = dataclasses.replace(default, **{n: getattr(config, n) for n in FREE}) == config
    known = KNOWN.get(config.data, ()) if is_default else ()
    rows = zip(obtained.items(), known, TOLERANCES, strict=False)
    return conserved(result) + [
        near(name, value, expected, within, "scikit-learn")
        for (name, value), expected, within in rows
    ]


def conserved(result: Result) -> list[Check]:
    """The mixture's mean and total variance are those of the data, plus D times regularization.

    Nothing is conserved with missing entries.
    """
    if result.missing.any():
        return []
    mixture, x = result.fit.mixture, result.dataset.x
    weights, means = np.asarray(mixture.weights), np.asarray(mixture.means)
    mean, spread = weights @ means, x.var(axis=0).sum()
    away = np.linalg.norm(mean - x.mean(axis=0)) / np.sqrt(spread)
    traces = np.trace(np.asarray(mixture.covariances), axis1=1, axis2=2)
    total = weights @ (traces + ((means - mean) ** 2).sum(1)) / spread
    expected = 1 + x.shape[1] * result.config.regularization / spread
    source = "conserved by the M-step"
    return [
        near("mean of the mixture less that of the data [sd]", away, 0.0, 1e-8, source),
        near("variance of the mixture over the data's", total, expected, 1e-8, source),
    ]
