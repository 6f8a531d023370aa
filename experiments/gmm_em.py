"""Fit a Gaussian mixture by EM, choose its size, and show what it has learned.

The lecture's section 0.2 end to end: data, k-means start, EM from several starts at once, samples
from the fitted mixture. Beyond the lecture: how many components the criteria ask for, in four
covariance types; the log-likelihood of points that the fit never saw; where the assignment is
uncertain.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.gmm_em_evaluation import Candidate, HeldOut
    from lvm_jax import data, em

Covariance = Literal["full", "tied", "diag", "spherical"]
COVARIANCES: tuple[Covariance, ...] = ("full", "tied", "diag", "spherical")


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment; None means the default that fits the data."""

    data: str = "lecture"
    """lecture, old_faithful, digits, or the path of a .csv, .tsv, .npy or .parquet file."""
    columns: tuple[str, ...] | None = None
    """Columns to use, by name; None uses all."""
    standardize: bool = False
    """Scale every column to mean 0 and standard deviation 1 first."""
    pca_dim: int | None = None
    """Fit in this many principal components; None means 16 for digits, otherwise no PCA."""
    num_components: int | None = None
    """K; None means 3 for lecture, 2 for old_faithful, 10 for digits and 3 for a file."""
    covariance: Covariance = "full"
    """Covariance type of the mixture."""
    start: Literal["kmeans", "k-means++", "random", "random_from_data"] = "kmeans"
    """How each restart begins."""
    num_restarts: int = 10
    """Restarts, run together; the best likelihood wins."""
    max_steps: int = 2000
    """The most EM steps of a restart."""
    tolerance: float = 1e-8
    """Stop when the mean log-likelihood changes by less [nats per point]."""
    regularization: float = 1e-6
    """Added to every variance [squared units of the data]."""
    max_components: int | None = None
    """Compare K from 1 to this by AIC, BIC and ICL; None means 6, or 2 K if that is more."""
    compare: tuple[Covariance, ...] = COVARIANCES
    """Covariance types to compare; the one of the mixture is always among them."""
    num_folds: int = 5
    """Folds of the cross-validated log-likelihood."""
    x64: bool = True
    """Compute in float64 (--no-x64: float32)."""


class Expected(NamedTuple):
    """A known value, how far from it a run may come out, and its unit."""

    value: float
    within: float
    unit: str


# What a run with the default options gives on any machine. The values were made with scikit-learn's
# GaussianMixture (10 starts, tolerance 1e-10), an implementation that shares no code with this one.
EXPECTED: dict[tuple[str, int, str], dict[str, Expected]] = {
    ("old_faithful", 2, "full"): {
        "log-likelihood": Expected(-1130.264, 2e-3, "nats"),
        "log-likelihood per point": Expected(-4.155382, 1e-5, "nats"),
        "BIC": Expected(2322.192, 4e-3, ""),
        "smaller weight": Expected(0.355873, 1e-4, ""),
    },
    ("lecture", 3, "full"): {
        "log-likelihood": Expected(-4752.983, 2e-3, "nats"),
        "log-likelihood per point": Expected(-3.168655, 1e-5, "nats"),
        "BIC": Expected(9630.290, 4e-3, ""),
        "smaller weight": Expected(0.331237, 1e-4, ""),
        "adjusted Rand index": Expected(0.896269, 2e-3, ""),
    },
}


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    dataset: "data.Dataset"  # as it was fitted
    original: "data.Dataset"  # as it was read
    pca: "data.PCA | None"
    fit: "em.Fit"
    criteria: "em.Criteria"
    candidates: "list[Candidate]"
    held_out: "HeldOut"
    samples: np.ndarray  # [N, D], drawn from the fitted mixture
    samples_z: np.ndarray  # [N], the components they came from
    agreement: dict[str, float]  # with the true labels, where there are any
    expected: list[tuple[str, Expected, float]]  # name, known, obtained
    path: Path

    @property
    def best(self) -> "Candidate | None":
        """The candidate of lowest BIC among those that did not collapse or fail."""
        sound = [c for c in self.candidates if not c.is_collapsed and c.outcome == "CONVERGED"]
        return min(sound, key=lambda c: c.criteria.bic, default=None)


