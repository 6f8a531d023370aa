"""Structural equality of functions, so that equal functions share one compiled program.

An optimiser, an estimator, a model or a guide is a tuple of closures, which Python compares by
identity, so that two calls of `optax.adam(1e-3)` would compile twice. This module compares the code
and the values of closures instead.
"""

import dataclasses
import threading
import types
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

MOST_STORED = 1_024  # maximum number of stored objects
MOST_BYTES = 2**20  # larger arrays are compared by identity

# Functions that convert the integers that they close over to floats at their first call.
FLOATING = {("optax.schedules._schedule", "cosine_decay_schedule.<locals>.schedule")}


class ByIdentity:
    """A key with identity comparison, which keeps its object alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class StructureCache:
    """The first object of each structure, for the `size` most recently used structures."""

    def __init__(self, size: int = MOST_STORED) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, value: Any) -> Any:
        """The first equal object, or this one; x64 and float32 are separate.

        They are separate because JAX 0.10 caches the float32 copy of a NumPy constant of a program
        and also uses it in x64.
        """
        made = structure(value)
        key = (jax.config.read("jax_enable_x64"), made)
        with self._lock:
            found = self._values.get(key, value)
            if found is not value and structure(found) != made:  # its closure has changed
                found = value
            self._values[key] = found
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return found


CACHE = StructureCache()


def recognized(value: Any) -> Any:
    """The first equal object of the process.

    The fields of a NamedTuple, such as a model, are replaced separately, so that a field that is
    compared by identity, or changes, does not affect the others.
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(recognized, value))
    return CACHE.first(value)


def bindable(functions: Any) -> Any:
    """`recognized` with a cache for hashable arguments, per precision."""
    return _bindable(jax.config.read("jax_enable_x64"), functions)


@lru_cache(maxsize=MOST_STORED)
def _bindable(x64: bool, functions: Any) -> Any:
    return recognized(functions)


def structure(value: Any, seen: dict[int, tuple[int, Any]] | None = None) -> Hashable:
    """A key that is equal only for values that are interchangeable in a compiled program.

    A function is compared by its code, globals, defaults and closure, recursively; numbers, strings
    and arrays up to MOST_BYTES by value; containers, partial functions, bound methods and frozen
    dataclasses by their parts; other objects by their own equality if hashable, otherwise by
    identity. `seen` has the values on the way, which are not entered again.
    """
    seen = {} if seen is None else seen
    if isinstance(value, float):
        return (type(value), value.hex())  # 0.0 and -0.0 differ; NaN equals itself
    if value is None or isinstance(value, bool | int | str | bytes):
        return (type(value), value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _of_array(value)
    if id(value) in seen:
        return ("seen", seen[id(value)][0])
    parts = _parts(value)
    if parts is not None:
        seen[id(value)] = (len(seen), value)
        return (type(value), *[structure(part, seen) for part in parts])
    try:
        hash(value)
    except TypeError:
        return ByIdentity(value)
    return (type(value), value)


def _parts(value: Any) -> list[Any] | None:
    """The parts of a value; None for an indivisible value."""
    if isinstance(value, types.FunctionType):
        cells = [contents(cell) for cell in value.__closure__ or ()]
        if (value.__module__, value.__qualname__) in FLOATING:
            cells = [float(cell) if isinstance(cell, int) else cell for cell in cells]
        named = (value.__defaults__, value.__kwdefaults__, value.__dict__)
        return [ByIdentity(value.__globals__), value.__code__, *cells, *named]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if type(value) is dict or isinstance(value, types.MappingProxyType):
        return [*value, *value.values()]
    if isinstance(value, list | tuple) and not isinstance(value, Mapping):
        return list(value)
    if _is_frozen(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return None


def _is_frozen(value: Any) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen and parameters.eq


def _of_array(value: Any) -> Hashable:
    if isinstance(value, jax.core.Tracer) or value.nbytes > MOST_BYTES:
        return ByIdentity(value)
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return (str(jax.random.key_impl(value)), _of_array(jax.random.key_data(value)))
    if value.dtype.hasobject:
        return ByIdentity(value)
    weak = getattr(value, "weak_type", False)
    return (type(value), value.dtype, weak, value.shape, np.asarray(value).tobytes())


def contents(cell: types.CellType) -> Any:
    """The value of a cell of a closure."""
    try:
        return cell.cell_contents
    except ValueError:  # an unbound name
        return types.CellType
