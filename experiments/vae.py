"""A variational autoencoder of images: likelihood, guide, bound and estimator each by one word.

Trains a deep latent Gaussian model with networks, then measures it on held-out images: the ELBO and
its terms, log p(x) with its errors and whether they can be trusted, the units that are used. The same command
with the same --out goes on with a run that was stopped, and with more --epochs it extends a run that is
finished; the trained model is kept in the run directory, and can be loaded in another process.

Leaves a run directory with config.json, metrics.jsonl, checkpoints, the model, results.json, figures
and report.html.
"""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from experiments import publish, run_directory
from experiments.progress import Progress, progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.vae_data import Pixels
    from experiments.vae_evaluation import Measured
    from experiments.vae_models import Built, Description
    from experiments.vae_pictures import Pictures
    from experiments.vae_setup import Prepared
    from lvm_jax import training
    from lvm_jax.training import Fit

RECORDS = 1  # stages of a training: notes tell how it goes
DEFAULT_EPOCHS = 200


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment; None means the default that fits the others."""

    resume: bool = False
    """No longer needed: the run in --out goes on where it stopped; begins it if there is none."""
    dataset: str = "digits"
    """digits (8x8), mnist, binarized_mnist, fashion_mnist, or the path of a .npy file of images."""
    split: str | None = None
    """Numbers of images for train/validation/test, as 50000/10000/10000."""
    binarization: str | None = None
    """dynamic (bits drawn afresh in every step), fixed (drawn once), threshold (at 1/2) or none."""
    likelihood: str | None = None
    """bernoulli (for all but the digits the default), continuous_bernoulli, gaussian, gaussian_fixed, gaussian_per_dimension, gaussian_output, discretized_logistic (the digits' default), categorical, poisson or negative_binomial."""
    levels: int | None = None
    """Grey levels of a pixel in a .npy file, for the likelihoods that count them."""
    bound: str | None = None
    """elbo, iwae, renyi (--alpha), miwae (--num-groups) or ciwae (--elbo-share)."""
    estimator: str | None = None
    """Gradient estimator, a name of gradients.ESTIMATORS for continuous z; a wrong one lists them."""
    num_samples: int | None = None
    """Draws of z per image and step; None means 1 for pathwise gradients of the elbo, else 10."""
    alpha: float = 0.5
    """Of the Renyi bound."""
    num_groups: int = 2
    """Groups of draws, of miwae and piwae."""
    elbo_share: float = 0.5
    """Share of the ELBO in ciwae."""
    guide: str | None = None
    """mean_field, full_rank, low_rank, iaf or coupling; of several layers bottom_up or ladder."""
    rank: int = 1
    """Columns of the low-rank factor."""
    flow_layers: int = 2
    """Layers of a flow."""
    flow_hidden: tuple[int, ...] = (64,)
    """Widths of the networks in a flow."""
    refine_steps: int = 0
    """Gradient steps on the ELBO of each image after the amortised start (semi-amortised)."""
    refine_rate: float = 0.01
    """Size of these steps."""
    prior: str = "standard_normal"
    """standard_normal, mixture or vamp."""
    components: int = 20
    """Of a mixture or a VampPrior."""
    layers: int | None = None
    """Stochastic layers; None means as many as --latent-dims has, or what --guide needs."""
    latent_dims: tuple[int, ...] | None = None
    """Dimensions of z_1, next to x, and of the stochastic layers above it: 100 50. One number with --layers is the top layer's, and each layer below has twice as many as the one above. None means 2, and 8 2 for two layers."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the networks between x and z_1, from the side of x."""
    hidden_above: tuple[int, ...] = (100, 100)
    """Widths of the networks between stochastic layers."""
    network: str = "mlp"
    """mlp, or conv between x and z_1."""
    channels: tuple[int, ...] = (16, 32)
    """Of the convolutions, from the side of x."""
    activation: str = "relu"
    """tanh, relu, softplus, gelu, silu or identity."""
    epochs: int = DEFAULT_EPOCHS
    """Passes over the training images; a run in --out is extended to them."""
    batch_size: int = 50
    """Images in each step."""
    devices: int = 1
    """GPUs, or other devices of this process, over which the images of each step are spread."""
    learning_rate: float = 1e-3
    """Of Adam."""
    schedule: str = "cosine"
    """cosine (falls to 0), constant, or burda (the paper's stages)."""
    decay_epochs: int | None = None
    """Epochs in which cosine falls to 0, and up to which a run can be extended; None means 200, or --epochs if that is more."""
    warm_up: int = 0
    """Epochs in which the KL's weight rises from 0 to 1; reparameterised gradients."""
    free_bits: float = 0.0
    """Nats of KL, for each dimension of z, that are not pressed down."""
    free_bits_group: Literal["dimension", "all"] = "dimension"
    """Whether --free-bits counts for each dimension of z or for all of them together."""
    ema: float | None = None
    """Decay of a moving average of the parameters, as 0.999; the average is what is used."""
    patience: int | None = None
    """Stop after so many epochs without a better validation bound."""
    clip: float | None = None
    """Largest norm of a gradient."""
    evaluated: int = 1000
    """Images of each part that are measured, at random; all if there are fewer."""
    evidence: Literal["importance", "annealed", "certify"] = "importance"
    """log p of these test images: importance (draws of the guide), annealed (chains that begin there) or certify (whatever each image needs for an interval of --evidence-tolerance)."""
    evidence_samples: int = 5000
    """Draws of importance sampling for each image."""
    evidence_chains: int = 64
    """Of annealed, for each image."""
    evidence_temperatures: int = 64
    """Of annealed."""
    evidence_tolerance: float = 0.1
    """Half-width of certify's intervals, in nats."""
    evidence_budget: float = 1e6
    """Evaluations of log p(x, z) that certify may take for an image."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    description: "Description"
    pixels: "Pixels"
    built: "Built"
    fit: "Fit"
    measured: "Measured"
    pictures: "Pictures"
    path: Path


def main(config: Config) -> Result:
    """Train, keep the model, evaluate on held-out images, and write the report."""
    from experiments import vae_setup as setup

    config = setup.filled(config)
    setup.check(config)
    prepared = setup.prepare(config)  # reads the data, builds the model; writes nothing
    run = setup.open_run(config)
    with progress("vae", total=RECORDS + 2) as bar:
        fit = train(prepared, run, bar)
        result = evaluate(prepared, fit, run.path)
        bar.done(f"test {result.measured.chosen}")
        finish(result, run)
        bar.done("report written")
    for one in result.measured.log_p:
        print(f"{one.method}: {one}")
    if not result.measured.chosen.reliable:
        print(f"{result.measured.chosen.points.verdict()}. {cure(config, run.path)}")
    return result


def cure(config: Config, path: Path) -> str:
    """How to have a number that can be trusted, of this run's model."""
    if config.evidence == "importance":
        return (
            "More draws hardly help against heavy tails. The same options with "
            f"--out {path} --evidence annealed (or certify) measure the model again"
        )
    if config.evidence == "annealed":
        return "--evidence-temperatures and --evidence-chains raise the reach of the chains"
    return "a larger --evidence-budget leaves fewer images open"


def told(now: "training.Progress", epochs: int) -> str:
    """The bound, the speed and the time left, which nobody knows after the first call."""
    said = f"epoch {now.epoch} of {epochs}: bound {now.bound:.2f}"
    if now.validation_bound is not None:
        said += f", validation {now.validation_bound:.2f}"
    if math.isnan(now.seconds_left):
        return said
    left = now.seconds_left
    left_said = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
    return f"{said}, {now.samples_per_second:,.0f} images/s, {left_said} left"


def train(
    prepared: "Prepared",
    run: run_directory.RunDirectory,
    bar: Progress,
    whole: Path | None = None,
) -> "Fit":
    """Climb the bound, or go on where the run in this directory stopped; save the model.

    `whole` is the run directory to name if it is interrupted, where `run` is a part of that.
    """
    import jax

    from experiments import vae_models
    from lvm_jax import training

    config, pixels, built = prepared.config, prepared.pixels, prepared.built
    try:
        fit = training.fit(
            *(jax.random.key(config.seed), built.model, built.amortized, pixels.train),
            estimate=prepared.climb.estimate,
            objective=prepared.climb.objective,
            num_samples=config.num_samples,
            optimizer=prepared.optimizer,
            batch_size=config.batch_size,
            num_epochs=config.epochs,
            transform=pixels.transform,
            tie=prepared.tie,
            ema=config.ema,
            validation=pixels.validation,
            patience=config.patience,
            mesh=prepared.mesh,
            directory=run.path,
            on_progress=lambda now: bar.note(told(now, config.epochs)),
        )
    except KeyboardInterrupt:
        out = whole or run.path
        print(f"\nstopped; to go on: the same options and --out {out}", file=sys.stderr)
        raise
    fit = usable(prepared, fit)
    bar.done(
        f"trained {len(fit.history.step)} epochs: bound {fit.history.bound[-1]:.2f}, validation "
        f"{fit.history.validation_bound[-1]:.2f}, {fit.history.seconds[-1]:.0f} s"
    )
    training.save_model(run.path, vae_models.to_json(prepared.description), fit.theta, fit.phi)
    return fit


def usable(prepared: "Prepared", fit: "Fit") -> "Fit":
    """The trained parameters as `Built.guide` takes them, on one device."""
    import jax

    from experiments import vae_models

    theta, phi = fit.theta, fit.phi
    if prepared.mesh is not None:
        theta, phi = jax.device_put((theta, phi), prepared.mesh.devices[0])
    return fit._replace(theta=theta, phi=vae_models.final_phi(prepared.description, theta, phi))


def evaluate(prepared: "Prepared", fit: "Fit", path: Path) -> Result:
    """Measure the trained model on images that it saw and on those that it did not."""
    import jax

    from experiments import vae_evaluation, vae_pictures

    config, pixels, built = prepared.config, prepared.pixels, prepared.built
    key_measure, key_pictures = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    chosen = vae_evaluation.choose(pixels, config)
    measured = vae_evaluation.measure(key_measure, prepared, fit.theta, fit.phi, chosen)
    pictures = vae_pictures.take(key_pictures, prepared, fit.theta, fit.phi, chosen)
    return Result(config, prepared.description, pixels, built, fit, measured, pictures, path)


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import vae_figures as figures
    from experiments import vae_report as report

    publish.publish(run, result, numbers(result), figures.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    from experiments import vae_evidence
    from experiments.vae_evaluation import count

    fit, measured = result.fit, result.measured
    return {
        "data": {"source": result.pixels.images.source, "binarization": result.pixels.binarization},
        "description": dataclasses.asdict(result.description),
        "num_parameters": {"theta": count(fit.theta), "phi": measured.num_guide_parameters},
        "training": {
            "outcome": fit.outcome.name,
            "steps": fit.step,
            "best_step": fit.best_step,
            "seconds": float(fit.history.seconds[-1]) if len(fit.history.seconds) else 0.0,
            "history": fit.history,
        },
        "parts": {part.name: part for part in measured.parts},
        "evidence": measured.chosen.as_numbers(),
        "evidence_by_method": {one.method: one.as_numbers() for one in measured.log_p},
        "above_importance": vae_evidence.difference(measured.chosen, measured.log_p[0]),
        "active_units": {
            "number": measured.active.number,
            "variance_of_posterior_means": measured.active.variance,
        },
    }
