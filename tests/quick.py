"""Quick compiling: in the processes of the tests only.

Most of the time of the tests goes into compiling. Not optimising, fusing without XLA's own MLIR
emitters and generating the code in one part takes 40% of it. `XLA_FLAGS= make test` compiles as users
do.
"""

import os
import zlib
from functools import cache, partial
from importlib.metadata import version
from types import SimpleNamespace

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
FLAGS += " --xla_cpu_parallel_codegen_split_count=1"


def install() -> None:
    """Compile quickly from here on; to be called before JAX makes an array.

    An unknown flag ends the process: only the jaxlib that the flags were tried on gets them.
    """
    if not version("jaxlib").startswith("0.10."):
        return
    # JAX makes an MLIR context for each program, in 4 ms, and keeps it with the program, in 0.5 MB.
    # Here all programs share one, and the lowering of each operation.
    import shared_lowering
    from jax._src import compilation_cache
    from jax._src.interpreters import mlir

    mlir.make_ir_context = cache(mlir.make_ir_context)
    shared_lowering.install()

    # The default level takes three times as long.
    compilation_cache.zlib = SimpleNamespace(
        compress=partial(zlib.compress, level=1), decompress=zlib.decompress
    )

    if FLAGS in os.environ.setdefault("XLA_FLAGS", FLAGS):  # others are added to them
        import small_programs
        import threefry

        threefry.install()
        small_programs.install()
