"""A linear VAE beside probabilistic PCA, the exact model that it is: posterior collapse explained.

p(x | z) = N(W z + b, s2 I) with an amortised q whose mean is linear in x is trained from a random
start by stochastic gradients, s2 learned and s2 given. Its log p(x), its ELBO, its axes and its
collapsed units stand beside the closed form: the ELBO reaches log p(x), the mean-field q chooses
the principal axes, and the units that collapse are those whose eigenvalue is not above s2.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.linear_vae_data import Scaled
    from experiments.linear_vae_exact import Measured, Spectrum
    from experiments.linear_vae_landscape import Ascent, Rotation, Saddle, Turn
    from experiments.linear_vae_training import Record, Setup, Trained
    from lvm_jax.models import LinearGaussian


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment; None means the default that fits the data."""

    data: str = "digits"
    """digits, mnist, binarized_mnist, fashion_mnist, old_faithful, lecture, or the path of a table."""
    columns: tuple[str, ...] | None = None
    """The columns of a table to use, by name."""
    standardize: bool = False
    """Divide each column by its standard deviation: the eigenvalues are then of correlations."""
    latent_dim: int | None = None
    """Units of z; None means 10, or one less than the columns where these are fewer."""
    noise_variances: tuple[float, ...] | None = None
    """Given s2, in the data's units squared; None spreads five over the spectrum. s2 is learned too."""
    guide: Literal["mean_field", "full_rank"] = "mean_field"
    """The covariance of q(z | x)."""
    covariance: Literal["shared", "per_x"] = "shared"
    """Whether that covariance is one for all x, or depends on x as well."""
    estimator: Literal["sticking_the_landing", "reparameterized", "leave_one_out"] = (
        "sticking_the_landing"
    )
    """The gradient estimator of the ELBO."""
    num_samples: int = 1
    """Draws of z per data point and step."""
    num_epochs: int = 2000
    """Passes over the data of each training."""
    batch_size: int = 400
    """Rows in each step."""
    learning_rate: float = 0.02
    """Adam's at the first step; falls to 0 as a cosine."""
    num_records: int = 20
    """Points of the learning curves."""
    ascent_steps: int = 4000
    """The most steps of the ascent without noise that follows each training; 0 leaves it out."""


class Run(NamedTuple):
    """One noise variance: the closed form, the training, and where an ascent goes on to."""

    noise_variance: float  # s2 at the optimum, scaled units
    num_above: int  # eigenvalues above it, at most L
    best: "LinearGaussian"
    exact: "Measured"
    trained: "Trained"
    trained_axes: "Axes"
    ascent: "Ascent"
    ascended: "Measured"
    ascended_axes: "Axes"


class Axes(NamedTuple):
    """How well the columns of W point along the principal axes that the optimum uses."""

    cosines: np.ndarray  # [num_above], |u_i^T w_i| / |w_i|
    subspace_angle: float  # the largest principal angle of the two spans, degrees; NaN for none


