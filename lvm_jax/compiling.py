"""Compiled programs: few shapes, and a bound on what a process keeps.

`bucket` and `pad_rows` round sizes that vary in use up to few, so that programs are shared.
`bounded_jit` is `jax.jit` for entry points on the host: all of its programs, of every subpackage,
are in one store that releases those used least recently.

XLA keeps each kernel of a program on the CPU in memory maps of its own, 20 to 100 a program and
thousands for a large one, and `jax.jit` releases none of them. Linux allows 65,530 maps a process;
beyond them XLA ends it with a segmentation fault.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache, update_wrapper
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.recognition import recognized

MAX_MAPS = 6_000  # memory maps that the programs of the store may hold
ASSUMED_MAPS = 60  # of a program where the system does not count them
SMALLEST = 16  # the smallest bucket

# Compiling without XLA's fusion emitters and in one part takes 40% of the time, half of the maps
# and 90 to 250 MB less. Elementwise code is slower where it dominates; matrix products are not.
LEAN: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}

LEVEL = "xla_backend_optimization_level"  # LLVM's; XLA takes 3 by itself


def bucket(size: int) -> int:
    """The size that `size` is padded to: the smallest of the buckets that holds it.

    Buckets are 16, 32, 64, ..., 1,024, then two an octave up to 8,192 (1,536, 2,048, 3,072, ...),
    and then eight an octave: time goes into compiling where data are small, and into rows where
    they are large.

    Raises ValueError or TypeError for a size that is not an integer >= 1.
    """
    size = checks.integer(size, "size", 1)
    octave = 1 << (max(size, SMALLEST) - 1).bit_length() - 1  # the power of two below size
    parts = 1 if octave < 1_024 else 2 if octave < 8_192 else 8
    step = max(octave // parts, SMALLEST)
    return -(-size // step) * step


def pad_rows(tree: Any, size: int) -> Any:
    """The leaves, [N, ...], as NumPy arrays of `size` rows: copies of the last row are added.

    A copy lies on the support of every likelihood and makes no NaN. Nothing is copied where
    N = size.
    """

    def pad(leaf: Any) -> np.ndarray:
        rows = np.asarray(leaf)
        if len(rows) == size:
            return rows
        more = np.broadcast_to(rows[-1:], (size - len(rows), *rows.shape[1:]))
        return np.concatenate([rows, more])

    return jax.tree.map(pad, tree)


def first_rows(tree: Any, size: int) -> Any:
    """The first `size` rows of every leaf, as NumPy arrays; undoes `pad_rows`.

    It slices on the host, where a new length compiles nothing. `jax.device_put` compiles nothing
    either, but may share the memory of the NumPy array; `jnp.asarray` compiles for each shape.
    """
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], tree)


class _Entry(NamedTuple):
    """A jitted function for one set of shapes, and the memory maps that its program holds."""

    jitted: Callable[..., Any]
    maps: int


class Store:
    """Compiled programs by key, up to `max_maps` memory maps; the least recently used go first."""

    def __init__(self, max_maps: int) -> None:
        self.max_maps = max_maps
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Callable[..., Any] | None:
        """The program of this key, now the most recently used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.jitted

    def add(self, key: Hashable, jitted: Callable[..., Any], maps: int) -> None:
        """Keep a program; release others until the rest holds at most `max_maps`."""
        with self._lock:
            self._entries[key] = _Entry(jitted, maps)
            while len(self._entries) > 1 and self.maps > self.max_maps:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Release every program."""
        with self._lock:
            self._entries.clear()

    @property
    def maps(self) -> int:
        """Memory maps that the programs held when they were compiled."""
        return sum(entry.maps for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


STORE = Store(MAX_MAPS)


class BoundedJit:
    """A function as `bounded_jit` returns it."""

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnums: tuple[int, ...],
        lean: bool,
        level: int = 3,
    ) -> None:
        update_wrapper(self, function)
        self.function, self.static_argnums = function, static_argnums
        self.lean, self.level = lean, level

    def __call__(self, *args: Any) -> Any:
        """The function's value; arguments by position."""
        static = tuple(args[place] for place in self.static_argnums)
        leaves, structure = jax.tree.flatten(
            [arg for place, arg in enumerate(args) if place not in self.static_argnums]
        )
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self.function(*args)
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
        jitted = STORE.get((self, static, structure, shapes))
        if jitted is not None:
            return jitted(*args)
        # Functions made alike, such as two models of equal sizes, are not equal in Python.
        static = tuple(map(recognized, static))
        args = self._with_static(args, static)
        jitted = STORE.get((self, static, structure, shapes))
        if jitted is not None:
            return jitted(*args)
        before = count_maps()
        jitted = self._jit(args)
        value = jitted(*args)
        maps = max(count_maps() - before, 1) if before else ASSUMED_MAPS
        STORE.add((self, static, structure, shapes), jitted, maps)
        return value

    def _with_static(self, args: tuple[Any, ...], static: tuple[Any, ...]) -> tuple[Any, ...]:
        given = dict(zip(self.static_argnums, static, strict=True))
        return tuple(given.get(place, arg) for place, arg in enumerate(args))

    def options(self, args: tuple[Any, ...]) -> dict[str, Any] | None:
        """The options that XLA compiles a call with these arguments by."""
        return lean_options(self.level) if self.lean else None

    def _jit(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        """A new jitted function: JAX releases a program with the function that it was made of."""
        options = self.options(args)

        def fresh(*args: Any) -> Any:
            return self.function(*args)

        return jax.jit(
            update_wrapper(fresh, self.function),
            static_argnums=self.static_argnums,
            compiler_options=options,
        )


def bounded_jit(
    *static_argnums: int, lean: bool = False, level: int = 3
) -> Callable[[Callable[..., Any]], BoundedJit]:
    """`jax.jit` whose compiled programs are released by least recent use, across the library.

        @bounded_jit(2)
        def _solve(key, x, num_steps): ...

    The arguments at `static_argnums` are static; all are passed by position. A call with shapes,
    types and static arguments seen before looks its program up in `STORE` (about 20 us); another
    one compiles. Static arguments that are made alike share a program (see `recognition`). Where
    an argument is traced, the function itself is called. With `lean`, a CPU program is compiled by
    the options LEAN and LLVM's optimisation `level`: level 2 takes two thirds of the time of 3 for
    a large program, level 0 half for a small one, which then runs several times as long.
    """
    return lambda function: BoundedJit(function, static_argnums, lean, level)


def count_maps() -> int:
    """Memory maps of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return maps.read().count(b"\n")
    except OSError:
        return 0


@lru_cache
def lean_options(level: int = 3) -> dict[str, Any] | None:
    """Those of LEAN that this XLA accepts on a CPU, and the level; None on another backend.

    A level in the variable XLA_FLAGS takes the place of `level`.
    """
    if jax.default_backend() != "cpu":
        return None
    given = level == 3 or LEVEL in os.environ.get("XLA_FLAGS", "")
    wanted = LEAN if given else {**LEAN, LEVEL: level}
    return {name: value for name, value in wanted.items() if _accepted({name: value})} or None


def _accepted(options: dict[str, Any]) -> bool:
    """Does XLA take these options? It removes some from one release to the next."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
