"""Trainings of the linear VAE, and their differences from probabilistic PCA."""

import shutil
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import subspace_angles

from experiments.linear_vae import exact
from experiments.linear_vae.config import Config
from experiments.linear_vae.problem import Problem, noise_variances, read
from lvm_jax import training
from lvm_jax.diagnostics import THRESHOLD
from lvm_jax.models import LinearGaussian
from lvm_jax.problems import linear_averages, linear_vae
from lvm_jax.problems.linear_averages import Averages
from lvm_jax.report import Check, Run, near
from lvm_jax.training import Parameters


class Record(NamedTuple):
    """The state of a training, in the original units; leaves [T] in a curve."""

    step: Any
    noise_variance: Any
    log_evidence: Any
    elbo: Any
    active_variance: Any  # A_u, [L]


class Point(NamedTuple):
    """A theta with its q, in the original units; units of z in the order of eigenvalues."""

    noise_variance: float  # s2
    log_evidence: float  # nats per point
    elbo: float  # energy + entropy
    kl_posterior: float  # KL(q || p(z | x)) by its closed form
    active_variance: np.ndarray  # A_u, [L]
    active_variance_law: np.ndarray  # of the optimum at this s2
    kl_units: np.ndarray  # KL(q(z_u | x) || p(z_u)), [L]
    kl_units_law: np.ndarray
    num_active: int  # units with A_u > 0.01
    num_directions: int  # eigenvalues of Cov_x(E[z | x]) above 0.01, invariant under rotations
    cosines: np.ndarray  # |u_i^T w_i| / |w_i| of the units whose eigenvalue is above s2
    subspace_angle_degrees: float  # of the span of W and the principal subspace; NaN if empty
    curve: Record | None = None  # of a training
    num_steps: int | None = None  # of an ascent
    largest_slope: float | None = None  # the largest entry of the gradient at its end


class Trial(NamedTuple):
    """One noise variance: the closed form, the training, and the ascent from its end."""

    given_noise_variance: float | None  # None if learned
    num_eigenvalues_above: int  # above the s2 of the optimum, at most L
    optimum: Point
    trained: Point
    ascended: Point


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    problem: Problem
    trials: list[Trial]  # s2 learned first, then given, falling
    loadings: list[dict[str, np.ndarray]]  # W of x by PPCA, training and ascent, for each trial
    rotations: list[exact.Rotation]
    turns: dict[tuple[int, int], list[exact.Rotation]]
    saddles: list[exact.Saddle]  # at the s2 of `middle`, of x

    @property
    def middle(self) -> Trial:
        """The trial with the middle given s2; the first if none is given."""
        return self.trials[self.problem.middle]

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        noise = self.middle.optimum.noise_variance
        unit = "curvatures are of the data over `scale`"
        return {
            "num_points": len(self.problem.x),
            "dim": self.problem.x.shape[1],
            "scale": self.problem.scale,
            "eigenvalues": self.problem.eigenvalues,
            "runs": self.trials,
            "rotations": self.rotations,
            "saddles": {"noise_variance": noise, "unit": unit, "points": self.saddles},
        }


def load(config: Config) -> Problem:
    """The data, centred and divided by one scale; ValueError for unsuitable data or options."""
    dataset, shape = read(config)
    rows = np.asarray(dataset.x, np.float64)
    if len(rows) < 3 or rows.shape[1] < 2:
        raise ValueError(
            f"data: expected at least 3 rows of at least 2 columns, got shape {rows.shape}"
        )
    centred = rows - rows.mean(axis=0)
    scale = float(np.sqrt((centred**2).mean()))
    if not scale > 1e-12 * np.abs(rows).max():
        raise ValueError("data: expected rows that differ, got all of them equal")
    x = (centred / scale).astype(np.float32)
    found = linear_vae.spectrum(np.asarray(x, np.float64))
    latent_dim, rank = config.latent_dim or min(10, x.shape[1] - 1), found.vectors.shape[1]
    if latent_dim >= rank:
        raise ValueError(
            f"latent_dim: expected fewer than the {rank} dimensions that the rows of the data span, "
            f"got {latent_dim}: s2 = 0 there, and the likelihood has no bound"
        )
    noises = noise_variances(config.noise_variances, scale, found.values, latent_dim)
    return Problem(dataset, shape, scale, x, found, latent_dim, noises)


def measure(config: Config, run: Run, problem: Problem) -> Result:
    """Run every training and its closed form, and the landscape around the optimum."""
    number = len(problem.noises)
    run.begin(number + 1)
    found = [
        run.stage(f"training {index + 1} of {number}", one_trial, config, problem, index, run)
        for index in range(number)
    ]
    trials, loadings = map(list, zip(*found, strict=True))
    around = run.stage("landscape", landscape, config, problem)
    return Result(config, problem, trials, loadings, *around)


