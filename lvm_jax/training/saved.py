"""A trained model on disk: its parameters, and a configuration from which the caller builds it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lvm_jax._core.pairs import Pair
from lvm_jax.training import checkpoint
from lvm_jax.training.checkpoint import CheckpointError
from lvm_jax.training.log import check_leaves, from_arrays, to_arrays
from lvm_jax.typing import Params

FOLDER = "model"


Build = Callable[[dict[str, Any]], Any]  # the configuration -> its pair, which has an `init`


class Saved(NamedTuple):
    """A model from disk."""

    p: Any  # p(x, z), with its parameters
    q: Any  # q(z | x)
    params: Params
    config: dict[str, Any]


def architecture_of(pair: Pair) -> dict[str, Any]:
    """The architecture of a pair as JSON values; TypeError for a pair without one."""
    architecture = getattr(pair, "architecture", None)
    if architecture is None:
        raise TypeError(
            f"config: expected JSON values that describe the pair, got None for a "
            f"{type(pair).__name__}, which has no architecture; give what `build` of "
            "training.load makes the pair of, or use vae.build(architecture)"
        )
    return asdict(architecture)


def write_model(directory: str | Path, config: Mapping[str, Any], params: Params) -> Path:
    """Write parameters and configuration to directory/model; see `Fit.save`."""
    try:
        description = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: expected JSON values, got {config!r} ({error})") from error
    path = Path(directory) / FOLDER
    checkpoint.write(path, to_arrays("params", params), {"config": description})
    return path


def load(directory: str | Path, build: Build | None = None) -> Saved:
    """The model that `Fit.save` wrote; the training data and the run are not needed.

    `build(config)` returns the pair, `Separate(model, guide)` or another with an `init`; None
    builds the saved architecture of a pair of `vae.build`. The shapes of the pair's parameters must
    equal the saved ones. Loading executes no code from the folder, and allocates only arrays of the
    sizes that `build` gives: a folder from another person is safe to load if `build` is safe for
    any JSON.

    Raises CheckpointError if there is no model, or a file is damaged, missing or not in the
    manifest; ValueError if the saved model differs from that of `build`, or `build` is None and no
    architecture was saved.
    """
    path = checkpoint.kept(Path(directory) / FOLDER)
    problem = checkpoint.verify(path)
    if problem is not None:
        raise CheckpointError(f"no good model in {path}: {problem}")
    shapes, facts = checkpoint.read_shapes(path)
    if "config" not in facts:
        raise CheckpointError(f"no good model in {path}: {checkpoint.FACTS} has no config")
    from lvm_jax.vae.building import build_saved

    make: Build = build_saved if build is None else build
    pair = make(facts["config"])
    like = jax.eval_shape(pair.init, jax.random.key(0))
    check_leaves("params", like, shapes)
    arrays, _ = checkpoint.read(path)
    params = from_arrays("params", like, arrays)
    p, q = pair(params)
    return Saved(p, q, params, facts["config"])
