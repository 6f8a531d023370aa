"""Validation of trees: p and q are pytrees, and two latents have equal structure."""

from typing import Any

import jax
import jax.numpy as jnp

LONGEST = 160  # characters of an outline in a message
CURES = {"p": "make its class a NamedTuple of its parameters", "q": "use a guide, guide(phi)"}


class NoTree(TypeError):
    """p or q is a function or an instance of a plain class, and not a pytree."""


def check_trees(pair: Any) -> Any:
    """Return (p, q); NoTree if either is a function or an unregistered object."""
    for name, value in zip(CURES, pair if isinstance(pair, tuple) else (), strict=False):
        if callable(getattr(value, "log_joint", value)) and jax.tree_util.all_leaves([value]):
            raise NoTree(
                f"{name}: expected a pytree, got a {type(value).__name__}, which jax.jit does not "
                f"take; {CURES[name]}, or register it by jax.tree_util.register_dataclass"
            )
    return pair


def differences(expected: Any, got: Any) -> tuple[str, Any, Any] | None:
    """The first difference of two latents in structure, shape or kind of number, or None.

    It is the name of the part, "z" or e.g. "z['y']", and the outline of this part in both.
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


def outline(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """The structure and shapes of parameters."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [tuple(jnp.shape(leaf)) for leaf in leaves]


def shortened(outlined: tuple[Any, Any]) -> str:
    """An outline as text of at most LONGEST characters."""
    structure, shapes = outlined
    text = str(jax.tree.unflatten(structure, [list(shape) for shape in shapes]))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
