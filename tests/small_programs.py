"""Programs of a few exact operations, run by NumPy: in the tests only.

An operation of jax.numpy outside `jax.jit` is a program of its own for each shape: 15 ms to lower and
compile, 800 times in five files. NumPy does here what it does with the same bits
(tests/test_small_programs.py): what moves, compares or converts numbers, and one rounding. JAX traces and checks the program as before. With more than that in it, XLA compiles it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax._src import pjit
from jax._src.dispatch import BACKEND_COMPILE_EVENT
from jax._src.interpreters import pxla
from jax.extend.core import Literal
from jax.sharding import SingleDeviceSharding

MOST = 16  # operations of a program
MANY = 2**20  # elements of an array
TYPES = [np.dtype(name) for name in ("bool", "u1", "u4", "i4", "i8", "f4", "f8")]


def broadcast(x: np.ndarray, shape: Any, broadcast_dimensions: Any, **_: Any) -> np.ndarray:
    kept = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        kept[axis] = size
    return np.broadcast_to(x.reshape(kept), shape)


def iota(dtype: Any, shape: Any, dimension: int, **_: Any) -> np.ndarray:
    return broadcast(np.arange(shape[dimension], dtype=dtype), shape, (dimension,))


def cut(x: np.ndarray, start_indices: Any, limit_indices: Any, strides: Any) -> np.ndarray:
    return x[tuple(map(slice, start_indices, limit_indices, strides or [None] * x.ndim))]


def cut_at(x: np.ndarray, *starts: Any, slice_sizes: Any) -> np.ndarray:
    size = np.array(slice_sizes, int)
    first = np.clip(np.array(starts, int), 0, x.shape - size)
    return x[tuple(map(slice, first, first + size))]


def pad(x: np.ndarray, filling: np.ndarray, padding_config: Any) -> np.ndarray:
    return np.pad(x, [(low, high) for low, high, _ in padding_config], constant_values=filling)


def split(x: np.ndarray, sizes: Any, axis: int) -> tuple[np.ndarray, ...]:
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def unstack(x: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    return tuple(np.moveaxis(x, axis, 0))


def counts(shape: Any) -> tuple[np.ndarray, np.ndarray]:
    """The high and the low 32 bits of the place of each element."""
    place = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    return (place >> np.uint64(32)).astype(np.uint32), place.astype(np.uint32)


def threefry(*given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry 2x32 with 20 rounds (Salmon et al. 2011)."""
    first, second, x, y = np.broadcast_arrays(*given)
    keys = first, second, first ^ second ^ np.uint32(0x1BD11BDA)
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = (y << np.uint32(turn) | y >> np.uint32(32 - turn)) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "square": np.square,
    "sqrt": np.sqrt,
    "integer_pow": lambda x, y: np.square(x),
}
LARGEST: dict[str, Callable[..., Any]] = {  # and smallest, of which a zero has either sign
    "max": np.maximum,
    "min": np.minimum,
    "reduce_max": lambda x, axes, **_: np.max(x, axes),
    "reduce_min": lambda x, axes, **_: np.min(x, axes),
}
EXACT: dict[str, Callable[..., Any]] = {
    **LARGEST,
    "neg": np.negative,
    "abs": np.abs,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.bitwise_not,
    "is_finite": np.isfinite,
    "reduce_and": lambda x, axes, **_: np.all(x, axes),
    "reduce_or": lambda x, axes, **_: np.any(x, axes),
    "select_n": lambda which, *cases: np.choose(which, cases),
    "copy": np.copy,
    "convert_element_type": lambda x, new_dtype, **_: x.astype(new_dtype),
    "reshape": lambda x, new_sizes, **_: x.reshape(new_sizes),
    "squeeze": lambda x, dimensions: x.squeeze(dimensions),
    "transpose": lambda x, permutation: x.transpose(permutation),
    "rev": lambda x, dimensions: np.flip(x, dimensions),
    "broadcast_in_dim": broadcast,
    "iota": iota,
    "slice": cut,
    "dynamic_slice": cut_at,
    "stack": lambda *parts, axis: np.stack(parts, axis),
    "concatenate": lambda *parts, dimension: np.concatenate(parts, dimension),
    "unstack": unstack,
    "split": split,
    "pad": pad,
    "shift_right_logical": np.right_shift,
    "iota_2x32_shape": counts,
    "threefry2x32": threefry,
}


def is_small(jaxpr: Any) -> bool:
    """Whether NumPy gives every bit of the program's results."""
    equations = list(unfold(jaxpr))
    values = [v.aval for e in equations for v in (*e.invars, *e.outvars)]
    values += [v.aval for v in jaxpr.invars]
    return (
        not jaxpr.effects
        and len(equations) <= MOST
        and all(v.dtype in TYPES and v.size <= MANY for v in values)
        and sum(map(is_rounded, equations)) <= 1
        and all(map(is_known, equations))
    )


