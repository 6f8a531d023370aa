"""A trained model on disk: theta, phi, and a description from which the caller builds it again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model
from lvm_jax.training import checkpoint
from lvm_jax.training.book import check_leaves, from_arrays, to_arrays
from lvm_jax.training.checkpoint import CheckpointError
from lvm_jax.typing import Params

FOLDER = "model"

Build = Callable[[dict[str, Any]], tuple[Model, Guide]]  # the description -> model and guide


class Saved(NamedTuple):
    """What `load_model` finds."""

    model: Model
    guide: Guide
    theta: Params
    phi: Params
    config: dict[str, Any]


def save_model(
    directory: str | Path, config: Mapping[str, Any], theta: Params, phi: Params
) -> Path:
    """Write theta, phi and their description to directory/model, whole or not at all.

    `config` is plain JSON: all that `build` of `load_model` needs. theta and phi have the structure
    that the model's and the guide's `init` give. Functions are not saved. An earlier model there is
    replaced. Returns the folder.

    Raises TypeError if the description is not JSON, CheckpointError if the disk refuses.
    """
    try:
        description = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: expected JSON values, got {config!r} ({error})") from error
    path = Path(directory) / FOLDER
    checkpoint.write(
        path, to_arrays("theta", theta) | to_arrays("phi", phi), {"config": description}
    )
    return path


def load_model(directory: str | Path, build: Build) -> Saved:
    """The model in directory/model, which needs neither the data nor the run that trained it.

    `build(config)` gives the model and the guide; what they initialise to is compared, leaf for
    leaf, with what was saved. Loading executes no code from the folder, and allocates no array of
    another size than `build` gives: a folder from another person is safe to load if `build` is safe
    for any JSON.

    Raises CheckpointError if there is no model, a file of it is damaged, missing or not in the
    manifest, ValueError if `build` makes another model than was saved.
    """
    path = checkpoint.kept(Path(directory) / FOLDER)
    problem = checkpoint.verify(path)
    if problem is not None:
        raise CheckpointError(f"no good model in {path}: {problem}")
    shapes, facts = checkpoint.read_shapes(path)
    if "config" not in facts:
        raise CheckpointError(f"no good model in {path}: {checkpoint.FACTS} has no config")
    model, guide = build(facts["config"])
    theta, phi = (jax.eval_shape(part.init, jax.random.key(0)) for part in (model, guide))
    for name, like in (("theta", theta), ("phi", phi)):
        check_leaves(name, like, shapes)
    arrays, _ = checkpoint.read(path)
    theta, phi = from_arrays("theta", theta, arrays), from_arrays("phi", phi, arrays)
    return Saved(model, guide, theta, phi, facts["config"])
