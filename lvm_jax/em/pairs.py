"""Double-word arithmetic: numbers as sums of a rounded float and its rounding error."""

from typing import Any

import jax

from lvm_jax.typing import Array


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and its exact rounding error (Knuth 1969, section 4.2.2, theorem B)."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


def move(high: Array, low: Array, change: Array) -> tuple[Array, Array]:
    """The pair of high + low + change."""
    high, lost = two_sum(high, change)
    return two_sum(high, low + lost)


def compensated_add(carry: tuple[Any, Any], value: Any) -> tuple[Any, Any]:
    """Kahan summation of a pytree, so that rounding errors of many float32 chunks do not grow."""

    def one(total: Array, lost: Array, term: Array) -> tuple[Array, Array]:
        term = term - lost
        new = total + term
        return new, (new - total) - term

    pairs = jax.tree.map(one, *carry, value)
    return jax.tree.transpose(jax.tree.structure(value), jax.tree.structure((0, 0)), pairs)
