"""Host-side validation: refuse bad input before anything compiles.

Every function raises a ValueError or TypeError that names the argument, says what was expected
and what came, and how to cure it.
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
    "position",
    "real_array",
    "shape",
    "signature",
    "symmetric_positive_definite",
    "takes",
    "weights",
]
