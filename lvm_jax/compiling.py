"""Compiled programs: few shapes, and a limit on the programs that a process keeps.

`bucket` and `pad_rows` round varying sizes up to a few, so that data of many sizes share programs.
`bounded_jit` is `jax.jit` for entry points on the host: all its programs are in one store that
releases the least recently used.

On a CPU XLA keeps each kernel of a program in its own memory maps, 20 to 100 per program and
thousands for a large one, and `jax.jit` releases none. Linux allows 65,530 maps per process; beyond
this limit XLA fails with a segmentation fault.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, update_wrapper
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks, lapack
from lvm_jax._core.recognition import recognized

lapack.install()  # otherwise programs with batches of matrices can hang

MAX_MAPS = 6_000  # maximum number of memory maps of all programs in the store
ASSUMED_MAPS = 60  # of a program, on systems without /proc/self/maps
SMALLEST = 16  # the smallest bucket

LEVEL = "xla_backend_optimization_level"  # LLVM's level; XLA's default is 3

# Compilation without XLA's fusion emitters, in one part and with level 2 takes 40% of the time
# and half the maps, and saves 90 to 250 MB. Elementwise code takes up to 1.6 times as long; matrix
# products do not.
LEAN: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    LEVEL: 2,
}


def bucket(size: int) -> int:
    """The smallest bucket that is at least `size`, to which data are padded.

    Buckets are 16, 32, 64, ..., 1,024, then two per octave up to 8,192 (1,536, 2,048, 3,072, ...),
    then eight per octave: compilation dominates the time for small data, rows for large data.

    Raises ValueError or TypeError for a size that is not an integer >= 1.
    """
    size = checks.integer(size, "size", 1)
    octave = 1 << (max(size, SMALLEST) - 1).bit_length() - 1  # the power of two below size
    parts = 1 if octave < 1_024 else 2 if octave < 8_192 else 8
    step = max(octave // parts, SMALLEST)
    return -(-size // step) * step


def pad_rows(tree: Any, size: int) -> Any:
    """Pad leaves [N, ...] to `size` rows, as NumPy arrays, with copies of the last row.

    A copy is on the support of every likelihood. Leaves with N = size are returned without a copy.
    """

    def pad(leaf: Any) -> np.ndarray:
        rows = np.asarray(leaf)
        if len(rows) == size:
            return rows
        more = np.broadcast_to(rows[-1:], (size - len(rows), *rows.shape[1:]))
        return np.concatenate([rows, more])

    return jax.tree.map(pad, tree)


def first_rows(tree: Any, size: int) -> Any:
    """The first `size` rows of every leaf, as NumPy arrays; the inverse of `pad_rows`.

    It slices on the host, without compilation. To move the result to the device use
    `jax.device_put`, which compiles nothing; `jnp.asarray` compiles for each shape.
    """
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], tree)


class _Entry(NamedTuple):
    """A jitted function for one set of shapes, and the number of its memory maps."""

    jitted: Callable[..., Any]
    maps: int


class Store:
    """Compiled programs by key, at most `max_maps` memory maps; evicts the least recently used."""

    def __init__(self, max_maps: int) -> None:
        self.max_maps = max_maps
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Callable[..., Any] | None:
        """The program of this key, marked as most recently used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.jitted

    def add(self, key: Hashable, jitted: Callable[..., Any], maps: int) -> None:
        """Add a program; release others until all have at most `max_maps`."""
        with self._lock:
            self._entries[key] = _Entry(jitted, maps)
            while len(self._entries) > 1 and self.maps > self.max_maps:
                self._entries.popitem(last=False)

    def remove(self, key: Hashable) -> None:
        """Release the program of this key, if there is one."""
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Release every program."""
        with self._lock:
            self._entries.clear()

    @property
    def maps(self) -> int:
        """The number of memory maps of all programs, counted at compilation."""
        return sum(entry.maps for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


STORE = Store(MAX_MAPS)


class BoundedJit:
    """The return type of `bounded_jit`."""

    def __init__(
        self, function: Callable[..., Any], static_argnums: tuple[int, ...], lean: bool
    ) -> None:
        update_wrapper(self, function)
        self.function, self.static_argnums, self.lean = function, static_argnums, lean

    def __call__(self, *args: Any) -> Any:
        """Call the compiled function with positional arguments."""
        leaves, structure = self._flatten(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self.function(*args)
        key, args, jitted = self._find(args, leaves, structure)
        if jitted is not None:
            return jitted(*args)
        before = count_maps()
        jitted = self._jit(args)
        with lapack.Watch() as watch:
            value = jitted(*args)
            if watch.calls:
                jax.block_until_ready(value)
                jitted = lapack.with_one_blas_thread(jitted)
        maps = max(count_maps() - before, 1) if before else ASSUMED_MAPS
        STORE.add(key, jitted, maps)
        return value

    def compile_in(self, pool: Executor, *args: Any) -> None:
        """Trace for these arguments, and compile in a thread of the pool; a call waits for it.

        XLA compiles without Python's lock, so that programs compile at the same time.
        """
        key, args, jitted = self._find(args, *self._flatten(args))
        if jitted is not None:
            return
        jitted = self._jit(args)
        with lapack.Watch() as watch:
            lowered = jitted.lower(*args)
        compiled = pool.submit(lowered.compile)
        run = lapack.with_one_blas_thread(jitted) if watch.calls else jitted

        def program(*args: Any) -> Any:
            try:
                compiled.result()
            except BaseException:
                STORE.remove(key)  # so that another call compiles again
                raise
            return run(*args)

        STORE.add(key, program, ASSUMED_MAPS)

    def _flatten(self, args: tuple[Any, ...]) -> tuple[list[Any], Any]:
        return jax.tree.flatten(
            [arg for place, arg in enumerate(args) if place not in self.static_argnums]
        )

    def _find(self, args: tuple[Any, ...], leaves: list[Any], structure: Any) -> tuple[Any, ...]:
        """The program's key, the arguments with static ones as in the key, and the program."""
        static = tuple(args[place] for place in self.static_argnums)
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
        jitted = STORE.get((self, static, structure, shapes))
        if jitted is None:
            # Functions with equal structure, such as two equal models, are not equal in Python.
            static = tuple(map(recognized, static))
            args = self._with_static(args, static)
            jitted = STORE.get((self, static, structure, shapes))
        return (self, static, structure, shapes), args, jitted

    def _with_static(self, args: tuple[Any, ...], static: tuple[Any, ...]) -> tuple[Any, ...]:
        given = dict(zip(self.static_argnums, static, strict=True))
        return tuple(given.get(place, arg) for place, arg in enumerate(args))

    def options(self, args: tuple[Any, ...]) -> dict[str, Any] | None:
        """XLA's compiler options for a call with these arguments."""
        return lean_options() if self.lean else None

    def _jit(self, args: tuple[Any, ...]) -> Any:
        """A new jitted function; JAX releases a program with its Python function."""
        options = self.options(args)

        def fresh(*args: Any) -> Any:
            return self.function(*args)

        return jax.jit(
            update_wrapper(fresh, self.function),
            static_argnums=self.static_argnums,
            compiler_options=options,
        )