def main(config: Config) -> Result:
    """Fit, compare, hold out, sample, and write the report."""
    import jax

    from experiments import gmm_em_evaluation as evaluation

    with jax.enable_x64(config.x64):
        config, dataset, original, pca = prepare(config)
        grid = comparison_grid(config)
        key_fit, key_grid, key_folds, key_samples = jax.random.split(jax.random.key(config.seed), 4)
        key_order, key_folds = jax.random.split(key_folds)
        folds = evaluation.split_folds(key_order, len(dataset.x), config.num_folds)
        evaluation.check(dataset.x, grid, folds, config.regularization)
        run = run_directory.create("gmm_em", config.out, config.overwrite)
        run.write_json("config.json", config)
        with progress("gmm_em", total=len(grid) + config.num_folds + 1) as bar:
            fit = evaluation.fit_mixture(key_fit, dataset.x, config, run, bar)
            candidates = evaluation.compare(key_grid, dataset.x, config, grid, fit, run, bar)
            held_out = evaluation.cross_validate(key_folds, dataset.x, folds, config, bar)
            samples, samples_z = fit.mixture.sample(key_samples, len(dataset.x))
            result = Result(
                config=config,
                dataset=dataset,
                original=original,
                pca=pca,
                fit=fit,
                criteria=candidates[0].criteria,
                candidates=candidates,
                held_out=held_out,
                samples=np.asarray(samples),
                samples_z=np.asarray(samples_z),
                agreement=evaluation.agreement(fit.mixture, dataset),
                expected=[],
                path=run.path,
            )
            result = result._replace(expected=against_expected(result))
        finish(result, run)  # it prints a table: not while the bar is live
    return result