def landscape(
    config: Config, problem: Problem
) -> tuple[list[exact.Rotation], dict[tuple[int, int], list[exact.Rotation]], list[exact.Saddle]]:
    """Rotations of the maximum of the likelihood, and stationary points at the middle s2."""
    best, points = problem.closed_form(None), problem.moments
    noise = linear_vae.noise_variance(problem.closed_form(problem.noises[problem.middle]))
    rotations = exact.rotations(np.random.default_rng([config.seed, 1]), best, points)
    rotations = [r._replace(log_evidence=r.log_evidence - problem.log_volume) for r in rotations]
    saddles = exact.saddles(problem.spectrum, problem.latent_dim, noise)
    return rotations, exact.turns(best, points), saddles


def one_trial(
    config: Config, problem: Problem, index: int, run: Run
) -> tuple[Trial, dict[str, np.ndarray]]:
    """Train with one s2, measure, and continue with exact gradients."""
    given, points, family = problem.noises[index], problem.moments, config.guide
    best = problem.closed_form(given)
    above = min(problem.spectrum.above(linear_vae.noise_variance(best)), problem.latent_dim)
    theta, found, curve = train(config, problem, index, best, run)
    curve = curve._replace(active_variance=curve.active_variance[:, problem.spectrum.order(theta)])
    mean_field, steps = family == "mean_field", config.ascent_steps
    end, num_steps, slope = linear_averages.ascend(theta, points, mean_field, given is None, steps)
    top, last = (linear_averages.at_optimum(each, points, family) for each in (best, end))
    trial = Trial(
        given and given * problem.scale**2,
        above,
        point(best, top, problem, above),
        point(theta, found, problem, above)._replace(curve=curve),
        point(end, last, problem, above)._replace(num_steps=num_steps, largest_slope=slope),
    )
    states = {"PPCA": best, "trained": theta, "ascent": end}
    return trial, {name: at.loadings[:, problem.spectrum.order(at)] for name, at in states.items()}


def train(
    config: Config, problem: Problem, index: int, best: LinearGaussian, run: Run
) -> tuple[LinearGaussian, Averages, Record]:
    """One training from a random start: theta, its averages in float64, and its curve.

    Every record is a call with more epochs, which resumes from the last checkpoint. A killed
    training starts again, because its curve is not saved.
    """
    folder = run.path / "training" / f"{index + 1}"
    shutil.rmtree(folder, ignore_errors=True)
    key = jax.random.fold_in(jax.random.key(config.seed), index)
    key_theta, key_phi, key_fit = jax.random.split(key, 3)
    given, dim = problem.noises[index], problem.x.shape[1]
    pair = linear_averages.model_and_guide(dim, problem.latent_dim, config.guide, config.covariance)
    theta, phi = pair[0].init(key_theta), pair[1].init(key_phi)
    if given is not None:
        theta = theta._replace(log_noise=jnp.float32(best.log_noise))
    rows = np.asarray(problem.x, np.float64) if config.covariance == "per_x" else problem.moments
    batch_size, records = min(config.batch_size, len(problem.x)), []
    num_steps = config.num_epochs * (len(problem.x) // batch_size)
    separate = training.Separate(*pair)
    options = {
        "estimate": config.estimator,
        "num_samples": config.num_samples,
        "optimizer": make_optimizer(config.learning_rate, num_steps, given is None),
        "batch_size": batch_size,
        "checkpoints": training.Checkpoints(folder, keep=1),
    }
    ends = np.geomspace(1, config.num_epochs, config.num_records).round().astype(int)
    for epochs in np.unique([*ends, config.num_epochs]).tolist():  # dense at the beginning
        fit = training.fit(key_fit, separate, (theta, phi), problem.x, num_epochs=epochs, **options)
        found = linear_averages.quick(*pair, *fit.params, np.asarray(rows, np.float32))
        records.append(record(fit, jax.tree.map(np.asarray, found), problem))
        run.log(noise=given and given * problem.scale**2, **records[-1]._asdict())
        run.note(f"training {index + 1}: epoch {epochs:,}, ELBO {records[-1].elbo:.3f}")
    theta = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), fit.p.theta)
    curve = Record(*map(np.stack, zip(*records, strict=True)))
    return theta, linear_averages.in_double(*pair, theta, fit.q.phi, rows), curve


def make_optimizer(
    learning_rate: float, num_steps: int, learn_noise: bool
) -> optax.GradientTransformation:
    """Adam with a cosine decay; p(z) = N(0, I) is fixed, and so is a given s2."""
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    still = Parameters(LinearGaussian(True, False, False, not learn_noise), False)
    return optax.chain(adam, optax.masked(optax.set_to_zero(), still))


