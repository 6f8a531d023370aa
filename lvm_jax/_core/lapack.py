"""LAPACK calls of compiled programs on a CPU: batches in pieces, and one BLAS thread.

jaxlib 0.10.0 to 0.11.1 divides a batch of at least WORK operations over XLA's threads, and the
thread that made the call waits for the others. If as many calls as there are threads run at once,
all threads wait and none computes: the process hangs. Two independent triangular solves do this on
a machine with two cores. Later releases use one thread for each call. Here, with those releases, a
large batch is a loop over pieces of less than WORK operations, which take one thread.

JAX calls SciPy's OpenBLAS, whose threads spin for tens of milliseconds after each call and compete
with XLA's threads for the cores. On two cores 5,120 triangular solves of 32 x 32 take 0.05 s with
one BLAS thread, and 4.6 s with two while other processes run.
"""

from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from functools import lru_cache, partial, wraps
from importlib.metadata import version
from math import prod
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax._src.lax import linalg  # geqrf_p is not public
from jax.interpreters import mlir

from lvm_jax.typing import Array

WORK = 200_000
# An upper limit of the operations per matrix, in units of its size times its columns.
COSTS = {
    "cholesky_p": 1,
    "triangular_solve_p": 1,
    "lu_p": 1,
    "geqrf_p": 4,
    "householder_product_p": 8,
    "eigh_p": 10,
    "svd_p": 20,
}


def affected(release: str) -> bool:
    """Whether this release of jaxlib divides batches over threads."""
    numbers = tuple(int(part) for part in release.split(".")[:3] if part.isdigit())
    return (0, 10, 0) <= numbers < (0, 11, 2)


def install() -> None:
    """Give the primitives lowering rules that note the call and make pieces, once in a process."""
    rules = getattr(mlir, "_platform_specific_lowerings", {}).get("cpu", {})  # not public in JAX
    divides = affected(version("jaxlib"))
    for name, cost in COSTS.items():
        primitive: Any = getattr(linalg, name, None)
        rule = rules[primitive].rule if primitive in rules else None
        if rule is not None and getattr(rule, "func", None) is not lower:
            new = partial(lower, primitive, cost if divides else 0, rule)
            mlir.register_lowering(primitive, new, platform="cpu")


@lru_cache
def blas() -> Any:
    """The BLAS libraries of this process; cached, because listing them takes milliseconds."""
    import scipy.linalg.cython_lapack  # noqa: F401 - loads the OpenBLAS that JAX calls
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def with_one_blas_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose results are ready when it returns, with one BLAS thread."""

    @wraps(function)
    def call(*args: Any) -> Any:
        with blas().limit(limits=1, user_api="blas"):
            return jax.block_until_ready(function(*args))

    return call


class Watch:
    """Whether the programs that are compiled inside it call LAPACK; they run with one BLAS thread.

    with Watch() as watch:
        value = jitted(*args)  # compiles
    watch.calls  # -> True or False
    """

    calls = False
    current: "ContextVar[Watch | None]" = ContextVar("watch", default=None)

    def __enter__(self) -> Self:
        self.stack, self.token = ExitStack(), self.current.set(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self.current.reset(self.token)
        self.stack.close()

    def note(self) -> None:
        """A program that is being compiled calls LAPACK."""
        if not self.calls:
            self.calls = True
            self.stack.enter_context(blas().limit(limits=1, user_api="blas"))


def lower(
    primitive: Any, cost: int, rule: Callable[..., Any], context: Any, *operands: Any, **params: Any
) -> Any:
    """The lowering of one call: `rule` for a small batch, a loop over pieces for a large one."""
    if (watch := Watch.current.get()) is not None:
        watch.note()
    first = context.avals_in[0]
    rank, columns = first.ndim - 2, first.shape[-1]
    size = max(prod(operand.shape[rank:]) for operand in context.avals_in)
    each = cost * size * columns * (3 if jnp.issubdtype(first.dtype, jnp.complexfloating) else 1)
    count = max(WORK // max(each, 1), 1)
    if prod(first.shape[:rank]) <= count:
        return rule(context, *operands, **params)
    call = partial(pieces, primitive, params, rank, count)
    return mlir.lower_fun(call, multiple_results=primitive.multiple_results)(context, *operands)


def pieces(primitive: Any, params: dict[str, Any], rank: int, count: int, *operands: Array) -> Any:
    """The results of a primitive on a batch of `rank` axes, `count` matrices at a time."""
    batch = operands[0].shape[:rank]
    flat = [x.reshape(-1, *x.shape[rank:]) for x in operands]
    whole = len(flat[0]) // count * count

    def call(xs: list[Array]) -> Any:
        return primitive.bind(*xs, **params)

    looped = jax.lax.map(call, [x[:whole].reshape(-1, count, *x.shape[1:]) for x in flat])
    out = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), looped)
    if whole < len(flat[0]):
        last = call([x[whole:] for x in flat])
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, last)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), out)