def prepare(config: Config) -> "tuple[Config, data.Dataset, data.Dataset, data.PCA | None]":
    """Read and transform the data, and fill in the defaults that depend on them."""
    from lvm_jax import data

    original = dataset = data.load(config.data, config.columns)
    num_components, largest = config.num_components, config.max_components
    if num_components is None:
        num_components = {"old_faithful": 2, "digits": 10}.get(config.data, 3)
    if largest is None:
        distinct = len(np.unique(dataset.x, axis=0))
        largest = min(max(6, 2 * num_components), len(dataset.x) // 2, distinct)
    check_numbers(config, num_components, largest, len(dataset.x))
    pca_dim = config.pca_dim
    if pca_dim is None and config.data == "digits" and config.columns is None:
        pca_dim = 16
    if config.standardize:
        dataset = dataset.standardized()
    dataset, pca = (dataset, None) if pca_dim is None else data.reduce(dataset, pca_dim)
    filled = {"num_components": num_components, "max_components": largest, "pca_dim": pca_dim}
    if dataset.x.shape[1] == 1:  # on a line full, diag and spherical are the same
        is_tied = config.covariance == "tied"
        other = [c for c in config.compare if (c == "tied") != is_tied][:1]
        filled["compare"] = (config.covariance, *other)
    return dataclasses.replace(config, **filled), dataset, original, pca


def check_numbers(config: Config, num_components: int, largest: int, num_points: int) -> None:
    """Refuse, before anything is written, numbers that the fits would refuse later."""
    from lvm_jax import checks

    checks.integer(num_components, "num_components", 1)
    checks.integer(config.num_folds, "num_folds", 2)
    for name in ("num_restarts", "max_steps"):
        checks.integer(getattr(config, name), name, 1)
    for name in ("tolerance", "regularization"):
        checks.number(getattr(config, name), name)
    needed = 2 * max(config.num_folds, num_components)
    if num_points < needed:
        raise ValueError(
            f"data: expected at least {needed} rows for {num_components} components and "
            f"{config.num_folds} folds, got {num_points}; lower --num-components or --num-folds"
        )
    checks.integer(largest, "max_components", 1)
    if 2 * largest > num_points:
        raise ValueError(
            f"data: expected at least {2 * largest} rows to compare up to {largest} components, "
            f"got {num_points}; lower --max-components"
        )


def comparison_grid(config: Config) -> list[tuple[Covariance, int]]:
    """The (covariance type, K) to compare, the mixture's own first; at most seven values of K.

    Every cell compiles its start, a second each: other types only at the own K and its neighbours.
    """
    own = (config.covariance, config.num_components)
    spaced = np.linspace(1, config.max_components, min(config.max_components, 6))
    sizes = sorted({*(int(k) for k in spaced.round()), config.num_components})
    place = sizes.index(config.num_components)
    near = sizes[max(place - 1, 0) : place + 2]
    others = [c for c in dict.fromkeys(config.compare) if c != config.covariance]
    cells = [(config.covariance, k) for k in sizes] + [(c, k) for c in others for k in near]
    return [own, *(cell for cell in cells if cell != own)]


def against_expected(result: Result) -> list[tuple[str, Expected, float]]:
    """The known values beside those obtained, where the options are those they were made with."""
    config = result.config
    known = EXPECTED.get((config.data, config.num_components, config.covariance), {})
    default = dataclasses.replace(Config(), data=config.data)
    same = ("columns", "standardize", "pca_dim", "regularization")
    if any(getattr(config, name) != getattr(default, name) for name in same):
        return []
    obtained = {
        "log-likelihood": result.criteria.log_likelihood,
        "log-likelihood per point": result.fit.info.log_likelihood,
        "BIC": result.criteria.bic,
        "smaller weight": float(np.min(result.fit.mixture.weights)),
        **result.agreement,
    }
    rounding = 0.0 if config.x64 else 1e-6  # relative, of sums in float32
    return [
        (name, e._replace(within=e.within + rounding * abs(e.value)), obtained[name])
        for name, e in known.items()
    ]


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Print the numbers to expect, and write the results, the figures and the report."""
    from experiments import gmm_em_figures, gmm_em_report

    tell(result)
    publish.publish(run, result, numbers(result), gmm_em_figures.draw, gmm_em_report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    info, mixture = result.fit.info, result.fit.mixture
    return {
        "mixture": {
            "weights": mixture.weights,
            "means": mixture.means,
            "covariances": mixture.covariances,
        },
        "info": info._asdict() | {"outcome": info.outcome.name},
        "criteria": result.criteria,
        "candidates": [c._asdict() | {"collapsed": c.is_collapsed} for c in result.candidates],
        "best_by_bic": result.best,
        "held_out": result.held_out,
        "agreement": result.agreement,
        "expected": {name: {**e._asdict(), "obtained": got} for name, e, got in result.expected},
    }


def tell(result: Result) -> None:
    """Print the fit, what to mind in it, and the numbers to expect beside those obtained."""
    from rich import table
    from rich.console import Console

    from experiments.gmm_em_report import OUTCOMES, warnings
    from experiments.gmm_em_tables import expected_table

    console = Console(highlight=False, markup=False, emoji=False)
    held_out, info = result.held_out, result.fit.info
    said = (
        f"{result.original.name}: K = {result.config.num_components}, {result.config.covariance}: "
        f"{info.log_likelihood:.6f} nats per point, {OUTCOMES[info.outcome.name]} after "
        f"{info.num_steps} steps; held out {held_out.mean:.4f} ± {held_out.standard_error:.4f}"
    )
    console.print(said, soft_wrap=True)
    for warning in warnings(result):
        console.print(f"warning: {warning}", soft_wrap=True)
    if result.expected:
        known = expected_table(result)
        drawn = table.Table(*known.header)
        for row in known.rows:
            drawn.add_row(*row)
        console.print(drawn)
