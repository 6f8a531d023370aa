"""A check that p and q are pytrees, which compiled functions take as arguments."""

from typing import Any

import jax

CURES = {"p": "make its class a NamedTuple of its parameters", "q": "use a guide, guide(phi)"}


class NoTree(TypeError):
    """A p or a q that is a function, or an instance of a plain class."""


def check_trees(pair: Any) -> Any:
    """(p, q) as it is, where neither is a single leaf that is no array."""
    for name, value in zip(CURES, pair if isinstance(pair, tuple) else (), strict=False):
        if callable(getattr(value, "log_joint", value)) and jax.tree_util.all_leaves([value]):
            raise NoTree(
                f"{name}: expected a pytree, got a {type(value).__name__}, which jax.jit does not "
                f"take; {CURES[name]}, or register it by jax.tree_util.register_dataclass"
            )
    return pair
