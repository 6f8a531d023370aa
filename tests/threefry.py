"""Threefry, the generator of random numbers, as one function of C: in the tests only.

XLA compiles the 20 rounds wherever a program draws, splits a key or folds a number into one: 20 to
25 ms each time with the lowering. A call of C takes 2 ms and gives the same bits
(tests/test_keys.py). Three files that took 81 s of CPU with an empty cache take 62 s.
"""

import ctypes
import math
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax._src.interpreters import mlir
from jax.extend.random import threefry2x32_p

from lvm_jax._core import keys

LIBRARY = keys.threefry
SOURCE = Path(__file__).with_name("threefry.c")
NAME = "lvm_jax_tests_threefry2x32"


def install() -> None:
    """Call C on CPUs from here on, for JAX and for lvm_jax. Without a C compiler nothing changes."""
    compiler = shutil.which("cc")
    if compiler is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "threefry.so"
        options = ["-O3", "-shared", "-fPIC", f"-I{jax.ffi.include_dir()}", "-o", library]
        lines = ([compiler, *more, *options, SOURCE] for more in (["-march=native"], []))
        if all(subprocess.run(line).returncode != 0 for line in lines):  # it has said why
            return
        function = ctypes.CDLL(str(library)).threefry2x32
    jax.ffi.register_ffi_target(NAME, jax.ffi.pycapsule(function), platform="cpu")
    mlir.register_lowering(threefry2x32_p, lower, platform="cpu")
    keys.threefry = of_jax


def lower(ctx: Any, *operands: Any) -> Any:
    """The call; an operand has one element or the result's shape."""
    result = ctx.avals_out[0]
    avals = [aval if math.prod(aval.shape) == 1 else result for aval in ctx.avals_in]

    def broadcast(operand: Any, old: Any, new: Any) -> Any:
        axes = range(new.ndim - old.ndim, new.ndim)
        if old.shape == new.shape:
            return operand
        return mlir.broadcast_in_dim(ctx, operand, new, broadcast_dimensions=axes)

    given = map(broadcast, operands, ctx.avals_in, avals)
    return jax.ffi.ffi_lowering(NAME)(ctx.replace(avals_in=avals), *given)


def of_jax(key: Any, high: Any, low: Any) -> Any:
    """JAX's function with the arguments of `keys.threefry`."""
    return threefry2x32_p.bind(key[0], key[1], high, low)
