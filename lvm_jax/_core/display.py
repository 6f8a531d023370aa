"""How results print: numbers with their errors."""

import math
from typing import Any

import jax
import numpy as np


def is_concrete(values: tuple[Any, ...]) -> bool:
    """Whether every value is a number or an array of numbers, and none is traced or a pytree."""
    arrays = (int, float, np.generic, np.ndarray, jax.Array)
    return all(
        isinstance(value, arrays) and not isinstance(value, jax.core.Tracer) for value in values
    )


def is_number(value: Any) -> bool:
    """Whether a concrete value has no axis."""
    return is_concrete((value,)) and np.ndim(value) == 0


def with_error(value: Any, standard_error: Any) -> str:
    """`value ± standard_error`, the error with two significant digits."""
    value, error = float(value), float(standard_error)
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g} ± {error:g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def by_field(result: Any) -> str:
    """The representation of a NamedTuple with its fields."""
    fields = (f"{name}={getattr(result, name)!r}" for name in result._fields)
    return f"{type(result).__name__}({', '.join(fields)})"
