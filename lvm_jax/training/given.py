"""Checks of the arguments of `fit` and `fit_many` on the host, before compilation."""

from typing import Any

import jax
import numpy as np

from lvm_jax import parallel
from lvm_jax._core import checks, inputs, support
from lvm_jax._core.batching import num_rows
from lvm_jax._core.pairs import as_pair, bind, made_of
from lvm_jax._core.recognition import recognized
from lvm_jax.models.base import Joint
from lvm_jax.training.objective import as_objective
from lvm_jax.training.step import Program, Transform
from lvm_jax.typing import ArrayLike, Params

TRIED = 4  # rows that are transformed, to check the support of the result


def prepare(
    model: Any, guide: Any, x: Any, estimate: Any, *rest: Any
) -> tuple[Program, Params | None, Any]:
    """The program, the initial parameters (None for new ones) and the rows, all checked.

    `rest` are the fields of `Program` from num_samples on.
    """
    pair, start = as_pair(model, guide)
    program = Program(pair, as_objective(estimate), *rest)
    check_program(program)
    program = recognized(program)
    minimum = parallel.rows_per_process(program.mesh, program.batch_size)
    return program, start, check_data(program, start, x, "x", minimum)


def check_program(program: Program) -> None:
    """Refuse a program with a missing, unsuitable or out-of-range field."""
    checks.integer(program.num_samples, "num_samples", 1)
    parallel.rows_per_process(program.mesh, program.batch_size)
    if not hasattr(program.optimizer, "update"):
        raise TypeError(
            "optimizer: expected one of Optax, such as optax.adam(1e-3), got "
            f"{type(program.optimizer).__name__}"
        )


def check_data(program: Program, params: Params | None, x: Any, name: str, minimum: int = 1) -> Any:
    """The rows as floats [N, ...], a memory map unchanged; refuses rows outside the support.

    With a transform all rows must be finite, and `TRIED` transformed rows are checked.
    """
    if params is None:
        params = jax.eval_shape(made_of(program.pair).init, jax.random.key(0))
    p, q = bind(program.pair, params)
    if program.transform is None:
        rows = inputs.check_data(p, x, name, minimum)
        point = inputs.one_of(rows)
    else:
        rows = inputs.check_rows(x, name, minimum)
        for leaf in jax.tree.leaves(rows):
            support.check(support.REAL, leaf, name)
        point = check_transform(p, program.transform, rows, name)
    inputs.check_q(p, q, point, "guide")

    def as_float(leaf: ArrayLike) -> ArrayLike:
        return leaf if isinstance(leaf, np.memmap) else checks.float_array(leaf, name)

    return jax.tree.map(as_float, rows)


def check_transform(p: Any, transform: Transform, rows: Any, name: str) -> Any:
    """Shapes of a transformed row; refuses a transform whose rows are not data of the model."""

    def as_float(leaf: ArrayLike) -> Any:
        return jax.dtypes.canonicalize_dtype(leaf.dtype if leaf.dtype.kind == "f" else np.float64)

    key = jax.random.key(0)
    raw = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], as_float(leaf)), rows)
    point = jax.eval_shape(lambda key, row: transform(key, row), key, raw)
    if not isinstance(p, Joint):
        return point
    expected, seen = inputs.check_theta(p, point, f"transform({name})"), p.observed(point)
    shapes = [jax.tree.map(lambda leaf: list(leaf.shape), tree) for tree in (expected.x, seen)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"transform: expected it to make one data point of shape {shapes[0]} of a row of "
            f"{name}, got {shapes[1]}"
        )
    for row in np.unique(np.linspace(0, num_rows(rows) - 1, TRIED).astype(int)):
        given = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[row], as_float(leaf)), rows)  # noqa: B023
        seen = p.observed(transform(key, given))
        for leaf, own in support.of_leaves(expected.support, seen):
            support.check(own, leaf, f"transform({name}[{row}])")
    return point
