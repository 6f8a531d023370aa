"""Equal functions as one object, so that a program compiled for one serves the others.

An optimiser, an estimator, a model or a guide is a tuple of closures, which Python compares by
identity: `optax.adam(1e-3)` made twice would compile twice. Here they are compared by what they
are made of.
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

MOST_KNOWN = 1_024  # objects that are kept to be recognised
MOST_BYTES = 2**20  # larger arrays are compared by identity


class Itself:
    """A key that equals that of the same object alone; it keeps the object alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Known:
    """The first object of each structure, up to `size` of them, the least recently used dropped."""

    def __init__(self, size: int = MOST_KNOWN) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, value: Any) -> Any:
        """An equal object that was seen before in the same precision, or this one.

        JAX 0.10 keeps the float32 copy of a NumPy array that a program holds, and hands it out in
        x64 too.
        """
        made = structure(value)
        key = (jax.config.read("jax_enable_x64"), made)
        with self._lock:
            found = self._values.get(key, value)
            if found is not value and structure(found) != made:  # what it closes over has changed
                found = value
            self._values[key] = found
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return found


KNOWN = Known()


def recognized(value: Any) -> Any:
    """The first equal object of the process; of a NamedTuple, such as a model, part by part.

    So a part that is compared by identity, or that changes, leaves the others recognised.
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(recognized, value))
    return KNOWN.first(value)


def bindable(functions: Any) -> Any:
    """`recognized`, found at once for functions that were bound before in this precision."""
    return _bindable(jax.config.read("jax_enable_x64"), functions)


@lru_cache(maxsize=MOST_KNOWN)
def _bindable(x64: bool, functions: Any) -> Any:
    return recognized(functions)


def structure(value: Any, seen: dict[int, tuple[int, Any]] | None = None) -> Hashable:
    """A key that two values share only if they are interchangeable in a compiled program.

    Functions by their code, their globals and, however deep, the values that they close over and
    their defaults; numbers, strings and arrays up to MOST_BYTES by value; containers, partial
    functions, bound methods and frozen dataclasses by their parts; another object by its own
    equality where it can be hashed, else by identity. `seen` holds the values that were met on the
    way and are not entered again, so that cycles end and shared parts cost nothing.
    """
    seen = {} if seen is None else seen
    if isinstance(value, float):
        return (type(value), value.hex())  # tells 0.0 from -0.0, and NaN equals itself
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
        return Itself(value)
    return (type(value), value)


def _parts(value: Any) -> list[Any] | None:
    """What a value is made of; None for one that is not taken apart."""
    if isinstance(value, types.FunctionType):
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        named = (value.__defaults__, value.__kwdefaults__, value.__dict__)
        return [Itself(value.__globals__), value.__code__, *cells, *named]
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
        return Itself(value)
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return (str(jax.random.key_impl(value)), _of_array(jax.random.key_data(value)))
    if value.dtype.hasobject:
        return Itself(value)
    weak = getattr(value, "weak_type", False)
    return (type(value), value.dtype, weak, value.shape, np.asarray(value).tobytes())


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound
        return types.CellType
