"""What `fit` is given, checked on the host: program, parameters and data; nothing compiles."""

from typing import Any

import jax
import numpy as np

from lvm_jax import checks, inputs, parallel, support
from lvm_jax.models.base import data_point
from lvm_jax.training.step import Parameters, Program, Transform
from lvm_jax.typing import ArrayLike, Params

TRIED = 4  # rows whose transforms are made, to see whether they are data of the model


def check_program(program: Program) -> None:
    """Refuse what no step could be made of."""
    if (program.estimate is None) == (program.objective is None):
        raise ValueError("estimate: expected an estimator or an objective, exactly one of the two")
    inputs.check_parts(program.model, program.guide)
    checks.integer(program.num_samples, "num_samples", 1)
    parallel.rows_per_process(program.mesh, program.batch_size)
    if program.ema is not None and not 0 < checks.number(program.ema, "ema") < 1:
        raise ValueError(f"ema: expected a decay between 0 and 1, got {program.ema}")
    if not hasattr(program.optimizer, "update"):
        raise TypeError(
            "optimizer: expected one of Optax, such as optax.adam(1e-3), got "
            f"{type(program.optimizer).__name__}"
        )


def check_initial(program: Program, initial: Any) -> Parameters | None:
    """theta and phi to start from, as a pair; refuses any other thing, and one for the other."""
    if initial is None:
        return None
    if not isinstance(initial, tuple | list) or len(initial) != 2:
        raise TypeError(
            f"initial: expected the pair (theta, phi), got {type(initial).__name__}; phi is () "
            "for a guide without parameters"
        )
    try:
        inputs.check_order(program.model, program.guide, *initial)
    except ValueError as error:
        raise ValueError(f"initial: expected (theta, phi), got (phi, theta); {error}") from error
    return Parameters(*initial)


def check_data(program: Program, initial: Parameters | None, x: Any, name: str) -> ArrayLike:
    """The rows as floats [N, ...], a memory map as it is; refuses those that are not the model's.

    With a transform all rows must be finite, and some of them must become data of the model.
    """
    model, guide, transform = program.model, program.guide, program.transform
    theta, phi = initial or jax.eval_shape(
        lambda key: Parameters(model.init(key), guide.init(key)), jax.random.key(0)
    )
    if program.tie is not None:
        theta = jax.eval_shape(program.tie, theta, phi)
    minimum = parallel.rows_per_process(program.mesh, program.batch_size) if name == "x" else 1
    if transform is None:
        rows = inputs.check_data(model, theta, x, name, minimum)
        point = inputs.one_of(rows)
    else:
        rows = inputs.check_rows(x, name, minimum)
        support.check(support.REAL, rows, name)
        point = check_transform(program, theta, transform, rows, name)
    inputs.check_guide(model, guide, theta, phi, point)
    return rows if isinstance(rows, np.memmap) else checks.float_array(rows, name)


def check_transform(
    program: Program, theta: Params, transform: Transform, rows: ArrayLike, name: str
) -> jax.ShapeDtypeStruct:
    """One transformed row, abstractly; refuses a transform that does not make data of the model."""
    raw = inputs.one_of(rows)
    floats = jax.dtypes.canonicalize_dtype(raw.dtype if raw.dtype.kind == "f" else np.float64)
    key, expected = jax.random.key(0), data_point(program.model, theta)
    point = jax.eval_shape(transform, key, jax.ShapeDtypeStruct(raw.shape, floats))
    if point.shape != expected.x.shape:
        raise ValueError(
            f"transform: expected it to make one data point of shape {list(expected.x.shape)} of a "
            f"row of {name}, got {list(point.shape)}"
        )
    for row in np.unique(np.linspace(0, rows.shape[0] - 1, TRIED).astype(int)):
        made = transform(key, jax.numpy.asarray(rows[row], floats))
        support.check(expected.support, made, f"transform({name}[{row}])")
    return point


def check_patience(patience: int | None, validation: ArrayLike | None) -> int | None:
    """Patience needs something to wait for."""
    if patience is None:
        return None
    if validation is None:
        raise ValueError("patience: expected validation data with it, got validation=None")
    return checks.integer(patience, "patience", 1)
