"""Why the ELBO of a VAE is loose: what q's family costs, and what amortising q costs.

VAEs with one decoder and several guides (mean-field, full-covariance, flow) are trained, or loaded.
For images that they saw and images that they did not, log p - ELBO is split in two for each image,
after Cremer, Li and Duvenaud (2018): the approximation gap, left by the best q of a family for that
image alone, and the amortisation gap, that one network serves all images. log p comes from annealed
chains, which bidirectional Monte Carlo checks on data of each model's own.

Leaves a run directory with config.json, metrics.jsonl, the models, results.json, figures and
report.html; with --account the whole account of one model, too.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from experiments import publish, run_directory
from experiments.progress import Progress, progress
from experiments.vae import RECORDS

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    import numpy as np

    from experiments.inference_gaps_measure import Found
    from experiments.inference_gaps_models import Inputs, Trained
    from lvm_jax.decomposition import Account

GUIDES = ("mean_field", "full_rank", "iaf", "coupling")  # one layer of z, and a family of its own
MEASURES = 4  # stages of one model


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment; None means the default that fits the others."""

    resume: bool = False
    """No longer needed: the run in --out goes on where it stopped, then makes all measurements."""
    models: tuple[Path, ...] = ()
    """Run directories of `vae`, or of models of this experiment, to load instead of training; the
    images are then those that they were trained on."""
    guides: tuple[str, ...] = ("mean_field", "full_rank", "coupling")
    """A VAE is trained with each: mean_field, full_rank, iaf or coupling (the last two are flows)."""
    dataset: str = "digits"
    """digits (8x8), mnist, binarized_mnist, fashion_mnist, or the path of a .npy file of images."""
    split: str | None = None
    """Numbers of images for train/validation/test, as 50000/10000/10000."""
    binarization: str | None = None
    """dynamic, fixed, threshold or none, as in `vae`; None is threshold for the digits."""
    likelihood: str = "bernoulli"
    """Of the pixels, as in `vae`."""
    latent_dim: int = 8
    """Dimensions of z."""
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the encoder, and backwards of the decoder."""
    activation: str = "tanh"
    """tanh, relu, softplus, gelu, silu or identity."""
    epochs: int = 200
    """Passes over the training images; the parameters with the best validation bound are kept. A run
    in --out is extended to them."""
    decay_epochs: int | None = None
    """Epochs in which the learning rate falls to 0, as in `vae`."""
    batch_size: int = 50
    """Images in each step."""
    learning_rate: float = 2e-3
    """Of Adam, falling to 0."""
    flow: str = "coupling"
    """Local flow of the Gaussian guides: coupling or iaf. A flow guide has its own kind."""
    flow_layers: int = 4
    """Layers of a flow, the guide's and the local one."""
    flow_hidden: tuple[int, ...] = (32,)
    """Widths of the networks in a flow."""
    num_points: int = 40
    """Images that are measured, of the training and of the test images each."""
    num_samples: int = 1000
    """Draws for the ELBO of every q."""
    num_steps: int = 1000
    """Of the local ascent."""
    num_draws: int = 20
    """Of z in each of these steps."""
    num_starts: int = 2
    """Of the local ascent: the guide's q, the family's own, and then draws of the prior."""
    num_temperatures: int = 500
    """Of the annealed chains."""
    num_chains: int = 50
    """For every image."""
    num_leapfrogs: int = 5
    """Steps of each HMC move."""
    start: Literal["prior", "guide"] = "prior"
    """Where the annealed chains start; an iaf guide cannot be it."""
    num_simulated: int = 40
    """Images that each model simulates, on which the chains are checked from both sides."""
    importance_samples: int = 5000
    """Draws of the guide for the estimate of log p beside the annealed one."""
    reference: Literal["annealed", "larger"] = "annealed"
    """log p of the gaps: the annealed chains', or the larger of both estimates, image by image."""
    account: str | None = None
    """Name of a model whose whole account is written, too: aggregate posterior, rate and distortion,
    calibration. The names are the guides'."""


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    trained: "list[Trained]"
    found: "dict[str, Found]"  # by the name of the model
    is_train: "np.ndarray"  # [N] booleans: which of the images the models were trained on
    source: str  # of the images
    account: "Account | None"
    path: Path


def main(config: Config) -> Result:
    """Train or load the models, split their gaps, and write the report."""
    from experiments import inference_gaps_models as models
    from experiments import vae_setup

    config = dataclasses.replace(config, decay_epochs=vae_setup.decay_epochs(config))
    check(config)
    inputs = models.prepare(config)  # reads, builds and refuses; writes nothing
    run = vae_setup.open_run(config, "inference_gaps")
    stages = len(inputs.names) * MEASURES + len(inputs.prepared) * RECORDS + 1
    with progress("inference_gaps", total=stages + (config.account is not None)) as bar:
        trained = models.train(inputs, run, bar)
        result = measure(config, inputs, trained, run, bar)
        finish(result, run)
        bar.done("report written")
    return result


def check(config: Config) -> None:
    """Refuse names and numbers before any data are read."""
    from lvm_jax import checks

    ones = ("num_steps", "num_draws", "num_starts", "num_temperatures", "num_leapfrogs",
            "flow_layers")  # fmt: skip
    twos = ("num_points", "num_samples", "num_chains", "num_simulated", "importance_samples",
            "latent_dim")  # fmt: skip
    for minimum, names in ((1, ones), (2, twos)):
        for name in names:
            checks.integer(getattr(config, name), name, minimum)
    checks.choice(config.start, "start", ("prior", "guide"))
    checks.choice(config.reference, "reference", ("annealed", "larger"))
    checks.choice(config.flow, "flow", ("coupling", "iaf"))
    if config.resume and config.out is None:
        raise ValueError("resume: expected --out with it, the directory of the run")
    if config.models:
        return
    for guide in config.guides:
        checks.choice(guide, "guides", GUIDES)
    if not config.guides or len(set(config.guides)) < len(config.guides):
        raise ValueError(f"guides: expected different names, at least one, got {config.guides}")


def measure(
    config: Config,
    inputs: "Inputs",
    trained: "list[Trained]",
    run: run_directory.RunDirectory,
    bar: Progress,
) -> Result:
    """Everything about every model, and the account of one."""
    from experiments import inference_gaps_measure as measures

    found = {}
    for one in trained:
        found[one.name] = measures.measure(one, inputs.x, config, bar)
        run.log(model=one.name, **measures.summary(found[one.name], inputs.is_train))
    account = None
    if config.account is not None:
        (chosen,) = (one for one in trained if one.name == config.account)
        account = measures.whole_account(chosen, found[chosen.name], inputs, config)
        bar.done(f"{chosen.name}: the whole account")
    return Result(config, trained, found, inputs.is_train, inputs.source, account, run.path)


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures, the report and the account."""
    from experiments import inference_gaps_figures as figures
    from experiments import inference_gaps_report as report
    from lvm_jax import decomposition

    publish.publish(run, result, numbers(result), figures.draw, report.page)
    if result.account is not None:
        title = f"The account of the VAE with the guide {result.config.account}"
        lead = f"Over the {(~result.is_train).sum()} test images of the run."
        run.write("account.html", decomposition.report(result.account, title, lead))


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    from experiments import inference_gaps_measure as measures

    return {
        "data": result.source,
        "models": {
            one.name: {
                "description": dataclasses.asdict(one.description),
                "folder": one.folder,
                **measures.summary(result.found[one.name], result.is_train),
            }
            for one in result.trained
        },
        "account": None if result.account is None else result.account.as_rows(),
    }
