"""The VAEs of the `inference_gaps` experiment: trained as `vae` trains them, or loaded."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import run_directory, vae, vae_data, vae_evaluation, vae_models, vae_setup
from experiments.inference_gaps import GUIDES
from experiments.progress import Progress
from experiments.vae_models import Description
from experiments.vae_setup import Prepared
from lvm_jax import guides, training
from lvm_jax.guides import Family, Guide
from lvm_jax.models import Model
from lvm_jax.typing import Params

if TYPE_CHECKING:
    from experiments.inference_gaps import Config

MEAN_FIELD, FULL_COVARIANCE, FLOW = FAMILIES = ("mean-field", "full covariance", "flow")
OWN = {"mean_field": MEAN_FIELD, "full_rank": FULL_COVARIANCE, "iaf": FLOW, "coupling": FLOW}
# What of a run of `vae` decides which images there are.
DATA = ("dataset", "split", "binarization", "likelihood", "levels", "seed")
SAME = ("epochs", "decay_epochs", "batch_size", "learning_rate", "hidden", "activation",
        "flow_layers", "flow_hidden", "likelihood", "dataset", "split", "seed")  # fmt: skip


class Trained(NamedTuple):
    """A VAE, and where it lies on disk."""

    name: str
    description: Description
    model: Model
    guide: Guide
    theta: Params
    phi: Params
    folder: Path

    @property
    def own(self) -> str:
        """The family of the guide's q."""
        return OWN[self.description.guide]


class Inputs(NamedTuple):
    """What the measurements need, checked; models are `loaded`, or `prepared` for training."""

    names: list[str]
    loaded: list[Trained]
    prepared: list[Prepared]
    x: np.ndarray  # [N, D], the images to measure
    is_train: np.ndarray  # [N]
    source: str


def prepare(config: "Config") -> Inputs:
    """Read the images, and the models or what it takes to train them."""
    loaded = load(config.models)
    prepared = [] if loaded else [vae_setup.prepare(one) for one in vae_configs(config)]
    names = [one.name for one in loaded] or list(config.guides)
    if config.account is not None and config.account not in names:
        raise ValueError(f"account: expected one of {', '.join(names)}, got {config.account!r}")
    if loaded:
        data = common_data([one.folder for one in loaded])
        pixels = vae_data.load(vae.Config(**data))
        for one in loaded:
            check_fit(one, pixels)
    else:
        pixels, data = prepared[0].pixels, {"seed": config.seed}
    for d in [one.description for one in (*loaded, *prepared)]:
        families(d, config)  # refuses sizes that it cannot have
        if d.guide == "iaf" and config.start == "guide":
            raise ValueError(
                "start: expected prior with an iaf guide, whose density is found by a loop that the "
                "moves of the chains cannot differentiate, got 'guide'"
            )
    chosen = vae_evaluation.choose(pixels, vae.Config(evaluated=config.num_points, **data))
    parts = [chosen.rows["train"], chosen.rows["test"]]
    is_train = np.repeat([True, False], [len(part) for part in parts])
    return Inputs(names, loaded, prepared, np.concatenate(parts), is_train, pixels.images.source)


def vae_configs(config: "Config") -> list[vae.Config]:
    """The options of `vae` for each guide: one decoder, one seed, one way of training."""
    binarization = config.binarization
    if binarization is None and (config.dataset, config.likelihood) == ("digits", "bernoulli"):
        binarization = "threshold"
    made = []
    for guide in config.guides:
        one = vae.Config(
            guide=guide, latent_dims=(config.latent_dim,), binarization=binarization,
            evaluated=config.num_points, **{name: getattr(config, name) for name in SAME},
        )  # fmt: skip
        one = vae_setup.filled(one)
        vae_setup.check(one)
        made.append(one)
    return made


def train(inputs: Inputs, run: run_directory.RunDirectory, bar: Progress) -> list[Trained]:
    """The loaded models, or those that are trained now, each in a run directory of its own."""
    trained = list(inputs.loaded)
    for name, prepared in zip(inputs.names, inputs.prepared, strict=False):
        config = dataclasses.replace(prepared.config, out=run.path / "models" / name, resume=True)
        own = vae_setup.open_run(config)
        fit = vae.train(prepared, own, named(bar, name), run.path)
        model, _, guide = prepared.built
        trained.append(
            Trained(name, prepared.description, model, guide, fit.theta, fit.phi, own.path)
        )
    return share_models(trained)


def named(bar: Progress, name: str) -> Progress:
    """The same bar, saying which model it is about."""
    return Progress(lambda step, text: (bar.done if step else bar.note)(f"{name}: {text}"))


def share_models(trained: list[Trained]) -> list[Trained]:
    """Equal models as one object, theta apart: chains from the prior then compile once for all."""
    models: dict[Description, Model] = {}
    shared = []
    for one in trained:
        prior = one.description.prior  # a VampPrior is made of the guide
        key = (
            one.description
            if prior == "vamp"
            else dataclasses.replace(
                one.description, guide="", flow_layers=0, flow_hidden=(), rank=0
            )
        )
        shared.append(one._replace(model=models.setdefault(key, one.model)))
    return shared


def load(folders: tuple[Path, ...]) -> list[Trained]:
    """The models of run directories, named by their guides, and by their folders if these repeat."""
    found = [(folder, training.load_model(folder, vae_models.build)) for folder in folders]
    words = [saved.config["guide"] for _, saved in found]
    loaded = []
    for (folder, saved), word in zip(found, words, strict=True):
        if word not in GUIDES:
            raise ValueError(
                f"models: expected guides of {', '.join(GUIDES)}, got {word!r} in {folder}"
            )
        name = word if words.count(word) == 1 else f"{word} in {folder.name}"
        described = vae_models.describe(saved.config)
        loaded.append(Trained(name, described, *saved[:4], folder))
    names = [one.name for one in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"models: expected folders of different names, got {names}")
    return loaded


def common_data(folders: list[Path]) -> dict[str, Any]:
    """The options that decide which images the models of these runs were trained on."""
    first: dict[str, Any] = {}
    for folder in folders:
        values = vae_setup.read_config(folder, "models")
        if not set(DATA) <= values.keys():
            raise ValueError(f"models: expected run directories of `vae`, got {folder}")
        data = {name: values[name] for name in DATA}
        first = first or data
        changed = [f"{n}: {first[n]} and {data[n]}" for n in DATA if first[n] != data[n]]
        if changed:
            raise ValueError(
                f"models: expected one set of images for all, got {'; '.join(changed)}"
            )
    return first


def check_fit(one: Trained, pixels: vae_data.Pixels) -> None:
    """Refuse a model of other images than its run says, as when a file of images was replaced."""
    d, images = one.description, pixels.images
    if (d.shape, d.high) != (images.shape, pixels.high):
        raise ValueError(
            f"models: expected a model of {images.shape} images with pixels up to "
            f"{pixels.high:g}, as {one.folder} says, got {d.shape} and {d.high:g}"
        )


def families(d: Description, config: "Config") -> dict[str, Family]:
    """The families of local q; a flow guide's own flow, so that its q is among the starts."""
    (dim,) = d.latent_dims
    if OWN[d.guide] == FLOW:  # as `vae_models.make_guide` makes it, with a context of this image
        flow = guides.flow_family(d.guide, dim, d.flow_layers, d.flow_hidden, dim)
    else:
        flow = guides.flow_family(config.flow, dim, config.flow_layers, config.flow_hidden)
    return {
        MEAN_FIELD: guides.mean_field(dim),
        FULL_COVARIANCE: guides.full_rank(dim),
        FLOW: flow,
    }
