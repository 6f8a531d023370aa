"""The fingerprint of a run: its data, shapes and options, which a resumed run must share."""

import dataclasses
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lvm_jax import parallel, precision
from lvm_jax._core.inputs import name_of
from lvm_jax._core.recognition import contents
from lvm_jax.training.step import Program, State
from lvm_jax.typing import Array, ArrayLike, Key

HASHED_BYTES = 2**28  # the checksum of larger data uses evenly spaced rows


def fingerprint(
    program: Program,
    key: Key[Array, ""],
    state: State,
    x: Any,
    validation: Any,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Names to JSON values. num_epochs is left out: a run may be resumed with more epochs.

    Functions are compared by name and by what they close over (a learning rate, a bound),
    recursively, not by their code; an object that is neither callable nor a dataclass, by type.
    """
    skipped = ("mesh",)  # the number of devices changes the numbers by rounding only
    named = program._asdict().items()
    return {
        "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
        **{name: describe(value) for name, value in named if name not in skipped},
        **{
            group: {name: shape_of(leaf) for name, leaf in flatten(tree).items()}
            for group, tree in (
                ("parameters", state.parameters),
                ("optimizer_state", state.optimizer),
            )
        },
        precision.SETTING: precision.chosen(),
        "x": describe(x),
        "validation": describe(validation),
        **{name: describe(value) for name, value in options.items()},
    }


def together(mesh: Mesh | None, mark: Any) -> list[str]:
    """Hashes of `mark` on every process, in the order of the processes."""
    own = hashlib.sha256(json.dumps(mark).encode()).digest()
    rows = parallel.from_every_process(mesh, np.frombuffer(own, np.uint8))
    return [row.tobytes().hex() for row in rows]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names whose values differ, each with both values."""
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"{name}: {_short(old.get(name))} then, {_short(new.get(name))} now"
        for name in names
        if old.get(name) != new.get(name)
    ]


def describe(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON; arrays by shape and checksum, functions by name and what they close over.

    `within`: the identities of the values that contain this one, to end circular references.
    """
    if isinstance(value, float) and value != value:
        return "nan"  # unlike NaN, it equals itself
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray | jax.Array):
        return f"{value.dtype}{list(value.shape)} {checksum(value)}"
    if id(value) in within:
        return "itself"
    inner = partial(describe, within=(*within, id(value)))
    if isinstance(value, Mapping):
        return {str(name): inner(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [inner(part) for part in value]
    if isinstance(value, partial):
        return ["partial", *map(inner, (value.func, value.args, value.keywords))]
    if isinstance(value, types.MethodType):
        return [inner(value.__func__), _held(value.__self__, inner)]
    if hasattr(value, "__wrapped__"):  # jax.jit, functools.lru_cache
        return inner(value.__wrapped__)
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        held = {name: inner(contents(cell)) for name, cell in cells}
        defaults = [inner(value.__defaults__), inner(value.__kwdefaults__)]
        return {_name(value): [held, *defaults]}
    if isinstance(value, type):
        return _name(value)
    if callable(value) or dataclasses.is_dataclass(value):
        return _held(value, inner)
    return _name(type(value))


def _held(value: Any, inner: Callable[[Any], Any]) -> Any:
    """An object by its type and attributes, without cached properties."""
    names = list(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        names += [field.name for field in dataclasses.fields(value)]
    parts = {
        name: inner(getattr(value, name, None))
        for name in names
        if not isinstance(getattr(type(value), name, None), cached_property)
    }
    return {_name(type(value)): parts}


def _name(value: types.FunctionType | type) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def checksum(array: ArrayLike) -> str:
    """The first 16 digits of SHA-256 of the array, or of evenly spaced rows of a large one."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    rows = array if array.ndim else np.asarray(array)[None]
    step = max(1, -(-rows.nbytes // HASHED_BYTES))
    return hashlib.sha256(np.ascontiguousarray(rows[::step]).tobytes()).hexdigest()[:16]


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by name."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def shape_of(leaf: Any) -> str:
    """Type and shape of a leaf, such as float32[3, 2]."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