def record(fit: training.Fit, found: Averages, problem: Problem) -> Record:
    """The state of a training, from averages in float32."""
    evidence = np.float64(found.log_evidence) - problem.log_volume
    # In float32 the KL divergence is more precise than the average log-weight.
    elbo = evidence - np.float64(found.kl_posterior)
    noise = linear_vae.noise_variance(fit.p.theta) * problem.scale**2
    return Record(fit.step, noise, evidence, elbo, np.float64(np.diagonal(found.means)))


def point(theta: LinearGaussian, found: Averages, problem: Problem, above: int) -> Point:
    """A theta and its averages as a `Point`; the span of W has its `above` longest directions."""
    noise, leading = linear_vae.noise_variance(theta), problem.spectrum.vectors[:, :above]
    values, units = problem.spectrum.values[: problem.latent_dim], problem.spectrum.order(theta)
    columns, activity = theta.loadings[:, units[:above]], np.diagonal(found.means)[units]
    length = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    span = np.linalg.svd(theta.loadings, full_matrices=False)[0][:, :above]
    angle = np.rad2deg(subspace_angles(span, leading).max()) if above else np.nan
    return Point(
        noise_variance=noise * problem.scale**2,
        log_evidence=float(found.log_evidence) - problem.log_volume,
        elbo=float(found.elbo) - problem.log_volume,
        kl_posterior=float(found.kl_posterior),
        active_variance=activity,
        active_variance_law=linear_vae.active_variance(values, noise),
        kl_units=found.kl_units[units],
        kl_units_law=linear_vae.unit_kl(values, noise),
        num_active=int((activity > THRESHOLD).sum()),
        num_directions=int((np.linalg.eigvalsh(found.means) > THRESHOLD).sum()),
        cosines=np.abs((leading * columns).sum(0)) / length,
        subspace_angle_degrees=float(angle),
    )


def checks(result: Result) -> list[Check]:
    """Closed forms against averages and derivatives; for the default options, recorded numbers."""
    problem, best = result.problem, [trial.optimum for trial in result.trials]
    noise = min(each.noise_variance for each in best)
    # float64 times the condition number of M = I + W^T W / s2
    rounding = 1e-13 * problem.x.shape[1] * (1 + problem.eigenvalues[0] / noise)

    def zero(name: str, values: Any, tolerance: float = rounding) -> Check:
        return near(name, np.max(np.abs(values)), 0.0, tolerance, "closed form")

    gaps = [each.log_evidence - each.elbo for each in best]
    activity = [each.active_variance - each.active_variance_law for each in best]
    kl = [each.kl_units - each.kl_units_law for each in best]
    rotated = [each.log_evidence_less_elbo - each.closed_form for each in result.rotations]
    curvatures = [each.curvature / each.curvature_law - 1 for each in result.saddles]
    curvatures += [each.elbo_curvature / each.elbo_curvature_law - 1 for each in result.saddles]
    discarded = problem.eigenvalues[problem.latent_dim :].mean()
    deficits = [lacking(t, state) for t in result.trials for state in (t.trained, t.ascended)]
    found = [
        zero("log p - ELBO at the optimum", gaps),
        zero("activity of a unit at the optimum, less the law", activity),
        zero("KL of a unit at the optimum, less the law", kl),
        zero("log p - ELBO of a rotated optimum, less the law", rotated),
        zero("curvature at a stationary point over the law, less 1", curvatures, 1e-6),
        near("learned s2", best[0].noise_variance, discarded, 1e-6 * discarded, "closed form"),
        Check("PPCA's log p - ELBO, the least", min(deficits), -rounding, np.inf, "not below 0"),
    ]
    return found + (recorded(result, deficits) if result.config == Config() else [])


def lacking(trial: Trial, state: Point) -> float:
    """PPCA's log p(x) minus an ELBO."""
    return trial.optimum.log_evidence - state.elbo


def recorded(result: Result, deficits: list[float]) -> list[Check]:
    """Recorded numbers of the default options; other machines differ by rounding."""
    trials = result.trials
    wrong = sum(trial.trained.num_active != trial.num_eigenvalues_above for trial in trials)
    return [
        near("trainings whose active units are not the eigenvalues above s2", wrong, 0, 0),
        near("PPCA's log p, s2 learned", trials[0].optimum.log_evidence, 17.6438, 1e-4),
        near("PPCA's log p - trained ELBO, s2 learned", deficits[0], 0.011, 0.006),
        near("the same, largest of the given s2", max(deficits[2::2]), 0.0015, 0.001),
        near("PPCA's log p - ELBO after the ascent, largest", max(deficits[1::2]), 0, 1e-9),
    ]
