"""Validation of arguments on the host, before compilation.

Each function raises a ValueError or TypeError with the argument's name, the expectation, the actual
value and a cure.
"""

from lvm_jax._core.checks.arguments import (
    choice,
    distribution,
    host,
    integer,
    key,
    level,
    number,
    signature,
    takes,
)
from lvm_jax._core.checks.arrays import (
    blocks,
    distinct_rows,
    finite,
    float_array,
    one_point,
    one_value,
    place,
    points,
    points_or_nan,
    position,
    real_array,
    shape,
    symmetric_positive_definite,
    weights,
)

__all__ = [
    "blocks",
    "choice",
    "distinct_rows",
    "distribution",
    "finite",
    "float_array",
    "host",
    "integer",
    "key",
    "level",
    "number",
    "one_point",
    "one_value",
    "place",
    "points",
    "points_or_nan",
    "position",
    "real_array",
    "shape",
    "signature",
    "symmetric_positive_definite",
    "takes",
    "weights",
]
