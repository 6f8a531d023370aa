"""A trained model on disk: its parameters, and a description from which the caller builds it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from lvm_jax._core.pairs import Pair
from lvm_jax.training import checkpoint
from lvm_jax.training.checkpoint import CheckpointError
from lvm_jax.training.log import check_leaves, from_arrays, to_arrays
from lvm_jax.typing import Array, Key, Params

FOLDER = "model"


@runtime_checkable
class Initialised(Pair, Protocol):
    """A pair that makes its own parameters, such as `Separate(model, guide)`."""

    def init(self, key: Key[Array, ""]) -> Params:
        """New parameters."""


Build = Callable[[dict[str, Any]], Initialised]  # the description -> its pair


class Saved(NamedTuple):
    """What `load_model` finds."""

    p: Any  # p(x, z), with its parameters
    q: Any  # q(z | x)
    params: Params
    config: dict[str, Any]


def save_model(directory: str | Path, config: Mapping[str, Any], params: Params) -> Path:
    """Write parameters and their description to directory/model, whole or not at all.

    `config` is plain JSON: all that `build` of `load_model` needs. `params` have the structure that
    the `init` of the pair gives, for a model and a guide `Parameters(theta, phi)`. Functions
    are not saved. An earlier model there is replaced. Returns the folder.

    Raises TypeError if the description is not JSON, CheckpointError if the disk refuses.
    """
    try:
        description = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: expected JSON values, got {config!r} ({error})") from error
    path = Path(directory) / FOLDER
    checkpoint.write(path, to_arrays("params", params), {"config": description})
    return path


def load_model(directory: str | Path, build: Build) -> Saved:
    """The model in directory/model, which needs neither the data nor the run that trained it.

    `build(config)` gives the pair, `Separate(model, guide)` or another with an `init`; what it
    initialises to is compared, leaf for leaf, with what was saved. Loading executes no code from
    the folder, and allocates no array of another size than `build` gives: a folder from another
    person is safe to load if `build` is safe for any JSON.

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
    pair = build(facts["config"])
    like = jax.eval_shape(pair.init, jax.random.key(0))
    check_leaves("params", like, shapes)
    arrays, _ = checkpoint.read(path)
    params = from_arrays("params", like, arrays)
    return Saved(*pair(params), params, facts["config"])