def unfold(jaxpr: Any) -> Iterator[Any]:
    """The operations of a program and of the programs in it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "jit":
            yield from unfold(equation.params["jaxpr"].jaxpr)
        else:
            yield equation


def is_rounded(equation: Any) -> bool:
    return equation.primitive.name in ARITHMETIC and equation.outvars[0].aval.dtype.kind == "f"


def is_known(equation: Any) -> bool:
    name, params = equation.primitive.name, equation.params
    kind = equation.invars[0].aval.dtype.kind if equation.invars else ""
    match name:
        case "integer_pow":
            return params["y"] == 2
        case "div":
            return kind == "f"
        case "convert_element_type":  # what an integer cannot hold is XLA's own
            return kind != "f" or params["new_dtype"].kind in "fb"
        case "select_n" | "reduce_and" | "reduce_or":
            return kind == "b"
        case "reduce_max" | "reduce_min":
            return equation.invars[0].aval.size > 0
        case "pad":
            return all(
                low >= 0 <= high and not inner for low, high, inner in params["padding_config"]
            )
        case "shift_right_logical":  # by a number below 32, as those of JAX's draws
            return kind == "u" and isinstance(equation.invars[1], Literal)
    return name in ARITHMETIC or name in EXACT


class Unsure(Exception):
    """XLA takes a subnormal number for 0; and of two zeros of different signs it takes another."""


def evaluate(closed: Any, values: Any) -> list[np.ndarray]:
    """The results of a small program."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars + jaxpr.invars, [*closed.consts, *values], strict=True))

    def value(v: Any) -> np.ndarray:
        x = np.asarray(v.val if isinstance(v, Literal) else known[v], v.aval.dtype)
        if x.dtype.kind == "f" and np.any((x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny)):
            raise Unsure
        return x

    for equation in jaxpr.eqns:
        name, params, given = equation.primitive.name, equation.params, map(value, equation.invars)
        if name == "jit":
            results = evaluate(params["jaxpr"], given)
        elif name in ARITHMETIC:
            exponent = {"y": 2} if name == "integer_pow" else {}
            results = [ARITHMETIC[name](*given, **exponent)]
        else:
            found = EXACT[name](*given, **params)
            results = list(found) if isinstance(found, tuple) else [found]
            if name in LARGEST and np.any(results[0] == 0) and results[0].dtype.kind == "f":
                raise Unsure
        known.update(zip(equation.outvars, results, strict=True))
    return [value(v) for v in jaxpr.outvars]


class Runner:
    """Takes the place of JAX's function that lowers, compiles and runs a traced program."""

    def __init__(self) -> None:
        self.compile = pjit._pjit_call_impl_python
        self.small: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self.on = True

    def __call__(self, *args: Any, jaxpr: Any, **options: Any) -> Any:
        if self.on and self.is_taken(args, jaxpr, options):
            try:
                with np.errstate(all="ignore"):
                    results = evaluate(jaxpr, args)
            except Unsure:
                return self.compile(*args, jaxpr=jaxpr, **options)
            committed = any(getattr(arg, "_committed", False) for arg in args)
            arrays = [put(*pair, committed) for pair in zip(jaxpr.out_avals, results, strict=True)]
            return arrays, None, None, []  # no executable, no profile, no constants
        return self.compile(*args, jaxpr=jaxpr, **options)

    def is_taken(self, args: Any, jaxpr: Any, options: Any) -> bool:
        if jaxpr not in self.small:
            self.small[jaxpr] = is_small(jaxpr.jaxpr)
            if self.small[jaxpr]:  # a test that nothing is compiled counts it as well
                jax.monitoring.record_event_duration_secs(BACKEND_COMPILE_EVENT, 0.0)
        return (
            self.small[jaxpr]
            and all(map(is_plain, args))
            and not options["compiler_options_kvs"]
            and not any(options["donated_invars"])
            and not any(options["in_layouts"] + options["out_layouts"])
            and set(options["in_shardings"] + options["out_shardings"]) <= {pjit.UNSPECIFIED}
        )


def is_plain(arg: Any) -> bool:
    """Whether an argument is the host's or of a single device."""
    return not isinstance(arg, jax.Array) or isinstance(arg.sharding, SingleDeviceSharding)


def put(aval: Any, x: np.ndarray, committed: bool) -> jax.Array:
    device = jax.local_devices()[0]
    own = np.array(x, aval.dtype, order="C")  # no view of an argument, which may be given away
    place = SingleDeviceSharding(device)
    # A float64 stays one outside `enable_x64` too, as the result of a compiled program does.
    return pxla.batched_device_put(aval, place, [own], [device], committed, enable_x64=True)


RUNNER = Runner()


def install() -> None:
    """Run small programs by NumPy from here on."""
    pjit._pjit_call_impl_python = RUNNER


@contextmanager
def compiled() -> Iterator[None]:
    """Every program is compiled inside."""
    before, RUNNER.on = RUNNER.on, False
    try:
        yield
    finally:
        RUNNER.on = before
