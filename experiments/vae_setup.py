"""From the options of the `vae` experiment to what is trained; whatever is wrong is refused here."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import run_directory, vae_data, vae_models, vae_objectives
from experiments.vae import DEFAULT_EPOCHS
from experiments.vae_data import Pixels
from experiments.vae_models import HIERARCHICAL, Built, Description
from experiments.vae_objectives import Climb
from lvm_jax import checks, parallel, priors
from lvm_jax.gradients import ESTIMATORS
from lvm_jax.networks import ACTIVATIONS
from lvm_jax.training.step import Tie

if TYPE_CHECKING:
    from experiments import inference_gaps
    from experiments.vae import Config

# Options in which a command may differ from the run that it goes on with: latent_dims tell of
# layers, the number of devices changes nothing but the rounding, and the last ones only measure.
FREE = (
    "out", "overwrite", "resume", "layers", "devices", "evaluated", "evidence", "evidence_samples",
    "evidence_chains", "evidence_temperatures", "evidence_tolerance", "evidence_budget",
)  # fmt: skip
GROWING = ("epochs",)  # a run can be extended, as `training.fit` extends it
ONE_LAYER, SEVERAL_LAYERS = (2,), (8, 2)  # latent_dims, where none are named


class Prepared(NamedTuple):
    """Everything that training needs, checked."""

    config: "Config"
    pixels: Pixels
    description: Description
    built: Built
    climb: Climb
    optimizer: optax.GradientTransformation
    tie: Tie | None
    mesh: Mesh | None  # of several devices


def filled(config: "Config") -> "Config":
    """The configuration with the defaults that depend on other options."""
    guide, dims = config.guide, layer_dims(config)
    if guide is None:
        guide = "bottom_up" if len(dims) > 1 else "mean_field"
    likelihood = config.likelihood
    if likelihood is None:
        likelihood = "discretized_logistic" if config.dataset == "digits" else "bernoulli"
    config = dataclasses.replace(
        config, guide=guide, latent_dims=dims, layers=len(dims), likelihood=likelihood,
        decay_epochs=decay_epochs(config),
    )  # fmt: skip
    bound = config.bound or default_bound(config.estimator)
    config = dataclasses.replace(config, bound=bound)
    estimator = config.estimator or default_estimator(config)
    number = config.num_samples
    if number is None:
        score = estimator in ("score_function", "leave_one_out")
        number = 1 if bound == "elbo" and not score else 10
    return dataclasses.replace(config, estimator=estimator, num_samples=number)


def layer_dims(config: "Config") -> tuple[int, ...]:
    """Dimensions of z_1, ..., z_L; a layer that is not named has twice as many as the one above.

    ValueError if --layers and --latent-dims contradict each other.
    """
    layers, dims = config.layers, config.latent_dims
    if layers is not None:
        checks.integer(layers, "layers", 1)
    if dims is None:
        several = config.guide in HIERARCHICAL if layers is None else layers > 1
        dims = SEVERAL_LAYERS if several else ONE_LAYER
    elif not dims:
        raise ValueError("latent_dims: expected at least one number")
    elif layers is not None and len(dims) not in (1, layers):
        raise ValueError(
            f"layers: expected {len(dims)}, for latent_dims has {' '.join(map(str, dims))}, or "
            f"latent_dims of one number, that of the top layer; got {layers}"
        )
    while len(dims) < (layers or 1):
        dims = (2 * dims[0], *dims)
    return dims


def decay_epochs(config: "Config | inference_gaps.Config") -> int | None:
    """Where a cosine schedule ends, which is no function of `epochs` up to the default of both.

    So a short run has the rates of a longer one, and can be extended to it.
    """
    if config.decay_epochs is None and getattr(config, "schedule", "cosine") == "cosine":
        return max(config.epochs, DEFAULT_EPOCHS)
    return config.decay_epochs


def default_bound(estimator: str | None) -> str:
    """The bound that an estimator is known for."""
    row = ESTIMATORS.get(estimator or "")
    return "elbo" if row is None or row.bound not in vae_objectives.BOUNDS else row.bound


def default_estimator(config: "Config") -> str:
    """Little variance at little cost: STL for the ELBO, DReG for the others.

    Both ask for log q at frozen parameters, which an inverse autoregressive flow has to be inverted
    for, and local steps to be made twice; and a changed objective is not what they estimate.
    """
    if config.guide == "iaf" or config.refine_steps or config.warm_up or config.free_bits:
        return "reparameterized"
    return "sticking_the_landing" if config.bound == "elbo" else "doubly_reparameterized"


def check(config: "Config") -> None:
    """Refuse names and numbers before any data are read."""
    vae_objectives.check(config)
    checks.choice(config.schedule, "schedule", vae_objectives.SCHEDULES)
    checks.choice(config.activation, "activation", tuple(ACTIVATIONS))
    checks.integer(config.seed, "seed", 0)
    checks.integer(config.epochs, "epochs", 1)
    for name in ("batch_size", "evaluated", "evidence_samples", "evidence_chains"):
        checks.integer(getattr(config, name), name, 2)
    checks.integer(config.evidence_temperatures, "evidence_temperatures", 1)
    check_decay(config)
    if config.patience is not None:
        checks.integer(config.patience, "patience", 1)
    if (config.evidence, config.guide) == ("certify", "iaf"):
        raise ValueError(
            "evidence: expected importance or annealed with --guide iaf, whose density is found by "
            "a loop that the moves of certify's chains cannot differentiate, got 'certify'"
        )
    for name in ("learning_rate", "clip", "refine_rate", "evidence_tolerance", "evidence_budget"):
        value = getattr(config, name)
        if value is not None and not checks.number(value, name) > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value:g}")
    if config.ema is not None and not 0 < checks.number(config.ema, "ema") < 1:
        raise ValueError(f"ema: expected a decay between 0 and 1, got {config.ema:g}")
    if config.batch_size % checks.integer(config.devices, "devices", 1):
        raise ValueError(
            f"batch_size: expected a multiple of devices = {config.devices}, got "
            f"{config.batch_size}; change either"
        )
    if config.resume and config.out is None:
        raise ValueError("resume: expected --out with it, the directory of the run")
    if config.resume and config.overwrite:
        raise ValueError("resume, overwrite: expected one of the two, got both")


def check_decay(config: "Config") -> None:
    """Refuse a cosine that ends before the run, and its length without it."""
    if config.decay_epochs is None:
        return
    checks.integer(config.decay_epochs, "decay_epochs", 1)
    if config.schedule != "cosine":
        raise ValueError(
            f"decay_epochs: expected --schedule cosine with it, got {config.schedule!r}"
        )
    if config.decay_epochs < config.epochs:
        raise ValueError(
            f"decay_epochs: expected at least epochs = {config.epochs}, as the rate is 0 after "
            f"them, got {config.decay_epochs}"
        )


def prepare(config: "Config") -> Prepared:
    """Read the data and build the model; ValueError for what does not go together."""
    mesh = make_mesh(config.devices)
    pixels = vae_data.load(config)
    if config.batch_size > len(pixels.train):
        raise ValueError(
            f"batch_size: expected at most {len(pixels.train)}, the images to train on, got "
            f"{config.batch_size}"
        )
    description = describe(config, pixels)
    built = vae_models.make(description, pixels.train)
    vae_data.check_support(pixels, vae_models.make_likelihood(description))
    per_epoch = len(pixels.train) // config.batch_size
    climb = vae_objectives.make(config, built.guide, per_epoch)
    tie = priors.tie if config.prior == "vamp" else None
    vae_objectives.rehearse(built.model, built.amortized, climb, tie, pixels.seen, config)
    optimizer = vae_objectives.optimizer(config, per_epoch)
    return Prepared(config, pixels, description, built, climb, optimizer, tie, mesh)


def make_mesh(devices: int) -> Mesh | None:
    """The first so many devices of this process; None for one. ValueError if it has fewer."""
    local = jax.local_devices()
    if devices > len(local):
        raise ValueError(
            f"devices: expected at most {len(local)}, the devices ({local[0].platform}) of this "
            f"process, got {devices}"
        )
    return parallel.data_mesh(local[:devices]) if devices > 1 else None


def describe(config: "Config", pixels: Pixels) -> Description:
    """The model and guide that the options ask for."""
    above = len(config.latent_dims) - 1
    same = {field.name for field in dataclasses.fields(Description)} & {
        field.name for field in dataclasses.fields(config)
    } - {"hidden", "levels"}
    return Description(
        shape=pixels.images.shape,
        high=pixels.high,
        levels=pixels.levels,
        hidden=(config.hidden, *[config.hidden_above] * above),
        **{name: getattr(config, name) for name in same},
    )


def open_run(
    config: "Config | inference_gaps.Config", name: str = "vae"
) -> run_directory.RunDirectory:
    """A new run directory with its config.json, or the one of the same command, which goes on.

    That one may have had fewer epochs, and options that only measure (`FREE`) may differ.
    Raises ValueError, naming what differs, if others do; FileExistsError for a folder that is not a
    run.
    """
    path = config.out
    if path is None or config.overwrite or not (path / "config.json").exists():
        run = run_directory.create(name, path, config.overwrite)
        run.write_json("config.json", config)
        return run
    old, new = read_config(path, "out"), run_directory.plain(config)
    cures = "choose another --out, or replace it with --overwrite"
    lacking = [option for option in new if option not in old and option not in FREE]
    if lacking:
        raise ValueError(
            f"out: {path} is a run of another experiment than {name}, or of another version (its "
            f"config.json has no {', '.join(lacking[:4])}); {cures}"
        )
    changed = differences(old, new)
    if changed:
        raise ValueError(
            f"out: {path} is a run with other options ({'; '.join(changed)}); give the same ones "
            f"to go on with it, {cures}{extension_cure(old, new)}"
        )
    run = run_directory.RunDirectory(path)
    run.write_json("config.json", config)
    return run


def extension_cure(old: dict[str, Any], new: dict[str, Any]) -> str:
    """How to have a run that can be extended, where a cosine that ended is what differs."""
    if old.get("decay_epochs") == new["decay_epochs"]:
        return ""
    return (
        "; the rates of a cosine depend on where it ends: a run that may be extended beyond "
        f"{max(old['epochs'], DEFAULT_EPOCHS)} epochs is begun with a larger --decay-epochs, or "
        "with --schedule constant or burda"
    )


def read_config(path: Path, option: str) -> dict[str, Any]:
    """The options of an earlier run; ValueError, naming the option that asked for them, if none."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: {path / 'config.json'} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{option}: {path / 'config.json'} does not hold the options of a run")
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The options that differ, each with both values."""
    same = [name for name in new if name in FREE or old.get(name) == new[name]]
    same += [name for name in GROWING if old.get(name, np.inf) <= new[name]]
    names = [name for name in new if name not in same]
    return [f"{name}: {old.get(name)} then, {new[name]} now" for name in names]
