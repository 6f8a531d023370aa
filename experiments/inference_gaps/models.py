"""The VAEs of the experiment: their options, their folders, and the families of local q."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.inference_gaps.config import GUIDES, Config
from experiments.vae.config import Config as VaeConfig
from lvm_jax import guides, training
from lvm_jax.guides import Family
from lvm_jax.models import Joint
from lvm_jax.typing import ConditionalDensity
from lvm_jax.vae import Architecture, Pixels, family

MEAN_FIELD, FULL_COVARIANCE, FLOW = FAMILIES = ("mean-field", "full covariance", "flow")
OWN = {"mean_field": MEAN_FIELD, "full_rank": FULL_COVARIANCE, "iaf": FLOW, "coupling": FLOW}
# The options of `vae` that determine the images, and the options of both experiments.
DATA = ("dataset", "split", "binarization", "likelihood", "levels", "seed")
SAME = ("epochs", "decay_epochs", "batch_size", "learning_rate", "hidden", "activation",
        "flow_layers", "flow_hidden", "likelihood", "dataset", "split", "seed")  # fmt: skip


class Trained(NamedTuple):
    """A VAE, and its folder."""

    name: str
    architecture: Architecture
    p: Joint
    q: ConditionalDensity
    folder: Path

    @property
    def own(self) -> str:
        """The family of the guide's q."""
        return OWN[self.architecture.guide]


def vae_configs(config: Config) -> list[VaeConfig]:
    """The options of `vae` for each guide, with one decoder, seed and training."""
    binarization = config.binarization
    if binarization is None and (config.dataset, config.likelihood) == ("digits", "bernoulli"):
        binarization = "threshold"
    values: dict[str, Any] = {name: getattr(config, name) for name in SAME}
    values |= {"latent_dims": (config.latent_dim,), "evaluated": config.num_points}
    made = [VaeConfig(guide=g, binarization=binarization, **values) for g in config.guides]
    for one in made:
        one.check()
    return made


def load_models(folders: tuple[Path, ...]) -> list[Trained]:
    """The models of run folders, named by guide, and by folder too if guides repeat."""
    loaded = []
    for folder in map(Path, folders):
        saved = training.load(folder)
        a = Architecture(**saved.config)
        if a.guide not in GUIDES:
            raise ValueError(
                f"models: expected guides of {', '.join(GUIDES)}, got {a.guide!r} in {folder}"
            )
        loaded.append(Trained(a.guide, a, saved.p, saved.q, folder))
    words = [one.name for one in loaded]
    for place, one in enumerate(loaded):
        if words.count(one.name) > 1:
            loaded[place] = one._replace(name=f"{one.name} in {one.folder.name}")
    names = [one.name for one in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"models: expected folders of different names, got {names}")
    return loaded


def common_data(folders: list[Path]) -> dict[str, Any]:
    """The options that determine the images of these runs; ValueError if they differ."""
    found = []
    for folder in folders:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not set(DATA) <= values.keys():
            raise ValueError(f"models: expected folders of runs of `vae`, got {folder}")
        found.append({name: values[name] for name in DATA})
        changed = [name for name in DATA if found[0][name] != found[-1][name]]
        if changed:
            both = f"{changed[0]}: {found[0][changed[0]]} and {found[-1][changed[0]]}"
            raise ValueError(f"models: expected one set of images for all, got {both}")
    return found[0]


def check_architecture(a: Architecture, pixels: Pixels, config: Config) -> None:
    """Refuse a model of other images, and unsuitable local families or starts."""
    families(a, config)
    if (a.shape, a.encoder_scale) != (pixels.images.shape, pixels.high):
        raise ValueError(
            f"models: expected a model of {pixels.images.shape} images with pixels up to "
            f"{pixels.high:g}, got {a.shape} and {a.encoder_scale}"
        )
    if a.guide == "iaf" and config.start == "guide":
        raise ValueError(
            "start: expected prior with an iaf guide, whose density has no gradient for the moves "
            "of the chains, got 'guide'"
        )


def families(a: Architecture, config: Config) -> dict[str, Family]:
    """The families of local q; the flow is that of a flow guide, so that its q is a start."""
    (dim,) = a.latent_dims
    flow = guides.flow_family(config.flow, dim, config.flow_layers, config.flow_hidden)
    return {
        MEAN_FIELD: guides.mean_field(dim),
        FULL_COVARIANCE: guides.full_rank(dim),
        FLOW: family(a) if OWN[a.guide] == FLOW else flow,
    }
