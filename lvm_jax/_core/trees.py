"""Checks of trees: p and q are pytrees, and two latents are alike."""

from typing import Any

import jax
import jax.numpy as jnp

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


def differences(expected: Any, got: Any) -> tuple[str, Any, Any] | None:
    """Where two latents differ in structure, shape or kind of number: the part, and both there.

    The part is "z", or one such as "z['y']"; None where they are alike.
    """
    kinds = [
        jax.tree.map(lambda leaf: f"{jnp.result_type(leaf).kind}{list(jnp.shape(leaf))}", tree)
        for tree in (expected, got)
    ]
    structures: list[Any] = [jax.tree.structure(tree) for tree in kinds]
    if structures[0] != structures[1]:
        return "z", *kinds
    leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in kinds]
    for (path, one), (_, other) in zip(*leaves, strict=True):
        if one != other:
            return f"z{jax.tree_util.keystr(path)}", one, other
    return None