class Result(NamedTuple):
    """All that the run found, in scaled units; the report is drawn from it and nothing else."""

    config: Config
    data: "Scaled"
    spectrum: "Spectrum"
    runs: list[Run]  # s2 learned first, then given, falling
    rotations: "list[Rotation]"
    turns: "list[Turn]"
    saddles: "list[Saddle]"  # at the s2 of `middle`
    path: Path

    @property
    def middle(self) -> Run:
        """The run with a given s2 that tables and figures look at, if there is one."""
        return self.runs[(1 + len(self.runs)) // 2] if len(self.runs) > 1 else self.runs[0]


def main(config: Config) -> Result:
    """Train, compare with the closed form, look at the landscape, and write the report."""
    from experiments import linear_vae_data as data
    from experiments import linear_vae_exact as exact

    check(config)
    loaded = data.load(config.data, config.columns, config.standardize)
    config = filled(config, loaded)
    found = exact.spectrum(loaded.x)
    noises = noise_variances(config, loaded, found)
    check_trainable(config, loaded, found)
    run = run_directory.create("linear_vae", config.out, config.overwrite)
    run.write_json("config.json", config)
    with progress("linear_vae", total=len(noises) + 2) as bar:
        result = compare(config, loaded, found, noises, run, bar)
        finish(result, run)
        bar.done("report written")
    return result


def check(config: Config) -> None:
    """Refuse, before anything is read, numbers that no training takes."""
    from lvm_jax import checks

    for name in ("num_samples", "num_epochs", "batch_size", "num_records"):
        checks.integer(getattr(config, name), name, 1)
    checks.integer(config.ascent_steps, "ascent_steps", 0)
    if config.latent_dim is not None:
        checks.integer(config.latent_dim, "latent_dim", 1)
    if config.estimator == "leave_one_out" and config.num_samples < 2:
        raise ValueError("num_samples: expected at least 2 for leave_one_out, got 1")
    if not checks.number(config.learning_rate, "learning_rate") > 0:
        raise ValueError(f"learning_rate: expected a number > 0, got {config.learning_rate:g}")
    for value in config.noise_variances or ():
        if not checks.number(value, "noise_variances") > 0:
            raise ValueError(f"noise_variances: expected numbers > 0, got {value:g}")


def filled(config: Config, loaded: "Scaled") -> Config:
    """The configuration with the units that fit the data; ValueError for too many."""
    dim = loaded.x.shape[1]
    latent_dim = min(10, dim - 1) if config.latent_dim is None else config.latent_dim
    if latent_dim >= dim:
        raise ValueError(
            f"latent_dim: expected fewer than the {dim} columns of the data, got {latent_dim}"
        )
    return dataclasses.replace(config, latent_dim=latent_dim)


def noise_variances(config: Config, loaded: "Scaled", found: "Spectrum") -> list[float | None]:
    """None for the learned s2, then the given ones, falling, in scaled units.

    By default halfway (as a ratio) between neighbouring eigenvalues, so that none, a quarter, a
    half, three quarters and all of the units have an eigenvalue above it.
    """
    if config.noise_variances is not None:
        given = sorted({value / loaded.scale**2 for value in config.noise_variances}, reverse=True)
        return [None, *given]
    values, latent_dim = found.values, int(config.latent_dim or 1)
    noises: list[float | None] = [None]
    for count in sorted({0, *(latent_dim * part // 4 for part in (1, 2, 3, 4))}):
        upper = values[count - 1] if count else 1.6 * values[0]
        noises.append(float(np.sqrt(upper * max(values[count], upper / 4))))
    return noises


def check_trainable(config: Config, loaded: "Scaled", found: "Spectrum") -> None:
    """Refuse data within L dimensions: s2 would fall to 0 and the likelihood rise without end."""
    rank, latent_dim = found.vectors.shape[1], int(config.latent_dim or 1)
    if rank <= latent_dim:
        raise ValueError(
            f"latent_dim: expected fewer than the {rank} dimensions that the rows of "
            f"{loaded.name} span, got {latent_dim}: s2 = 0 there, and the likelihood has no bound"
        )


def compare(
    config: Config,
    loaded: "Scaled",
    found: "Spectrum",
    noises: list[float | None],
    run: run_directory.RunDirectory,
    bar: Progress,
) -> Result:
    """Every training beside its closed form, and the landscape around the optimum."""
    import jax

    from experiments import linear_vae_landscape as landscape
    from experiments import linear_vae_training as training

    latent_dim = int(config.latent_dim or 1)
    setup = training.make_setup(config, latent_dim, loaded.x, found)
    runs = []
    for index, given in enumerate(noises):
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        runs.append(train_and_compare(key, setup, given, loaded, config, run, bar))
    best, points = runs[0].best, setup.moments
    result = Result(
        *(config, loaded, found, runs),
        rotations=landscape.rotations(np.random.default_rng([config.seed, 1]), best, points),
        turns=landscape.turns(best, points),
        saddles=[],
        path=run.path,
    )
    noise = result.middle.noise_variance
    saddles = landscape.saddles(found, setup.mean, latent_dim, noise, points)
    bar.done(f"{len(saddles)} stationary points of the landscape")
    return result._replace(saddles=saddles)


def train_and_compare(
    key: Any,
    setup: "Setup",
    given: float | None,
    loaded: "Scaled",
    config: Config,
    run: run_directory.RunDirectory,
    bar: Progress,
) -> Run:
    """Train with one s2, measure, and climb on from there without noise."""
    from experiments import linear_vae_exact as exact
    from experiments import linear_vae_training as training

    latent_dim, found = int(config.latent_dim or 1), setup.spectrum
    best = training.closed_form(setup, latent_dim, given)
    noise = float(np.exp(2 * best.log_noise))
    values = exact.measure_optimum(best, setup.moments, config.guide)
    name = "learned" if given is None else f"{given * loaded.scale**2:.4g}"

    def on_record(record: "Record") -> None:
        run.log(
            noise=name,
            step=record.step,
            noise_variance=record.noise_variance * loaded.scale**2,
            log_evidence=record.log_evidence - loaded.log_volume,
            elbo=record.elbo - loaded.log_volume,
            log_evidence_optimum=values.log_evidence - loaded.log_volume,
            active_variance=record.active_variance,
        )
        bar.note(f"s2 {name}: step {record.step}, ELBO {record.elbo - loaded.log_volume:.3f}")

    folder = run.path / "training" / name
    trained = training.train(key, setup, given, config, folder, on_record)
    ascent, ascended = climb(setup, trained, config)
    short = float(values.log_evidence - trained.measured.elbo)
    bar.done(f"s2 {name}: the ELBO ends {short:.1e} nats below PPCA's log p")
    above = min(found.above(noise), latent_dim)
    axes = [compare_axes(theta, found, above) for theta in (trained.theta, ascent.theta)]
    return Run(noise, above, best, values, trained, axes[0], ascent, ascended, axes[1])


def climb(setup: "Setup", trained: "Trained", config: Config) -> "tuple[Ascent, Measured]":
    """On from a trained theta by an ascent without noise, the units in the order they take there."""
    from experiments import linear_vae_exact as exact
    from experiments import linear_vae_landscape as landscape
    from experiments import linear_vae_training as training

    ascent = landscape.ascend(
        trained.theta,
        setup.moments,
        mean_field=config.guide == "mean_field",
        learn_noise=trained.given is None,
        max_steps=config.ascent_steps,
    )
    order = training.match_units(ascent.theta, setup.spectrum)
    ascent = ascent._replace(theta=training.reordered(ascent.theta, order))
    return ascent, exact.measure_optimum(ascent.theta, setup.moments, config.guide)


def compare_axes(theta: "LinearGaussian", found: "Spectrum", above: int) -> Axes:
    """The columns and the span of W against the leading eigenvectors.

    The units are in the order of the eigenvalues; the span is of the `above` longest directions.
    """
    from scipy.linalg import subspace_angles

    if not above:
        return Axes(np.zeros(0), float("nan"))
    loadings, leading = np.asarray(theta.loadings)[:, :above], found.vectors[:, :above]
    length = np.maximum(np.linalg.norm(loadings, axis=0), np.finfo(float).tiny)
    cosines = np.abs((leading * loadings).sum(0)) / length
    span = np.linalg.svd(np.asarray(theta.loadings), full_matrices=False)[0][:, :above]
    return Axes(cosines, float(np.rad2deg(subspace_angles(span, leading).max())))


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import linear_vae_figures as figures
    from experiments import linear_vae_report as report
    from experiments import linear_vae_results as results

    publish.publish(run, result, results.numbers(result), figures.draw, report.page)