def bounded_jit(
    *static_argnums: int, lean: bool = False
) -> Callable[[Callable[..., Any]], BoundedJit]:
    """`jax.jit` with a limit on compiled programs, across the library.

        @bounded_jit(2)
        def _solve(key, x, num_steps): ...

    All arguments are positional; those at `static_argnums` are static. A call with known shapes,
    types and static arguments finds its program in `STORE` (about 20 us); another call compiles.
    On a CPU a program that calls LAPACK runs with one BLAS thread.
    Static arguments of equal structure share a program (see `recognition`). If an argument is
    traced, the function runs without `jax.jit`. `lean` compiles with the options LEAN on a CPU, for
    a program that runs once or a few times.
    """
    return lambda function: BoundedJit(function, static_argnums, lean)


@contextmanager
def in_background() -> Iterator[Executor]:
    """A pool of one thread for `BoundedJit.compile_in`.

    The end does not wait for the thread: a program that it has not compiled yet waits when called.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def count_maps() -> int:
    """The number of memory maps of this process; 0 if the system does not report it."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return maps.read().count(b"\n")
    except OSError:
        return 0


@lru_cache
def lean_options(level: int | None = None) -> dict[str, Any] | None:
    """The options of LEAN that the installed XLA accepts on a CPU, or these with another level.

    None on other backends. A level in the environment variable XLA_FLAGS takes precedence.
    """
    if jax.default_backend() != "cpu":
        return None
    wanted = LEAN if level is None else {**LEAN, LEVEL: level}
    if LEVEL in os.environ.get("XLA_FLAGS", ""):
        wanted = {name: value for name, value in wanted.items() if name != LEVEL}
    return {name: value for name, value in wanted.items() if _accepted({name: value})} or None


def _accepted(options: dict[str, Any]) -> bool:
    """Whether the installed XLA accepts these options; releases differ."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
